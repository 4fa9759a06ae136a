"""Schedule-free optimizers train one set of weights and average another: the averages are evaluated and published."""

from __future__ import annotations

import pytest
import torch
from schedulefree import AdamWScheduleFree, SGDScheduleFree
from transformers import AutoModelForCausalLM, AutoTokenizer

from lab.plain_training import encode, eval_loss, padded, summed_cross_entropy, targets_of, weights_of
from lab.tiny_models import make_model
from lab.training import (
    ARGUMENTS,
    DATA,
    REMOTE,
    changed,
    conversations,
    deliver_inputs,
    killed_and_resumed,
    metrics,
    train_here,
)

CONFIG = "finetuning_config."
STEPS, TOTAL, RATE = 3, 4, 1e-2
ROWS = conversations(STEPS * TOTAL, seed=5)
VALUES = {
    ARGUMENTS + "max_steps": STEPS,
    ARGUMENTS + "logging_steps": 1,
    ARGUMENTS + "eval_steps": STEPS,
    ARGUMENTS + "save_steps": STEPS,
    ARGUMENTS + "learning_rate": RATE,
    ARGUMENTS + "lr_scheduler_type": "constant",
    ARGUMENTS + "train_sampling_strategy": "sequential",
    CONFIG + "data_conf.validation_data": {"type": "CONCATENATION", "datasets": [{"path": DATA}]},
    CONFIG + "peft_conf": {"peft_type": "NO_PEFT"},
}
KINDS = {"schedule_free_adamw": AdamWScheduleFree, "schedule_free_sgd": SGDScheduleFree}


def apart(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    return sum(float((weight - other[name]).square().sum()) for name, weight in one.items()) ** 0.5


def copied(model):
    return {name: weight.detach().clone() for name, weight in model.state_dict().items()}


@pytest.mark.parametrize("optim", KINDS)
def test_averages_are_evaluated_and_published(optim, tmp_path):
    folder = make_model(tmp_path / "model")
    deliver_inputs(tmp_path / "store", folder=folder, rows=ROWS)
    train_here(changed(**VALUES, **{ARGUMENTS + "optim": optim}), tmp_path / "store", tmp_path / "work")

    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    samples = [encode(tokenizer, row["messages"]) for row in ROWS]
    optimizer = KINDS[optim](model.parameters(), lr=RATE)
    optimizer.train()
    for step in range(STEPS):
        members = samples[step * TOTAL : (step + 1) * TOTAL]
        batch = padded(members, tokenizer.pad_token_id)
        labels = batch.pop("labels")
        (summed_cross_entropy(model(**batch, use_cache=False).logits, labels) / targets_of(members)).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    trained_at = copied(model)
    optimizer.eval()
    averages = copied(model)

    ours = weights_of(tmp_path / "store" / REMOTE / "checkpoint-final")
    between = apart({name: averages[name] for name in ours}, trained_at)
    assert apart(ours, averages) < 0.01 * between, "what is published is not the optimizer's averages"
    (logged,) = [row["eval_loss"] for row in metrics(tmp_path / "store") if row["kind"] == "eval"]
    assert logged == pytest.approx(eval_loss(model, samples), rel=1e-5)
    optimizer.train()
    assert logged != pytest.approx(eval_loss(model, samples), rel=1e-4)


def test_a_killed_run_resumes_bit_for_bit(tmp_path):
    deliver_inputs(tmp_path / "store")
    values = changed(
        **{
            ARGUMENTS + "optim": "schedule_free_adamw",
            ARGUMENTS + "lr_scheduler_type": "constant",
            ARGUMENTS + "load_best_model_at_end": True,
            ARGUMENTS + "eval_steps": 2,
            ARGUMENTS + "num_train_epochs": 1,
        }
    )
    killed_and_resumed(values, tmp_path / "store", tmp_path, kill_at=3)
