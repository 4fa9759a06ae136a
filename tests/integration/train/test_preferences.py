"""Direct preference optimization from rows of chosen and rejected to a served adapter."""

import pytest
import torch

from lab.training import (
    ARGUMENTS,
    DATA,
    REMOTE,
    changed,
    conversations,
    deliver_inputs,
    killed_and_resumed,
    metrics,
    preferences,
    train,
    train_here,
)
from tuneyard.errors import InvalidDataError, InvalidValuesError
from tuneyard.estimate import estimate
from tuneyard.serving.flags import app_settings
from tuneyard.serving.placement import place_models
from tuneyard.store import open_store
from tuneyard.values import FinetuneValues, InferenceValues

CONFIG = "finetuning_config."
DPO = {
    CONFIG + "method": "dpo",
    CONFIG + "sft_args": None,
    CONFIG + "dpo_args": {"beta": 0.5, "max_length": 256, "precompute_ref_log_probs": True},
    ARGUMENTS + "num_train_epochs": 1,
    ARGUMENTS + "logging_steps": 1,
}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """With a run that was killed after its fourth step and resumed."""
    folder = tmp_path_factory.mktemp("preferences")
    deliver_inputs(folder / "store", rows=preferences(25))
    killed_and_resumed(changed(**DPO), folder / "store", folder, kill_at=4)
    return folder / "store"


def test_a_resumed_run_has_learnt_to_prefer_the_chosen_answers(store):
    rows = metrics(store)
    losses = [row["loss"] for row in rows if row["kind"] == "train"]
    assert losses[0] == pytest.approx(0.6931, abs=1e-4)  # the policy begins as the reference: log 2
    assert losses[-1] < losses[0] - 0.1
    evaluated = [row for row in rows if row["kind"] == "eval"]
    assert [row["step"] for row in evaluated] == [4, 5]
    assert evaluated[-1]["eval_pairs"] == 5
    assert evaluated[-1]["eval_rewards/margins"] > 0
    assert evaluated[-1]["eval_rewards/accuracies"] > 0.5
    card = (store / REMOTE / "checkpoint-final/README.md").read_text()
    assert "trained with Tuneyard on 20 preferences" in card
    assert "| method | dpo, LORA |" in card


def test_the_served_model_prefers_chosen_answers_more_than_its_base(store, tmp_path):
    from tuneyard.serving.loading import load_models

    inference = InferenceValues.model_validate({"model": f"s3://{REMOTE}/checkpoint-final", "gpuResource": ""})
    placement = place_models(inference, open_store(store.as_uri()), tmp_path)
    tuned, base = load_models(placement, app_settings(inference.vllm_engine_args), "cpu")

    def likes(model, text):
        conversation = [{"role": "user", "content": "What?"}, {"role": "assistant", "content": text}]
        ids = base.tokenizer.apply_chat_template(conversation, return_tensors="pt", return_dict=True)["input_ids"]
        with torch.no_grad():
            return -model(ids, labels=ids).loss.item() * ids.shape[1]

    good, bad = "boat model data", "7 no"
    assert likes(tuned.model, good) - likes(tuned.model, bad) > likes(base.model, good) - likes(base.model, bad)


def test_plan_counts_preferences(store):
    estimated = estimate(FinetuneValues.model_validate(changed(**DPO)), open_store(store.as_uri()))
    assert (estimated.work.rows, estimated.work.steps) == (20, 5)
    assert estimated.work.longest > estimated.work.row_longest


def test_every_weight_can_be_trained_on_preferences(tmp_path):
    deliver_inputs(tmp_path / "store", rows=preferences(9))
    whole = {CONFIG + "peft_conf": {"peft_type": "NO_PEFT"}, CONFIG + "dpo_args": {"loss_type": "ipo"}}
    values = changed(**{**DPO, **whole, ARGUMENTS + "learning_rate": 1e-3})
    assert train_here(values, tmp_path / "store", tmp_path / "work") == 0
    losses = [row["loss"] for row in metrics(tmp_path / "store") if row["kind"] == "train"]
    assert losses[0] == pytest.approx(25, abs=1e-3)  # (0 - 1 / (2 * 0.1)) squared


def test_rows_that_are_not_preferences_are_reported_by_line(tmp_path):
    deliver_inputs(tmp_path / "store", rows=[*preferences(2), {"prompt": "a", "chosen": "b", "rejected": "b"}])
    with pytest.raises(InvalidDataError, match="chosen and rejected are equal") as caught:
        train_here(changed(**DPO), tmp_path / "store", tmp_path / "work")
    assert caught.value.problems[0].where.endswith(f"{DATA.rpartition('/')[2]}:3")
    deliver_inputs(tmp_path / "store", rows=conversations(3))
    with pytest.raises(InvalidDataError, match="has no chosen and rejected answers, which dpo trains on"):
        train_here(changed(**DPO), tmp_path / "store", tmp_path / "work")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"sync_ref_model": True}, "dpo_args.sync_ref_model: is not supported by this version"),
        ({"loss_type": ["exo_pair"]}, "dpo_args.loss_type: is not supported by this version (given: 'exo_pair')"),
        ({"truncation_mode": "keep_end"}, "dpo_args.truncation_mode: is not supported by this version"),
    ],
)
def test_unsupported_settings_are_refused_by_name(settings, words, tmp_path):
    deliver_inputs(tmp_path / "store", rows=preferences(3))
    with pytest.raises(InvalidValuesError) as caught:
        train_here(changed(**{**DPO, CONFIG + "dpo_args": settings}), tmp_path / "store", tmp_path / "work")
    assert words in "; ".join(map(str, caught.value.problems))


@pytest.mark.soak
def test_two_processes_have_the_losses_of_one(tmp_path):
    deliver_inputs(tmp_path / "store", rows=preferences(25))
    exact = {**DPO, CONFIG + "peft_conf.peft_kwargs.lora_dropout": 0.0}
    losses = {}
    for processes in (1, 2):
        remote = f"{REMOTE}-{processes}"
        values = changed(checkpointsRemote=remote, finetuningGpus=processes, **exact)
        train(values, tmp_path / "store", tmp_path / f"work-{processes}")
        rows = metrics(tmp_path / "store", remote)
        losses[processes] = [row["loss"] for row in rows if row["kind"] == "train"]
        losses[processes] += [row["eval_loss"] for row in rows if row["kind"] == "eval"]
    assert losses[2] == pytest.approx(losses[1], abs=1e-5, rel=0)
