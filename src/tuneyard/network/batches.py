"""Encoded conversations on disk, and the flat rows a model reads.

A micro-batch is one row without padding: its conversations one after the other, with positions that start at 0 for
each. Logits are computed only at positions that predict a trained token, so the memory of the logits grows with the
trained tokens, not with the row.

Shape letters: T tokens of the row, K trained targets, D conversations (documents) of the row.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
import torch
from torch.utils.data import Dataset

IGNORED = -100
"""The label that no loss is computed for (torch's `ignore_index`)."""


_PLACES = "places.txt"


class Row(TypedDict):
    """One encoded conversation: token ids and, for each, whether it is trained."""

    input_ids: np.ndarray[Any, Any]
    loss_mask: np.ndarray[Any, Any]


class EncodedRows(Dataset[Row]):
    """Encoded conversations in three flat arrays, mapped from disk and never loaded whole.

    Args:
        folder: The folder that `write` wrote.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.tokens = np.load(folder / "tokens.npy", mmap_mode="r")
        self.mask = np.load(folder / "mask.npy", mmap_mode="r")
        self.ends = np.load(folder / "ends.npy")

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, index: int) -> Row:
        start = int(self.ends[index - 1]) if index else 0
        end = int(self.ends[index])
        return Row(input_ids=self.tokens[start:end], loss_mask=self.mask[start:end])

    @property
    def lengths(self) -> list[int]:
        """Tokens of each conversation."""
        return np.diff(self.ends, prepend=0).tolist()

    @property
    def largest_ids(self) -> list[int]:
        """The largest token id of each conversation."""
        starts = np.concatenate([[0], self.ends[:-1]])
        return np.maximum.reduceat(self.tokens, starts).tolist() if len(self) else []

    @property
    def trained_tokens(self) -> int:
        """Tokens that the loss is computed for, over all conversations."""
        return int(self.mask.sum())

    @property
    def content_sha256(self) -> str:
        """The SHA-256 of tokens, masks and bounds."""
        digest = hashlib.sha256()
        for name in ("tokens.npy", "mask.npy", "ends.npy"):
            with (self.folder / name).open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        return digest.hexdigest()

    def place(self, index: int) -> str:
        """Return the file and line that a conversation comes from, or its number if they are not known."""
        path = self.folder / _PLACES
        if not path.exists():
            return f"row {index}"
        with path.open(encoding="utf-8") as file:
            return next(islice(file, index, None)).rstrip("\n")

    @staticmethod
    def write(
        folder: Path, rows: Iterable[tuple[Sequence[int], Sequence[bool]]], places: Sequence[str] = ()
    ) -> EncodedRows:
        """Write `(input_ids, loss_mask)` pairs to `folder` and open them.

        Args:
            folder: The target folder.
            rows: The conversations.
            places: The origin of each, `file:line`; empty if not known.
        """
        folder.mkdir(parents=True, exist_ok=True)
        tokens: list[np.ndarray[Any, Any]] = []
        masks: list[np.ndarray[Any, Any]] = []
        for input_ids, loss_mask in rows:
            tokens.append(np.asarray(input_ids, dtype=np.int32))
            masks.append(np.asarray(loss_mask, dtype=np.bool_))
        ends = np.cumsum([len(ids) for ids in tokens], dtype=np.int64)
        np.save(folder / "tokens.npy", np.concatenate(tokens) if tokens else np.zeros(0, np.int32))
        np.save(folder / "mask.npy", np.concatenate(masks) if masks else np.zeros(0, np.bool_))
        np.save(folder / "ends.npy", ends)
        if places:
            (folder / _PLACES).write_text("".join(f"{place}\n" for place in places), encoding="utf-8")
        return EncodedRows(folder)


def flatten(rows: Sequence[Row]) -> dict[str, Any]:
    """Make one row of several conversations, for `SFTTrainer.compute_loss`.

    Args:
        rows: The conversations of a micro-batch; none for the empty share of a short step.

    Returns:
        `input_ids` and `position_ids` (1, T); `cu_seq_lens_q` and `_k` (D + 1), where each
        conversation starts and ends, and `max_length_q` and `_k`, the longest;
        `logits_to_keep` (K), the positions whose next token is trained; `labels` and `shift_labels` (1, K), those
        tokens. An empty share gives one token and one ignored target.
    """
    if not rows:
        rows = [Row(input_ids=np.zeros(1, np.int32), loss_mask=np.zeros(1, np.bool_))]
    lengths = [len(row["input_ids"]) for row in rows]
    tokens_T = np.concatenate([row["input_ids"] for row in rows]).astype(np.int64)
    mask_T = np.concatenate([_trainable(row["loss_mask"]) for row in rows])
    targets_K = np.flatnonzero(mask_T)
    keep_K, labels_K = targets_K - 1, tokens_T[targets_K]
    if not len(targets_K):
        keep_K, labels_K = np.zeros(1, np.int64), np.full(1, IGNORED, np.int64)
    labels_1K = torch.from_numpy(labels_K)[None]
    bounds = torch.from_numpy(np.cumsum([0, *lengths], dtype=np.int32))
    return {
        "input_ids": torch.from_numpy(tokens_T)[None],
        "position_ids": torch.from_numpy(np.concatenate([np.arange(length) for length in lengths]))[None],
        "cu_seq_lens_q": bounds,
        "cu_seq_lens_k": bounds,
        "max_length_q": max(lengths),
        "max_length_k": max(lengths),
        "logits_to_keep": torch.from_numpy(keep_K),
        "labels": labels_1K,
        "shift_labels": labels_1K,
    }


def moved(row: Mapping[str, Any], device: torch.device) -> dict[str, Any]:
    """Move the result of `flatten` to a device."""
    return {name: value.to(device) if isinstance(value, torch.Tensor) else value for name, value in row.items()}


def _trainable(loss_mask: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Nothing predicts the first token of a conversation, so it is never a target."""
    mask = np.array(loss_mask, dtype=np.bool_)
    mask[:1] = False
    return mask
