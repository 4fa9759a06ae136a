"""Steps and tokens are those of training; the verdict compares with the machine's memory."""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys

import pytest
from typer.testing import CliRunner

from lab.training import MODEL, VALUES, changed, conversations, deliver_inputs
from tuneyard.cli.main import app
from tuneyard.errors import InvalidDataError, InvalidValuesError, NotFoundError
from tuneyard.estimate import Estimate, estimate, fits_here
from tuneyard.estimate.work import seconds_of
from tuneyard.store import open_store
from tuneyard.values import FinetuneValues


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lab") / "store"
    deliver_inputs(folder)
    return folder


def estimated(store, **changes):
    return estimate(FinetuneValues.model_validate(changed(VALUES, **changes)), open_store(store.as_uri()))


def test_rows_and_steps_exclude_validation(store):
    work = estimated(store).work
    assert (work.rows, work.steps, work.exact) == (20, 10, True)


def test_max_steps_win_over_epochs(store):
    assert estimated(store, **{"finetuning_config.training_args.max_steps": 3}).work.steps == 3


def test_missing_data_is_assumed_at_maximum_length_with_a_note(store):
    datasets = "finetuning_config.data_conf.training_data.datasets"
    found = estimated(store, **{datasets: [{"path": "default-bucket/datasets/none.jsonl"}]})
    assert (found.work.steps, found.work.longest, found.seconds) == (None, 2 * 256, None)
    assert any("not delivered" in note for note in found.notes)


def test_a_model_that_is_not_delivered_is_not_found(store):
    with pytest.raises(NotFoundError, match="There is no model at"):
        estimated(store, basemodel="default-bucket/models/none")


REFUSED = {
    "distributedType": "auto-deepspeed-stage3",
    "finetuning_config.peft_conf.peft_type": "LOHA",
    "finetuning_config.training_args.auto_find_batch_size": True,
}


@pytest.mark.parametrize("key", REFUSED)
def test_values_that_training_refuses_are_refused_before_the_store_is_read(key, tmp_path):
    values = FinetuneValues.model_validate(changed(VALUES, **{key: REFUSED[key]}))
    with pytest.raises(InvalidValuesError, match="not supported by this version") as raised:
        estimate(values, open_store((tmp_path / "nothing").as_uri()))
    assert [problem.where for problem in raised.value.problems] == [key]


@pytest.mark.skipif(importlib.util.find_spec("bitsandbytes") is not None, reason="bitsandbytes is installed")
def test_quantization_without_bitsandbytes_is_refused_in_the_environment_of_the_training(store):
    key = "finetuning_config.quant_conf"
    conf = {"quantization_type": "bits-and-bytes", "load_in_8bit": True}
    values = FinetuneValues.model_validate(changed(VALUES, **{key: conf}))
    with pytest.raises(InvalidValuesError, match="not supported by this version") as raised:
        estimate(values, open_store(store.as_uri()))
    (problem,) = raised.value.problems
    assert problem.where == f"{key}.quantization_type"
    assert "bitsandbytes, which is not installed" in problem.what
    assert estimate(values, open_store(store.as_uri()), here=False).work.steps


def test_a_missing_package_is_refused_only_in_the_environment_of_the_training(store):
    secret = {"env": {"WANDB_API_KEY": {"name": "wandb", "key": "token"}}}
    values = FinetuneValues.model_validate(changed(VALUES, **secret))
    with pytest.raises(InvalidValuesError, match="not supported by this version"):
        estimate(values, open_store(store.as_uri()))
    assert estimate(values, open_store(store.as_uri()), here=False).trained


def test_data_that_training_refuses_is_refused(tmp_path):
    row = {"messages": [{"role": "user", "content": "What is a yard?"}]}
    deliver_inputs(tmp_path / "store", rows=[row, *conversations(3)])
    with pytest.raises(InvalidDataError, match="nothing to train on"):
        estimated(tmp_path / "store")


def test_an_equivalent_computation_is_a_note(store):
    notes = estimated(store, distributedType="auto-deepspeed-stage1").notes
    assert any("trained with data parallelism" in note for note in notes)


@pytest.mark.parametrize(
    ("resource", "processes", "seconds"),
    [
        ("", 1, 6e12 / (0.6 * 1e10)),
        ("nvidia.com/gpu", 1, 6e12 / (0.35 * 0.99e15)),
        ("nvidia.com/gpu", 4, 6e12 / (0.35 * 0.99e15 * 4)),
        ("amd.com/gpu", 1, 6e12 / (0.35 * 1.3e15)),
        ("example.com/gpu", 1, 6e12 / (0.35 * 2e14)),
    ],
)
def test_seconds_are_operations_over_a_share_of_the_speed(resource, processes, seconds):
    batch = {"finetuning_config.batchsize_conf.total_train_batch_size": 4 * processes}
    values = changed(VALUES, gpuResource=resource, finetuningGpus=processes, **batch)
    found, how = seconds_of(FinetuneValues.model_validate(values), 6e12, measure=lambda: 1e10)
    assert found == pytest.approx(seconds)
    assert how.startswith("6.00e+12 operations at ")


