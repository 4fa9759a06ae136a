"""The smallest valid values of finetuning, for tests that add one key to them."""

from __future__ import annotations

import copy
from typing import Any

FINETUNE: dict[str, Any] = {
    "basemodel": "default-bucket/models/small",
    "finetuning_config": {"data_conf": {"training_data": {"datasets": [{"path": "default-bucket/datasets/a.jsonl"}]}}},
}


def finetune(**training_args: Any) -> dict[str, Any]:
    """Return small finetuning values with some training arguments."""
    values = copy.deepcopy(FINETUNE)
    values["finetuning_config"]["training_args"] = training_args
    return values


def with_config(**parts: Any) -> dict[str, Any]:
    """Return small finetuning values with some more of `finetuning_config`."""
    values = copy.deepcopy(FINETUNE)
    values["finetuning_config"].update(parts)
    return values
