"""What a run may choose its best checkpoint by is exactly what its evaluations measure."""

from __future__ import annotations

import pytest

from lab.training import ARGUMENTS, REMOTE, changed, conversations, deliver_inputs, metrics, preferences, train_here
from tuneyard.values.finetuning import METRICS

ROWS = {"sft": conversations(12), "dpo": preferences(12)}
COUNTS = {"tokens", "pairs"}
METHOD = "finetuning_config.method"
SFT_ARGS = "finetuning_config.sft_args"


def values(method, **more):
    given = {METHOD: method, SFT_ARGS: None, ARGUMENTS + "max_steps": 2, ARGUMENTS + "eval_steps": 1}
    return changed(**given, **more)


@pytest.mark.parametrize("method", METRICS)
def test_metrics_are_those_of_an_evaluation(method, tmp_path):
    deliver_inputs(tmp_path / "store", rows=ROWS[method])
    train_here(values(method), tmp_path / "store", tmp_path / "work")
    (row, *_) = [row for row in metrics(tmp_path / "store") if row["kind"] == "eval"]  # without what a clock measures
    measured = {name.removeprefix("eval_") for name in row if name.startswith("eval_")}
    assert measured - COUNTS == set(METRICS[method])


@pytest.mark.parametrize(("method", "name"), [("sft", "eval_loss"), *(("dpo", name) for name in METRICS["dpo"])])
def test_each_metric_chooses_a_best_checkpoint(method, name, tmp_path):
    deliver_inputs(tmp_path / "store", rows=ROWS[method])
    best = {ARGUMENTS + "metric_for_best_model": name, ARGUMENTS + "save_strategy": "best"}
    assert train_here(values(method, **best), tmp_path / "store", tmp_path / "work") == 0
    assert list((tmp_path / "store" / REMOTE).glob("checkpoint-*-1/manifest.json"))