def test_the_operations_of_a_run_are_those_of_its_tokens(store):
    import torch
    from peft import LoraConfig, get_peft_model
    from torch.utils.flop_counter import FlopCounterMode
    from transformers import AutoModelForCausalLM

    found = estimated(store)
    tokens, targets = (
        round(each / found.work.rows) for each in (found.work.tokens_per_epoch, found.work.trained_tokens_per_epoch)
    )
    kwargs = VALUES["finetuning_config"]["peft_conf"]["peft_kwargs"]
    base = AutoModelForCausalLM.from_pretrained(store / MODEL, attn_implementation="eager")
    model = get_peft_model(base, LoraConfig(task_type="CAUSAL_LM", **kwargs))
    with FlopCounterMode(display=False) as counter:
        ids = torch.full((1, tokens), 7)
        model(input_ids=ids, logits_to_keep=torch.arange(targets)).logits.sum().backward()
    epochs = VALUES["finetuning_config"]["training_args"]["num_train_epochs"]
    expected = counter.get_total_flops() / tokens * found.work.tokens_per_epoch * epochs
    # Those of the longest rows count for all, so attention a little too much.
    assert float(found.how.partition(" ")[0]) == pytest.approx(expected, rel=0.25)


def test_uncounted_memory_is_a_note(store):
    values = changed(VALUES, **{"finetuning_config.training_args.optim": "grokadamw"})
    notes = estimate(FinetuneValues.model_validate(values), open_store(store.as_uri()), here=False).notes
    assert any("what 'grokadamw' keeps is not known" in note for note in notes)
    values = changed(
        VALUES, **{"finetuning_config.quant_conf": {"quantization_type": "bits-and-bytes", "load_in_4bit": True}}
    )
    notes = estimate(FinetuneValues.model_validate(values), open_store(store.as_uri()), here=False).notes
    assert any("quantized weights take less" in note for note in notes)


def test_weights_are_counted_in_the_type_that_training_holds(tmp_path):
    import torch
    from transformers import AutoModelForCausalLM

    deliver_inputs(tmp_path / "first")
    half = AutoModelForCausalLM.from_pretrained(tmp_path / "first" / MODEL, dtype=torch.bfloat16)
    shutil.copytree(tmp_path / "first" / MODEL, tmp_path / "half", ignore=shutil.ignore_patterns(".tuneyard"))
    half.save_pretrained(tmp_path / "half")
    deliver_inputs(tmp_path / "store", folder=tmp_path / "half")
    whole = {"finetuning_config.peft_conf": {"peft_type": "NO_PEFT"}}
    found = estimated(tmp_path / "store", **whole)
    assert found.memory.weights >= 4 * found.parameters
    assert found.memory.optimizer >= 8 * found.parameters
    assert any("trained weights are float32" in note for note in found.notes)
    kept = estimated(tmp_path / "store", **whole, **{"finetuning_config.run_conf.trained_weights": "as-loaded"})
    assert kept.memory.weights < 3 * found.parameters
    assert kept.memory.optimizer < 8 * found.parameters
    assert (found.disk.final, found.disk.checkpoint) == (2 * found.parameters, 12 * found.parameters)


def test_without_torch_a_plan_names_what_to_install(store, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    values = tmp_path / "values.json"
    values.write_text(json.dumps(VALUES))
    shown = CliRunner().invoke(app, ["plan", "-f", str(values), "--store", store.as_uri()])
    assert isinstance(shown.exception, NotFoundError)
    assert "needs torch and transformers" in shown.exception.message
    assert shown.exception.hint == 'Install them: pip install "tuneyard[train]"'


def test_an_estimate_survives_a_round_trip_through_json(store):
    found = estimated(store)
    assert Estimate.of(json.loads(json.dumps(found.to_json()))) == found


def test_more_memory_than_the_machine_has_never_fits_and_gets_a_hint():
    never = fits_here(2**60, accelerators=False)
    assert (never.fits, "max_per_device_train_batch_size" in never.hint) == ("never", True)
    assert fits_here(2**20, accelerators=False).fits == "yes"
    assert fits_here(2**60, accelerators=True).fits == "unknown"


def test_the_command_prints_a_table_within_80_columns_and_json(store, tmp_path):
    values = tmp_path / "values.json"
    values.write_text(json.dumps(VALUES))
    shown = CliRunner().invoke(app, ["plan", "-f", str(values), "--store", store.as_uri()])
    assert shown.exit_code == 0, shown.output
    assert "peak, in the" in shown.stdout and "It fits: it needs" in shown.stdout
    assert max(map(len, shown.stdout.splitlines())) <= 80, shown.stdout
    printed = CliRunner().invoke(app, ["plan", "-f", str(values), "--store", store.as_uri(), "--json"])
    document = json.loads(printed.stdout)
    memory = document["estimate"]["memory"]
    assert memory["total"] == sum(size for part, size in memory.items() if part not in ("total", "moment"))
    assert document["verdict"]["fits"] == "yes"


def test_a_run_that_never_fits_is_reported_in_full_with_exit_3(store, tmp_path):
    longest = {"finetuning_config.sft_args.max_seq_length": 10**9}
    datasets = {"finetuning_config.data_conf.training_data.datasets": [{"path": "default-bucket/datasets/none.jsonl"}]}
    values = tmp_path / "values.json"
    values.write_text(json.dumps(changed(VALUES, **longest, **datasets)))
    shown = CliRunner().invoke(app, ["plan", "-f", str(values), "--store", store.as_uri(), "--json"])
    assert isinstance(shown.exception, InvalidValuesError)  # exit 3, by the table of the command line's edge
    assert shown.exception.message.startswith("It does not fit: it needs ")
    assert "max_per_device_train_batch_size" in shown.exception.hint
    assert json.loads(shown.stdout)["verdict"]["fits"] == "never"
