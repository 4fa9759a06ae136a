"""The load-balancing loss of a mixture of experts: by how much a model adds it to its loss.

A loss of its own keeps the load of the experts even (arxiv.org/abs/2101.03961, equation 4). transformers
computes it where the config's `output_router_logits` is true, and adds it to the loss of a model that is given labels.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from tuneyard.errors import InvalidDataError

_CLOSE = 1e-4
_NAME = "aux_loss_coef"


@torch.no_grad()
def balance_weight(model: Any, ids: np.ndarray[Any, Any], where: str) -> float:
    """Find the weight of a model's load-balancing loss, and check it on the model's own loss.

    Args:
        model: A causal language model in float32, on its device.
        ids: Token ids of a conversation.
        where: The model's key, for messages.

    Returns:
        The weight; 0 where the model computes no such loss.

    Raises:
        InvalidDataError: The model's own loss differs from cross-entropy and the weighted balance.
    """
    tokens_1T = torch.from_numpy(ids).long().to(next(model.parameters()).device)[None]
    model.eval()
    outputs = model(input_ids=tokens_1T, use_cache=False)
    if not isinstance(getattr(outputs, "aux_loss", None), torch.Tensor):
        return 0.0
    weight = _weight(model)
    own = model(input_ids=tokens_1T, labels=tokens_1T, use_cache=False).loss
    expected = cross_entropy(outputs.logits[0, :-1].float(), tokens_1T[0, 1:]) + weight * outputs.aux_loss
    if not torch.isclose(own, expected, rtol=_CLOSE, atol=_CLOSE):
        raise InvalidDataError(
            f"The model {where!r} ({type(model).__name__}) computes a loss of {own:.6f}, but cross-entropy plus "
            f"{weight:g} times its load-balancing loss is {expected:.6f}: its other terms would be lost.",
            hint="Use --set finetuning_config.run_conf.model_args.output_router_logits=false to train without it.",
            problems=[],
        )
    return weight


def _weight(model: Any) -> float:
    for holder in (model, model.config.get_text_config(), model.config):
        for name, value in vars(holder).items():
            if name.endswith(_NAME) and isinstance(value, int | float):
                return float(value)
    return 0.0
