"""Rows of `chosen` and `rejected` in every form, as one `Preference`.

A side is text, one message, messages that continue the prompt, or the whole conversation; the prompt is a field of the
row or the common beginning of both sides. Not the other formats (`formats`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import takewhile
from typing import Any, cast

from tuneyard.data.conversations import Conversation, Message, Preference
from tuneyard.data.messages import Refused, check_messages

SIDES = ("chosen", "rejected")

_TURN = re.compile(r"\n\n(Human|Assistant): ?")
_SPEAKERS = {"Human": "user", "Assistant": "assistant"}


def preference(prompt: Sequence[Message] | None, sides: Sequence[Sequence[Message]], rest: Conversation) -> Preference:
    """Build a preference and check it.

    Args:
        prompt: The row's prompt field; None if it has none.
        sides: The messages of `chosen` and of `rejected`.
        rest: The row's place, tools and unused fields; its messages are ignored.

    Raises:
        Refused: If there is no prompt, the sides don't share it, they are equal, or violate a rule of messages.
    """
    chosen, rejected = (list(side) for side in sides)
    if chosen == rejected:
        raise Refused("chosen and rejected are equal, so neither is better", chosen[-1].content)
    opening = _opening(chosen, rejected)
    if opening:
        chosen, rejected = chosen[len(opening) :], rejected[len(opening) :]
        if prompt and not _ends_with(opening, [each for each in prompt if each.role != "system"]):
            raise Refused(
                "chosen and rejected do not begin with the prompt",
                prompt[-1].content,
                allowed="answers only, or whole conversations that begin with the prompt",
            )
        system = [each for each in prompt or () if each.role == "system"]
        prompt = opening if opening[0].role == "system" else [*system, *opening]
    if not prompt:
        raise Refused("has no prompt", allowed="prompt, or chosen and rejected that begin with the same messages")
    if prompt[-1].role == "assistant":
        raise Refused("the prompt ends with the assistant's message; an answer must follow a user's or tool's message")
    for name, side in zip(SIDES, (chosen, rejected), strict=True):
        if not side or side[0].role != "assistant":
            begins = f"begins with the {side[0].role}'s message" if side else "has no answer of its own"
            raise Refused(f"{name} {begins}", allowed="the assistant's message after the prompt")
        check_messages([*prompt, *side], rest.tools)
    return Preference(tuple(prompt), tuple(chosen), tuple(rejected), rest.tools, rest.where, rest.unused)


def transcript(text: str) -> list[Message] | None:
    r"""Read text of turns that begin with `\n\nHuman:` and `\n\nAssistant:`; None for other text."""
    before, *parts = _TURN.split("\n\n" + text.lstrip("\n"))
    if before.strip() or len(parts) < 4:
        return None
    turns = zip(parts[::2], parts[1::2], strict=True)
    return [Message(_SPEAKERS[speaker], words.strip()) for speaker, words in turns]


def _opening(chosen: list[Message], rejected: list[Message]) -> list[Message]:
    """Return the common beginning of both sides, up to the last message before they differ; none for answers alone."""
    pairs = zip(chosen[:-1], rejected[:-1], strict=False)
    shared = [one for one, _ in takewhile(lambda pair: pair[0] == pair[1], pairs)]
    if not shared or chosen[0].role == "assistant":
        return []
    while shared and shared[-1].role == "assistant":
        shared.pop()
    return shared


def _ends_with(opening: Sequence[Message], prompt: Sequence[Message]) -> bool:
    named = [(each.role, each.content.strip()) for each in prompt]
    whole = [(each.role, each.content.strip()) for each in opening if each.role != "system"]
    # The prompt may be the first question of a longer conversation.
    return not named or whole[-len(named) :] == named or whole[: len(named)] == cast("list[Any]", named)
