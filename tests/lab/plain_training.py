"""A reference training with plain transformers and PEFT, written out step by step.

Padded batches, the library's own attention and masks, torch's own optimizer; nothing of tuneyard is used.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import cross_entropy

Sample = tuple[list[int], list[int]]
"""Token ids, and labels: the ids in the loss, -100 elsewhere."""


def encode(tokenizer: Any, messages: list[dict[str, str]]) -> Sample:
    """Encode a question and an answer by the chat template; the answer and its stop token are in the loss."""
    prompt = tokenizer.apply_chat_template(messages[:-1], add_generation_prompt=True, tokenize=True, return_dict=False)
    whole = tokenizer.apply_chat_template(messages, tokenize=True, return_dict=False)
    end = len(whole) - whole[::-1].index(tokenizer.eos_token_id)
    return whole, [-100] * len(prompt) + whole[len(prompt) : end] + [-100] * (len(whole) - end)


def padded(samples: Sequence[Sample], pad: int) -> dict[str, torch.Tensor]:
    longest = max(len(ids) for ids, _ in samples)
    return {
        "input_ids": torch.tensor([ids + [pad] * (longest - len(ids)) for ids, _ in samples]),
        "attention_mask": torch.tensor([[1] * len(ids) + [0] * (longest - len(ids)) for ids, _ in samples]),
        "labels": torch.tensor([labels + [-100] * (longest - len(labels)) for _, labels in samples]),
    }


def summed_cross_entropy(logits: torch.Tensor, labels: torch.Tensor, smoothing: float = 0.0) -> torch.Tensor:
    """Sum over targets of (1 - s) * -log p(target) + s * mean over the vocabulary of -log p."""
    log_p = torch.log_softmax(logits[:, -labels.shape[1] :][:, :-1].float(), -1)
    targets = labels[:, 1:]
    kept = targets != -100
    nll = -log_p.gather(-1, targets.clamp(min=0)[..., None])[..., 0]
    uniform = -log_p.mean(-1)
    return (((1 - smoothing) * nll + smoothing * uniform) * kept).sum()


def targets_of(samples: Sequence[Sample]) -> int:
    return sum(label != -100 for _, labels in samples for label in labels[1:])


class Plain:
    """Steps of AdamW with a linear schedule over `steps` and gradients clipped at 1."""

    def __init__(self, model: Any, *, rate: float, steps: int, weight_decay: float = 0.0) -> None:
        from transformers import get_linear_schedule_with_warmup

        self.model = model.train()
        weights = [weight for weight in model.parameters() if weight.requires_grad]
        self.optimizer = torch.optim.AdamW(weights, lr=rate, weight_decay=weight_decay)
        self.schedule = get_linear_schedule_with_warmup(self.optimizer, 0, steps)
        self.losses: list[float] = []
        self.norms: list[float] = []

    def step(self, loss_of: Callable[[Any], torch.Tensor]) -> None:
        loss = loss_of(self.model)
        loss.backward()
        weights = [weight for weight in self.model.parameters() if weight.requires_grad]
        self.norms.append(float(torch.nn.utils.clip_grad_norm_(weights, 1.0)))
        self.losses.append(loss.item())
        self.optimizer.step()
        self.schedule.step()
        self.optimizer.zero_grad()


def answer_log_prob(model: Any, sample: Sample) -> torch.Tensor:
    """Return the summed log-probability of the targets of one sequence by itself."""
    ids, labels = (torch.tensor([part]) for part in sample)
    logits = model(input_ids=ids, use_cache=False).logits[:, -ids.shape[1] :]
    return -cross_entropy(logits[0, :-1].float(), labels[0, 1:], ignore_index=-100, reduction="sum")


def sigmoid_preference_loss(policy: Sequence[torch.Tensor], reference: Sequence[float], beta: float) -> torch.Tensor:
    """Return the loss of equation 7 of arxiv.org/abs/2305.18290 for one pair."""
    margin = beta * ((policy[0] - reference[0]) - (policy[1] - reference[1]))
    return torch.log1p(torch.exp(-margin))


def eval_loss(model: Any, samples: Sequence[Sample]) -> float:
    with torch.no_grad():
        model.eval()
        total = sum(-float(answer_log_prob(model, sample)) for sample in samples)
        model.train()
    return total / targets_of(samples)


def square_root_scaled(rate: float, batch: int) -> float:
    return rate * math.sqrt(batch)


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    file = next(path for path in sorted(folder.glob("*.safetensors")))
    return load_file(file)
