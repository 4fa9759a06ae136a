"""Two processes with different numbers of trained tokens: `average_tokens_across_devices` decides what a token weighs.

Takes two trainings of two processes each, since nothing less has more than one count.
"""

import pytest

from lab.training import ARGUMENTS, changed, deliver_inputs, metrics, train

LONG = {"role": "assistant", "content": "yard boat model data " * 10}
ROWS = [
    {"messages": [{"role": "user", "content": "yard"}, answer]}
    for answer in (LONG, {"role": "assistant", "content": "boat"})
]
ONE_STEP = {
    "eval_strategy": "no",
    "save_strategy": "no",
    "max_steps": 1,
    "logging_steps": 1,
    "train_sampling_strategy": "sequential",
}


def test_a_step_is_the_mean_over_its_tokens_or_over_its_processes(tmp_path):
    deliver_inputs(tmp_path / "store", rows=ROWS)
    norms = {}
    for across in (True, False):
        remote = f"default-bucket/experiments/{across}"
        arguments = {**ONE_STEP, "average_tokens_across_devices": across}
        values = changed(
            checkpointsRemote=remote,
            finetuningGpus=2,
            **{
                "finetuning_config.batchsize_conf.total_train_batch_size": 2,
                "finetuning_config.data_conf.validation_data": {"type": "NONE"},
                **{ARGUMENTS + name: value for name, value in arguments.items()},
            },
        )
        train(values, tmp_path / "store", tmp_path / f"work-{across}")
        (row,) = [row for row in metrics(tmp_path / "store", remote) if row["kind"] == "train"]
        norms[across] = row["grad_norm"]
    assert norms[True] != pytest.approx(norms[False], rel=1e-3)
