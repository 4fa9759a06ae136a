"""The losses of preferences, against the papers' formulas in plain arithmetic, and against TRL."""

import math

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from lab.tiny_models import make_model
from tuneyard.network.attention import PER_CONVERSATION
from tuneyard.network.batches import EncodedRows
from tuneyard.network.forms import Form, Forward
from tuneyard.train.preferences import (
    PairedRows,
    answer_log_probs,
    flatten_pairs,
    preference_losses,
    reference_log_probs,
)
from tuneyard.values import DpoArgs

# log-probabilities of two pairs under policy and reference, and the lengths of their answers
POLICY = [[-10.0, -14.0], [-9.0, -7.5]]
REFERENCE = [[-11.0, -12.0], [-8.0, -8.0]]
LENGTHS = [[4.0, 2.0], [3.0, 5.0]]
MARGINS = [3.0, -1.5]  # (1 - -2), (-1 - 0.5)


def sigmoid(number):
    return 1 / (1 + math.exp(-number))


def log_sigmoid(number):
    return math.log(sigmoid(number))


BY_HAND = {
    "sigmoid": lambda m, _, beta, smoothing: (
        -(1 - smoothing) * log_sigmoid(beta * m) - smoothing * log_sigmoid(-beta * m)
    ),
    "hinge": lambda m, _, beta, smoothing: max(0.0, 1 - beta * m),
    "ipo": lambda _, per_token, beta, smoothing: (per_token - 1 / (2 * beta)) ** 2,
    "robust": lambda m, _, beta, smoothing: (
        (-(1 - smoothing) * log_sigmoid(beta * m) + smoothing * log_sigmoid(-beta * m)) / (1 - 2 * smoothing)
    ),
}
PER_TOKEN = [1 / 4 - -2 / 2, -1 / 3 - 0.5 / 5]


@pytest.mark.parametrize("name", BY_HAND)
@pytest.mark.parametrize(("beta", "smoothing"), [(0.1, 0.0), (0.5, 0.2)])
def test_each_loss_is_the_papers(name, beta, smoothing):
    args = DpoArgs(loss_type=name, beta=beta, label_smoothing=smoothing)
    scores = torch.tensor(POLICY, dtype=torch.float64) - torch.tensor(REFERENCE, dtype=torch.float64)
    losses = preference_losses(scores, torch.tensor(LENGTHS, dtype=torch.float64), args)
    by_hand = [BY_HAND[name](m, t, beta, smoothing) for m, t in zip(MARGINS, PER_TOKEN, strict=True)]
    assert losses.tolist() == pytest.approx(by_hand, rel=1e-12)


def test_losses_are_added_with_their_weights():
    scores = torch.tensor(POLICY) - torch.tensor(REFERENCE)
    lengths = torch.tensor(LENGTHS)
    one, two = (preference_losses(scores, lengths, DpoArgs(loss_type=name)) for name in ("sigmoid", "ipo"))
    both = preference_losses(scores, lengths, DpoArgs(loss_type=["sigmoid", "ipo"], loss_weights=[0.5, 2.0]))
    torch.testing.assert_close(both, 0.5 * one + 2 * two)


def test_the_loss_of_an_unchanged_policy_is_log_2():
    assert preference_losses(torch.zeros(1, 2), torch.ones(1, 2), DpoArgs()).item() == pytest.approx(math.log(2))


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    rng = np.random.default_rng(3)
    rows = []
    for answer, prompt in ((5, 4), (3, 4), (2, 7), (6, 7), (4, 2), (4, 2)):
        ids = rng.integers(5, 300, prompt + answer).tolist()
        rows.append((ids, [False] * prompt + [True] * answer))
    return PairedRows(EncodedRows.write(tmp_path_factory.mktemp("rows"), rows))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_model(tmp_path_factory.mktemp("model"))


def alone(model, row):
    """The log-probability of an answer, of its sequence by itself and token by token."""
    ids = torch.from_numpy(row["input_ids"].astype(np.int64))
    with torch.no_grad():
        logits = model(ids[None]).logits[0].double()
    learnt = [place for place, counts in enumerate(row["loss_mask"]) if counts]
    return sum(torch.log_softmax(logits[place - 1], -1)[ids[place]].item() for place in learnt), len(learnt)


@pytest.mark.parametrize(("form", "attention"), [(Form.FLAT, PER_CONVERSATION), (Form.SINGLE, "sdpa")])
def test_answers_have_the_same_log_probabilities_in_a_row_as_alone(form, attention, pairs, folder):
    model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation=attention)
    plain = AutoModelForCausalLM.from_pretrained(folder)
    row = flatten_pairs([pairs[index] for index in range(3)])
    with torch.no_grad():
        logits = Forward(form)(model, row).logits_KV
        sums, lengths = answer_log_probs(logits, row["targets"], row["answers"], 3)
    for index in range(3):
        for side, name in enumerate(("chosen", "rejected")):
            total, count = alone(plain, pairs[index][name])
            assert sums[index, side].item() == pytest.approx(total, rel=1e-5)
            assert lengths[index, side] == count


def test_the_reference_does_not_depend_on_which_process_computes_a_pair(pairs, folder):
    model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation=PER_CONVERSATION)
    advanced = []
    keywords = {"forward": Forward(), "autocast": None}
    whole = dict(reference_log_probs(model, pairs, range(3), advance=advanced.append, **keywords))
    shares = [reference_log_probs(model, pairs, each, advance=print, **keywords) for each in ([1], [0, 2])]
    assert {index: found for share in shares for index, found in share} == whole
    assert advanced == [1, 1, 1]


def test_an_empty_share_has_no_pair():
    row = flatten_pairs([])
    assert row["labels"].ne(-100).sum() == 0
    assert len(row["reference"]) == 0


def test_trl_computes_the_same_loss(pairs, folder, tmp_path):
    trl = pytest.importorskip("trl")
    from datasets import Dataset
    from transformers import AutoTokenizer

    policy = AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        for weight in policy.parameters():
            weight.add_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(1)) * 0.02)
    reference = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    text = {"prompt": ["What is a yard?"], "chosen": [" A yard is where boats are built."], "rejected": [" No, maybe!"]}
    for name in ("sigmoid", "ipo", "hinge"):
        config = trl.DPOConfig(
            output_dir=str(tmp_path), loss_type=[name], beta=0.3, report_to=[], use_cpu=True, bf16=False,
            gradient_checkpointing=False,
        )  # fmt: skip
        trainer = trl.DPOTrainer(
            model=policy,
            ref_model=reference,
            args=config,
            train_dataset=Dataset.from_dict(text),
            processing_class=tokenizer,
        )
        batch = next(iter(trainer.get_train_dataloader()))
        with torch.no_grad():
            theirs = trainer.compute_loss(policy, batch).item()
        scores, lengths = [], []
        for ids, mask in zip(batch["input_ids"], batch["completion_mask"], strict=True):
            row = {"input_ids": ids.numpy(), "loss_mask": mask.bool().numpy()}
            (ours, count), (base, _) = alone(policy, row), alone(reference, row)
            scores.append(ours - base)
            lengths.append(count)
        ours = preference_losses(
            torch.tensor([scores]), torch.tensor([lengths], dtype=torch.float32), DpoArgs(loss_type=name, beta=0.3)
        )
        assert ours.item() == pytest.approx(theirs, rel=1e-4), name
