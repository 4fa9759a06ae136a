"""Early stopping when evaluations no longer improve, with interruptions before."""

import json

import pytest

from lab.training import (
    ARGUMENTS,
    REMOTE,
    changed,
    deliver_inputs,
    final_sha256,
    killed_and_resumed,
    metrics,
    train_here,
)

PATIENCE = "finetuning_config.early_stopping"
# the loss can't get better by 100 in any evaluation, so each after the first one counts
EARLY = {
    PATIENCE: {"early_stopping_patience": 3, "early_stopping_threshold": 100.0},
    ARGUMENTS + "metric_for_best_model": "loss",
    ARGUMENTS + "load_best_model_at_end": True,
    ARGUMENTS + "num_train_epochs": 4,
    ARGUMENTS + "eval_steps": 2,
    ARGUMENTS + "save_total_limit": None,
}


def evaluated(store):
    return [row["step"] for row in metrics(store) if row["kind"] == "eval"]


def test_evaluations_counted_before_a_kill_count_after_it(tmp_path):
    deliver_inputs(tmp_path / "store")
    # killed with one evaluation without a better one; without it, there would be a fifth evaluation
    killed_and_resumed(changed(**EARLY), tmp_path / "store", tmp_path, kill_at=5)
    assert evaluated(tmp_path / "store") == [2, 4, 6, 8]
    assert (summary := metrics(tmp_path / "store")[-1])["kind"] == "summary"
    assert (summary["step"], summary["max_steps"]) == (8, 20)


def test_an_unpublished_training_that_ended_early_trains_no_further_step(tmp_path):
    store = tmp_path / "store"
    deliver_inputs(store)
    train_here(changed(**EARLY), store, tmp_path / "work")
    whole = metrics(store), final_sha256(store)
    for path in sorted((store / REMOTE / "checkpoint-final").iterdir()):
        path.unlink()
    train_here(changed(**EARLY), store, tmp_path / "again")
    assert json.loads((store / REMOTE / "HEAD").read_text())["attempt"] == 2
    assert (metrics(store), final_sha256(store)) == whole


@pytest.mark.parametrize("bits", ["load_in_4bit", "load_in_8bit"])
def test_an_adapter_on_quantized_weights_is_resumed_bit_for_bit(bits, tmp_path):
    pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")
    deliver_inputs(tmp_path / "store")
    quantized = {"quantization_type": "bits-and-bytes", bits: True, "bnb_4bit_compute_dtype": "float32"}
    values = changed(
        **{
            "finetuning_config.quant_conf": quantized,
            ARGUMENTS + "num_train_epochs": 1,
            ARGUMENTS + "eval_strategy": "no",  # on a CPU, bitsandbytes packs 4-bit weights anew for an evaluation
        }
    )
    killed_and_resumed(values, tmp_path / "store", tmp_path, kill_at=4)
