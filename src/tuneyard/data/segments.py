"""A sequence decoded to text, in segments that are trained and segments that are only read.

For people, on a terminal (`show`) and on a page (`page`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tuneyard.data.conversations import Conversation, Preference
from tuneyard.data.encoding import ChatEncoder, Encoded, trained_spans


@dataclass(frozen=True, slots=True)
class Segment:
    """A segment of a sequence.

    Attributes:
        text: The text as the model reads it.
        learnt: Whether predicting it counts in the loss. (Named as in the JSON report.)
        special: Whether it is a control token.
    """

    text: str
    learnt: bool
    special: bool


@dataclass(frozen=True, slots=True)
class Example:
    """One sequence of a row.

    Attributes:
        name: `file:line`, and which of the row's sequences it is if it has several.
        tokens: The number of tokens, after truncation.
        trained_tokens: Those of them in the loss.
        length: The number of tokens before truncation.
        fate: `kept`, `truncated` or `dropped`.
        segments: The sequence; none if it was dropped.
    """

    name: str
    tokens: int
    trained_tokens: int
    length: int
    fate: str
    segments: tuple[Segment, ...]


def conversations_of(row: Conversation | Preference) -> dict[str, Conversation]:
    """Return the conversations of a row by name: one, or the chosen and the rejected one."""
    if isinstance(row, Conversation):
        return {"": row}
    return dict(zip(("chosen", "rejected"), row.conversations, strict=True))


def examples_of(encoder: ChatEncoder, row: Conversation | Preference) -> list[Example]:
    """Return every sequence of a row as text.

    Args:
        encoder: The encoder, with the template and the limits of the training.
        row: The row.

    Raises:
        InvalidDataError: If the row can't be encoded.
    """
    made: list[Example] = []
    for side, conversation in conversations_of(row).items():
        sequences = encoder.encode(conversation)
        for number, each in enumerate(sequences, start=1):
            part = f"{number} of {len(sequences)}" if len(sequences) > 1 else ""
            which = ", ".join(filter(None, (side, part)))
            name = f"{row.where} ({which})" if which else row.where
            text = tuple(segments(encoder, each))
            made.append(Example(name, len(each.input_ids), sum(each.loss_mask), each.length, each.fate, text))
    return made


def segments(encoder: ChatEncoder, encoded: Encoded) -> Iterator[Segment]:
    """Decode a sequence from left to right, each segment in the context of those before it.

    Decoded by itself, a segment could lose its first space.
    """
    tokenizer: Any = encoder.tokenizer
    special = set(tokenizer.all_special_ids)
    ids, done, text = encoded.input_ids, 0, ""
    for end, trained in _spans(encoded):
        while done < end:
            is_special = ids[done] in special
            stop = done + 1
            while not is_special and stop < end and ids[stop] not in special:
                stop += 1
            before, text = text, tokenizer.decode(ids[:stop])
            yield Segment(text[len(before) :], trained, is_special)
            done = stop


def _spans(encoded: Encoded) -> Iterator[tuple[int, bool]]:
    for start, end in trained_spans(encoded.loss_mask):
        yield start, False
        yield end, True
    yield len(encoded.input_ids), False
