"""Full finetuning with weights sharded over two processes on the CPU, by name or by accelerate's config."""

import shutil
import signal

import pytest

from lab.training import ARGUMENTS, REMOTE, changed, deliver_inputs, final_sha256, metrics, start, train, until_step
from tuneyard.errors import InvalidValuesError
from tuneyard.job.supported import refuse_unsupported
from tuneyard.values import FinetuneValues

CONF = "finetuning_config.peft_conf"
WHOLE = {CONF: {"peft_type": "NO_PEFT"}, ARGUMENTS + "learning_rate": 1e-3, ARGUMENTS + "logging_steps": 1}
CONFIG = {
    "compute_environment": "LOCAL_MACHINE",
    "distributed_type": "FSDP",
    "fsdp_config": {"fsdp_version": 2, "fsdp_reshard_after_forward": True, "fsdp_state_dict_type": "FULL_STATE_DICT"},
    "mixed_precision": "no",
    "num_machines": 1,
    "num_processes": 2,
}
CUSTOM = {"distributedType": "custom-accelerate-config", "customAccelerateConfig": CONFIG}


def losses(store, remote):
    rows = metrics(store, remote)
    return [row["loss"] for row in rows if row["kind"] == "train"] + [
        row["eval_loss"] for row in rows if row["kind"] == "eval"
    ]


def test_sharded_training_has_the_losses_of_one_process_and_publishes_a_whole_model(tmp_path):
    deliver_inputs(tmp_path / "store")
    ways = {"one": {}, "shares": {**CUSTOM, "finetuningGpus": 2}}
    for name, way in ways.items():
        values = changed(checkpointsRemote=f"{REMOTE}-{name}", **WHOLE, **way)
        train(values, tmp_path / "store", tmp_path / name)
    one, shares = (losses(tmp_path / "store", f"{REMOTE}-{name}") for name in ways)
    assert len(one) == 13
    assert shares == pytest.approx(one, abs=1e-5, rel=0)
    from transformers import AutoModelForCausalLM

    models = [
        AutoModelForCausalLM.from_pretrained(tmp_path / "store" / f"{REMOTE}-{name}" / "checkpoint-final").state_dict()
        for name in ways
    ]
    assert models[0].keys() == models[1].keys()
    for name, weight in models[0].items():
        assert (weight - models[1][name]).abs().max() < 1e-4, name


@pytest.mark.soak
def test_a_killed_sharded_training_resumes_bit_for_bit(tmp_path):
    store = tmp_path / "store"
    deliver_inputs(store)
    values = changed(distributedType="auto-fsdp", finetuningGpus=2, **{**WHOLE, ARGUMENTS + "num_train_epochs": 12})
    train(values, store, tmp_path / "whole")
    whole = metrics(store), final_sha256(store)
    shutil.rmtree(store / REMOTE)
    process = start(values, store, tmp_path / "killed")
    until_step(process, tmp_path / "killed", 9)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    shutil.rmtree(tmp_path / "killed")
    assert "resuming from step" in train(values, store, tmp_path / "resumed")
    assert (metrics(store), final_sha256(store)) == whole


@pytest.mark.soak
@pytest.mark.parametrize("shared_first", [True, False])
def test_a_run_resumes_with_and_without_shards(shared_first, tmp_path):
    store = tmp_path / "store"
    deliver_inputs(store)
    long = {**WHOLE, ARGUMENTS + "num_train_epochs": 12, ARGUMENTS + "eval_steps": 60}
    train(changed(**long), store, tmp_path / "whole")
    whole = losses(store, REMOTE)
    shutil.rmtree(store / REMOTE)
    ways = [{"distributedType": "auto-fsdp", "finetuningGpus": 2}, {}]
    first, then = ways if shared_first else reversed(ways)
    process = start(changed(**long, **first), store, tmp_path / "first")
    until_step(process, tmp_path / "first", 9)
    process.send_signal(signal.SIGTERM)
    assert process.communicate(timeout=120) and process.returncode == 143
    assert "resuming from step" in train(changed(**long, **then), store, tmp_path / "then")
    assert losses(store, REMOTE) == pytest.approx(whole, abs=1e-4, rel=0)


REFUSED = {
    "distributedType": ({"distributedType": "auto-deepspeed-stage3"}, "is not supported by this version"),
    f"{CONF}.peft_type": ({"distributedType": "auto-fsdp", CONF: {"peft_type": "LORA"}}, "with sharded weights"),
    "finetuning_config.method": (
        {"distributedType": "auto-fsdp", "finetuning_config.method": "dpo", "finetuning_config.sft_args": None},
        "with sharded weights",
    ),
    "nodes": ({"distributedType": "auto-fsdp", "nodes": 2, "finetuningGpus": 1}, "can't shard the weights"),
    "customAccelerateConfig.distributed_type": (
        {**CUSTOM, "customAccelerateConfig": {"distributed_type": "DEEPSPEED"}},
        "is not supported by this version",
    ),
    "customAccelerateConfig.num_processes": (
        {**CUSTOM, "customAccelerateConfig": {**CONFIG, "num_processes": 8}},
        "contradicts the other values",
    ),
    "customAccelerateConfig.dynamo_config": (
        {**CUSTOM, "customAccelerateConfig": {**CONFIG, "dynamo_config": {"dynamo_backend": "INDUCTOR"}}},
        "is not supported by this version",
    ),
    "customAccelerateConfig.fsdp_config.fsdp_version": (
        {**CUSTOM, "customAccelerateConfig": {**CONFIG, "fsdp_config": {"fsdp_version": 1}}},
        "is not supported by this version",
    ),
    "customAccelerateConfig.fsdp_config.fsdp_offload_params": (
        {**CUSTOM, "customAccelerateConfig": {**CONFIG, "fsdp_config": {"fsdp_offload_params": True}}},
        "is not supported by this version",
    ),
}


@pytest.mark.parametrize("key", REFUSED)
def test_values_that_can_not_be_sharded_are_refused_by_name(key):
    changes, words = REFUSED[key]
    values = FinetuneValues.model_validate(changed(**{**WHOLE, "finetuningGpus": 2, **changes}))
    with pytest.raises(InvalidValuesError) as caught:
        refuse_unsupported(values, print)
    (problem,) = caught.value.problems
    assert problem.where == key
    assert words in problem.what


def test_a_config_of_plain_data_parallel_training_is_accepted():
    config = {"distributed_type": "MULTI_GPU", "num_processes": 2, "main_training_function": "main"}
    values = {"distributedType": "custom-accelerate-config", "customAccelerateConfig": config, "finetuningGpus": 2}
    refuse_unsupported(FinetuneValues.model_validate(changed(**values)), print)
