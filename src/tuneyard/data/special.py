"""Special tokens in a row's own texts, where the model reads them as control tokens.

`<|im_end|>` in a user's text ends the user's turn, and in an answer it ends the answer. Servers read messages as
training does, so it can only be fixed in the data. The tokenizer decides: a text contains one if encoding it gives the
id of a control token, however it is spelt. What happens to such a row is up to `check`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from tuneyard.data.conversations import Conversation, Preference, shown

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

_AROUND = 20
_THOUGHTS = ("<think>", "</think>")
_PROBE = [
    {"role": "user", "content": "What is a yard?"},
    {"role": "assistant", "content": "A place to build boats."},
    {"role": "user", "content": "And a boat?"},
]


@dataclass(frozen=True, slots=True)
class SpecialText:
    """A special token in a text.

    Attributes:
        where: The row, as `file:line`.
        part: The text, such as `messages[1].content`.
        role: The message's role, or `tools`.
        token: The token, as the tokenizer spells it.
        text: Some of the text around it.
    """

    where: str
    part: str
    role: str
    token: str
    text: str


class SpecialTokens:
    """Finds control tokens in texts.

    These are the tokenizer's special tokens, the tokens that the server stops at, and the added tokens with which the
    chat template separates messages. Tags of reasoning (`<think>`) are not among them: answers may contain them.

    Args:
        tokenizer: The tokenizer, with the chat template of the training.
        stop_ids: The ids that the server stops at.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast, stop_ids: frozenset[int]) -> None:
        loaded: Any = tokenizer
        self._backend = loaded.backend_tokenizer
        added: Mapping[int, Any] = loaded.added_tokens_decoder
        parting = set(_rendered(loaded)) & {number for number, token in added.items() if _marks(token.content)}
        special = {number for number, token in added.items() if token.special} | set(loaded.all_special_ids)
        self._ids = frozenset(special | parting | stop_ids)
        self._names = {number: str(loaded.convert_ids_to_tokens(number)) for number in self._ids}
        self._unknown: int | None = loaded.unk_token_id

    def found_in(self, row: Conversation | Preference) -> list[SpecialText]:
        """Return the special tokens in a row's texts, each token once for each text.

        Args:
            row: The row: all of its messages, calls and tools are searched.
        """
        texts = list(_texts(row))
        together = "\n".join(text for _, _, text in texts)
        if self._ids.isdisjoint(self._backend.encode(together, add_special_tokens=False).ids):
            return []  # as nearly always; one call is faster than one for each text
        return [
            SpecialText(row.where, part, role, token, around)
            for part, role, text in texts
            for token, around in self._tokens_in(text).items()
        ]

    def _tokens_in(self, text: str) -> dict[str, str]:
        encoding = self._backend.encode(text, add_special_tokens=False)
        found: dict[str, str] = {}
        for number, (start, end) in zip(encoding.ids, encoding.offsets, strict=True):
            name = self._names.get(number)
            if name is None or name in found:
                continue
            if number == self._unknown and text[start:end].strip() != name:
                continue  # a character that the vocabulary lacks
            found[name] = shown(text[max(0, start - _AROUND) : end + _AROUND])
        return found


def _marks(token: str) -> bool:
    return bool(token.strip()) and not token.strip().isalnum() and token not in _THOUGHTS


def _rendered(tokenizer: Any) -> Sequence[int]:
    """Encode a synthetic conversation as the server would; return nothing where the template refuses it."""
    from jinja2 import TemplateError

    try:
        text: str = tokenizer.apply_chat_template(_PROBE, add_generation_prompt=True, tokenize=False)
    except (TemplateError, TypeError, ValueError, LookupError, AttributeError, ArithmeticError):
        return ()
    return tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids


def _texts(row: Conversation | Preference) -> Iterator[tuple[str, str, str]]:
    """Yield every text of a row: its name, its role, and the text."""
    sides = (
        {"messages": row.messages}
        if isinstance(row, Conversation)
        else {"prompt": row.prompt, "chosen": row.chosen, "rejected": row.rejected}
    )
    for side, messages in sides.items():
        for number, message in enumerate(messages):
            yield f"{side}[{number}].content", message.role, message.content
            for key, value in message.fields.items():
                for path, text in _strings(value, f"{side}[{number}].{key}"):
                    yield path, message.role, text
    for path, text in _strings(list(row.tools or ()), "tools"):
        yield path, "tools", text


def _strings(value: Any, path: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, Mapping):
        for key, item in cast("Mapping[str, Any]", value).items():
            yield f"{path}.{key}", str(key)
            yield from _strings(item, f"{path}.{key}")
    elif isinstance(value, list | tuple):
        for number, item in enumerate(cast("Sequence[Any]", value)):
            yield from _strings(item, f"{path}[{number}]")
