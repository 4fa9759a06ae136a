"""Which checkpoints stay in a training's own folder: the newest, and the best for as long as it is needed."""

import json

import pytest

from lab.training import ARGUMENTS, REMOTE, changed, deliver_inputs, final_sha256, metrics, train_here


@pytest.fixture
def store(tmp_path):
    deliver_inputs(tmp_path / "store")
    return tmp_path / "store"


@pytest.mark.parametrize("best_first", [True, False], ids=["the first is the best", "the last is the best"])
def test_the_local_best_checkpoint_stays_until_its_weights_are_published(store, tmp_path, best_first):
    """A higher loss is better where the first checkpoint shall stay the best while the loss falls."""
    arguments = {
        "num_train_epochs": 2,
        "eval_steps": 2,
        "save_steps": 2,
        "load_best_model_at_end": True,
        "metric_for_best_model": "loss",
        "greater_is_better": best_first,
        "save_total_limit": 2,
    }
    values = changed(**{ARGUMENTS + name: value for name, value in arguments.items()})
    assert train_here(values, store, tmp_path / "work") == 0
    losses = {row["step"]: row["eval_loss"] for row in metrics(store) if row["kind"] == "eval"}
    best, newest = (max if best_first else min)(losses, key=losses.__getitem__), max(losses)
    assert (best, newest) == ((2, 10) if best_first else (10, 10)), losses
    assert sorted(path.name for path in (tmp_path / "work" / "checkpoints").iterdir()) == sorted(
        {f"checkpoint-{best}", f"checkpoint-{newest}"}
    )
    manifest = json.loads((store / REMOTE / f"checkpoint-{best}-1" / "manifest.json").read_text())
    of_best = {entry["path"]: entry["sha256"] for entry in manifest["files"]}
    assert final_sha256(store)["adapter_model.safetensors"] == of_best["adapter_model.safetensors"]
