"""A loss or a gradient that is not finite stops a training with exit 3, names step and rows, and publishes nothing."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from lab.tiny_models import make_model
from lab.training import ARGUMENTS, REMOTE, changed, conversations, deliver_inputs, train, train_here
from tuneyard.errors import DivergedError
from tuneyard.train.divergence import Finite

CONF = "finetuning_config.peft_conf"
SHORT = {ARGUMENTS + "num_train_epochs": 1, ARGUMENTS + "logging_steps": 1, ARGUMENTS + "save_steps": 1}


@pytest.mark.parametrize(
    "kind",
    [
        {},
        {CONF: {"peft_type": "NO_PEFT"}},
        {CONF: {"peft_type": "NO_PEFT"}, ARGUMENTS + "optim": "sgd", ARGUMENTS + "max_grad_norm": 0},
        {CONF: {"peft_type": "NO_PEFT"}, ARGUMENTS + "bf16": True},
    ],
)
def test_a_rate_that_is_far_too_high_ends_the_run_with_its_step_and_rows(kind, tmp_path):
    deliver_inputs(tmp_path / "store")
    values = changed(**{**SHORT, ARGUMENTS + "learning_rate": 1e30, ARGUMENTS + "eval_strategy": "no", **kind})
    with pytest.raises(DivergedError, match=r"of step [23] is (nan|inf|0 while its loss is 5)") as caught:
        train_here(values, tmp_path / "store", tmp_path / "work")
    assert caught.value.exit_code == 3
    rows = [problem.where for problem in caught.value.details["problems"]]
    assert rows
    assert all("chat.jsonl:" in row for row in rows)
    assert "1e+30" in caught.value.hint
    run = tmp_path / "store" / REMOTE
    assert not (run / "checkpoint-final").exists()
    assert list(run.glob("checkpoint-1-*"))  # of before
    for weights in run.glob("checkpoint-[0-9]*/*.safetensors"):
        assert all(weight.isfinite().all() for weight in load_file(weights).values())


def spoilt_model(folder, name):
    make_model(folder)
    weights = load_file(folder / "model.safetensors")
    weights[name].view(-1)[0] = float("nan")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("model.norm.weight", "error: The model 'default-bucket/models/tiny' predicts NaN"),
        ("model.layers.1.mlp.down_proj.weight", "error: The loss of step 1 is nan"),
    ],
)
def test_a_base_with_nan_stops_before_or_in_the_first_step(name, words, tmp_path):
    deliver_inputs(tmp_path / "store", folder=spoilt_model(tmp_path / "model", name))
    log = train(changed(**SHORT), tmp_path / "store", tmp_path / "work", code=3)
    assert words in log
    assert not list((tmp_path / "store" / REMOTE).glob("checkpoint-*"))


def test_a_row_whose_loss_is_not_finite_is_named(tmp_path, monkeypatch):
    from tuneyard.train.trainer import SFTTrainer

    deliver_inputs(tmp_path / "store", rows=conversations(25))
    real = SFTTrainer._cross_entropy
    counted = []

    def spoilt(self, logits, labels):
        counted.append(None)
        loss = real(self, logits, labels)
        return loss * float("inf") if len(counted) == 4 and self.network.training else loss

    monkeypatch.setattr(SFTTrainer, "_cross_entropy", spoilt)
    values = changed(**SHORT, **{ARGUMENTS + "eval_strategy": "no"})
    with pytest.raises(DivergedError, match="loss of step 2 is inf") as caught:
        train_here(values, tmp_path / "store", tmp_path / "work")
    rows = [problem.where for problem in caught.value.details["problems"]]
    assert len(rows) == 2  # of the second micro-batch of step 2
    assert all(":" in row for row in rows)
    # the checkpoint of step 1 is whole, and a run without the fault goes on from it
    monkeypatch.setattr(SFTTrainer, "_cross_entropy", real)
    shutil.rmtree(tmp_path / "work")
    assert train_here(values, tmp_path / "store", tmp_path / "work") == 0
    assert json.loads((tmp_path / "store" / REMOTE / "HEAD").read_text())["attempt"] == 2


def test_an_evaluation_that_is_not_finite_ends_the_run(tmp_path, monkeypatch):
    from tuneyard.train.trainer import SFTTrainer

    deliver_inputs(tmp_path / "store")
    monkeypatch.setattr(SFTTrainer, "evaluated", lambda self, model, inputs: [float("nan"), 1.0])
    with pytest.raises(DivergedError, match="'eval_loss' is nan after step 4"):
        train_here(changed(), tmp_path / "store", tmp_path / "work")


def places(step, micro):
    return [f"{step}/{micro}"]


def test_kept_values_are_checked_once_and_the_first_that_is_not_finite_is_named():
    finite = Finite(places, learning_rate=0.1, scaled=False)
    finite.note_loss(0, torch.tensor(1.0))
    finite.note_loss(0, torch.tensor(2.0))
    finite.note_norm(0, torch.tensor(3.0))
    finite.check()
    finite.note_loss(1, torch.tensor(1.0))
    finite.note_loss(1, torch.tensor(float("nan")))
    finite.note_norm(1, torch.tensor(float("inf")))
    with pytest.raises(DivergedError, match="loss of step 2 is nan") as caught:
        finite.check()
    assert [problem.where for problem in caught.value.details["problems"]] == ["1/1"]
    finite.check()


def test_norms_of_scaled_losses_may_be_infinite_for_a_limited_number_of_steps():
    finite = Finite(places, learning_rate=0.1, scaled=True)
    finite.note_norm(0, torch.tensor(float("inf")))
    finite.check()
    with pytest.raises(DivergedError, match="norm of the gradients"):
        for step in range(60):
            finite.note_skipped(step, True)
    assert step == 40


def test_zero_gradients_with_a_loss_are_an_error():
    finite = Finite(places, learning_rate=0.1, scaled=False)
    finite.note_loss(2, torch.tensor(0.0))
    finite.note_norm(2, torch.tensor(0.0))
    finite.check()  # all is learnt
    finite.note_loss(3, torch.tensor(4.0))
    finite.note_norm(3, torch.tensor(0.0))
    with pytest.raises(DivergedError, match="norm of the gradients of step 4 is 0 while its loss is 4"):
        finite.check()


def test_weights_are_checked_before_they_are_saved():
    model = torch.nn.Linear(2, 2)
    finite = Finite(places, learning_rate=0.1, scaled=False)
    finite.check_weights(3, model)
    model.weight.data[0, 0] = float("inf")
    with pytest.raises(DivergedError, match="The weight 'weight' is not finite after step 3"):
        finite.check_weights(3, model)
    finite.check_weights(3, model.requires_grad_(False))
