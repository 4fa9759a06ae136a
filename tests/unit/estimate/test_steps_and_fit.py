"""Steps and tokens are those of training; the verdict compares with what is there."""

from __future__ import annotations

import importlib.util
import json

import pytest
from training import VALUES, changed, conversations, lay_out
from typer.testing import CliRunner

from tuneyard.cli.main import app
from tuneyard.errors import InvalidDataError, InvalidValuesError, NotFoundError
from tuneyard.estimate import Estimate, estimate, fits_here
from tuneyard.store import open_store
from tuneyard.values import FinetuneValues


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lab") / "store"
    lay_out(folder)
    return folder


def told(store, **changes):
    return estimate(FinetuneValues.model_validate(changed(VALUES, **changes)), open_store(store.as_uri()))


def test_rows_and_steps_leave_out_what_is_split_off(store):
    work = told(store).work
    assert (work.rows, work.steps, work.exact) == (20, 10, True)


def test_max_steps_win_over_epochs(store):
    assert told(store, **{"finetuning_config.training_args.max_steps": 3}).work.steps == 3


def test_data_that_is_not_delivered_is_taken_at_its_longest_and_said(store):
    datasets = "finetuning_config.data_conf.training_data.datasets"
    found = told(store, **{datasets: [{"path": "default-bucket/datasets/none.jsonl"}]})
    assert (found.work.steps, found.work.longest, found.seconds) == (None, 2 * 256, None)
    assert any("not delivered" in note for note in found.notes)


def test_a_model_that_is_not_delivered_is_not_found(store):
    with pytest.raises(NotFoundError, match="is not in"):
        told(store, basemodel="default-bucket/models/none")


REFUSED = {
    "distributedType": "auto-deepspeed-stage3",
    "finetuning_config.peft_conf.peft_type": "LOHA",
    "finetuning_config.training_args.auto_find_batch_size": True,
}


@pytest.mark.parametrize("key", REFUSED)
def test_what_training_refuses_is_refused_by_name_before_a_store_is_looked_into(key, tmp_path):
    values = FinetuneValues.model_validate(changed(VALUES, **{key: REFUSED[key]}))
    with pytest.raises(InvalidValuesError, match="not train") as raised:
        estimate(values, open_store((tmp_path / "nothing").as_uri()))
    assert [problem.where for problem in raised.value.problems] == [key]


@pytest.mark.skipif(importlib.util.find_spec("bitsandbytes") is not None, reason="bitsandbytes is installed")
def test_quantization_without_bitsandbytes_is_refused_by_name_where_it_would_be_trained(store):
    key = "finetuning_config.quant_conf"
    conf = {"quantization_type": "bits-and-bytes", "load_in_8bit": True}
    values = FinetuneValues.model_validate(changed(VALUES, **{key: conf}))
    with pytest.raises(InvalidValuesError, match="not train") as raised:
        estimate(values, open_store(store.as_uri()))
    (problem,) = raised.value.problems
    assert problem.where == f"{key}.quantization_type"
    assert "bitsandbytes, which is not installed" in problem.what
    assert estimate(values, open_store(store.as_uri()), here=False).work.steps


def test_what_only_the_place_of_training_lacks_is_refused_there_alone(store):
    secret = {"env": {"WANDB_API_KEY": {"name": "wandb", "key": "token"}}}
    values = FinetuneValues.model_validate(changed(VALUES, **secret))
    with pytest.raises(InvalidValuesError, match="not train"):
        estimate(values, open_store(store.as_uri()))
    assert estimate(values, open_store(store.as_uri()), here=False).trained


def test_data_that_training_refuses_is_refused(tmp_path):
    row = {"messages": [{"role": "user", "content": "What is a yard?"}]}
    lay_out(tmp_path / "store", rows=[row, *conversations(3)])
    with pytest.raises(InvalidDataError, match="nothing to learn"):
        told(tmp_path / "store")


def test_what_is_computed_another_way_is_a_note(store):
    notes = told(store, distributedType="auto-deepspeed-stage1").notes
    assert any("trained data parallel" in note for note in notes)


def test_an_estimate_comes_back_from_its_own_json(store):
    found = told(store)
    assert Estimate.of(json.loads(json.dumps(found.to_json()))) == found


def test_more_than_the_machine_has_never_fits_and_what_to_do_is_told():
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


def test_what_can_never_fit_this_machine_is_told_in_full_and_is_exit_3(store, tmp_path):
    longest = {"finetuning_config.sft_args.max_seq_length": 10**9}
    datasets = {"finetuning_config.data_conf.training_data.datasets": [{"path": "default-bucket/datasets/none.jsonl"}]}
    values = tmp_path / "values.json"
    values.write_text(json.dumps(changed(VALUES, **longest, **datasets)))
    shown = CliRunner().invoke(app, ["plan", "-f", str(values), "--store", store.as_uri(), "--json"])
    assert isinstance(shown.exception, InvalidValuesError)  # exit 3, by the table of the command line's edge
    assert shown.exception.message.startswith("It does not fit: it needs ")
    assert "max_per_device_train_batch_size" in shown.exception.hint
    assert json.loads(shown.stdout)["verdict"]["fits"] == "never"
