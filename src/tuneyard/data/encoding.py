"""Conversations to token ids and loss masks, with the ids the server makes of the same messages.

Rendered by the tokenizer's own chat template and tokenised without adding anything, as chat servers do: so the template
alone decides about BOS. The mask comes from the server's view of each turn: what it is given before an answer is
prompt, what follows up to the token it stops at is the answer. Not the contract's check over a template (`contract`),
and not the counting of rows (`check`).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tuneyard.data.conversations import Conversation, shown
from tuneyard.data.tokenizer import stop_token_ids
from tuneyard.errors import InvalidDataError, Problem

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

Overlong = Literal["drop", "truncate", "refuse"]
Fate = Literal["kept", "truncated", "dropped"]

_GENERATION_BLOCK = re.compile(r"\{%-?\s*generation\s*-?%\}")


@dataclass(frozen=True, slots=True)
class Encoded:
    """One conversation as a model reads it.

    Attributes:
        input_ids: Token ids, at most `max_length` of them; empty where the row was dropped.
        loss_mask: For each id, whether predicting it counts in the loss.
        length: Tokens of the whole conversation, before anything was cut.
        fate: `kept` whole, `truncated` to `max_length`, or `dropped` as too long.
        apart: Answers tokenised apart from their prompts: the tokenizer would have joined what the prompt ends with and
            what the answer begins with, and the server's model has to write them apart.
    """

    input_ids: list[int]
    loss_mask: list[bool]
    length: int
    fate: Fate = "kept"
    apart: int = 0

    @property
    def truncated(self) -> bool:
        """Whether tokens at the end were cut off."""
        return self.fate == "truncated"

    @property
    def dropped(self) -> bool:
        """Whether the row is too long to be used; it has no ids then."""
        return self.fate == "dropped"


class ChatEncoder:
    """Encodes conversations for training with a tokenizer's chat template.

    Args:
        tokenizer: As `load_tokenizer` gives it.
        max_length: The most tokens of a row; None for no limit.
        completions_only: Whether only answers are learnt, or the whole text.
        overlong: What happens to longer rows: `drop` leaves them out, `truncate` keeps their first `max_length` tokens
            (and drops those whose answers are all cut off), `refuse` raises.
        stop_ids: What the server stops at; by default asked of the folder the tokenizer was loaded from.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerFast,
        *,
        max_length: int | None = None,
        completions_only: bool = True,
        overlong: Overlong = "drop",
        stop_ids: Collection[int] | None = None,
    ) -> None:
        self.tokenizer = tokenizer
        self._tokenizer: Any = tokenizer  # its own annotations are unions too wide to use
        self.max_length = max_length
        self.completions_only = completions_only
        self.overlong: Overlong = overlong
        self.stop_ids = frozenset(
            stop_token_ids(tokenizer, Path(tokenizer.name_or_path)) if stop_ids is None else stop_ids
        )

    def encode(self, conversation: Conversation) -> Encoded:
        """Encode one conversation.

        Args:
            conversation: Whose last message is the assistant's.

        Returns:
            Ids and mask; with `fate` `dropped` and no ids where it is too long.

        Raises:
            InvalidDataError: With one problem, where the chat template refuses the conversation, renders it so that the
                answers can't be told from the prompts, or it is too long and `overlong` is `refuse`.
        """
        tokens, spans = self._tokens_and_answers(conversation)
        ids, apart = tokens.ids, tokens.cuts
        mask = [not self.completions_only] * len(ids)
        if self.completions_only:
            for start, end in spans:
                mask[start:end] = [True] * (end - start)
        if self.max_length is None or len(ids) <= self.max_length:
            return Encoded(ids, mask, len(ids), "kept", apart)
        if self.overlong == "refuse":
            raise _refusal(
                conversation, f"is {len(ids)} tokens long", allowed=f"at most {self.max_length} (max_seq_length)"
            )
        if self.overlong == "drop" or not any(mask[: self.max_length]):
            return Encoded([], [], len(ids), "dropped", apart)
        return Encoded(ids[: self.max_length], mask[: self.max_length], len(ids), "truncated", apart)

    def prompt_ids(self, conversation: Conversation, message: int) -> list[int]:
        """Return the ids a server makes of all that comes before a message, when it is asked to answer there.

        Args:
            conversation: Any conversation.
            message: The index of one of the assistant's messages.
        """
        ids: list[int] = self._tokenizer.apply_chat_template(
            _as_dicts(conversation)[:message],
            tools=_tools(conversation),
            add_generation_prompt=True,
            tokenize=True,
            return_dict=False,
        )
        return ids

    def unrendered(self, conversation: Conversation) -> list[str]:
        """Return the names of fields that the conversation has, but its chat template never mentions."""
        source = self._tokenizer.get_chat_template(None, _tools(conversation))
        names = ["tools"] if conversation.tools and "tools" not in source else []
        used = dict.fromkeys(key for message in conversation.messages for key in message.fields)
        return names + [f"messages[].{key}" for key in used if key not in source]

    def _tokens_and_answers(self, conversation: Conversation) -> tuple[_Tokens, list[tuple[int, int]]]:
        if "messages[].tool_calls" in self.unrendered(conversation):
            raise _refusal(conversation, "has tool_calls, which the chat template does not render")
        text = self._render(conversation, len(conversation.messages))
        if _GENERATION_BLOCK.search(self._tokenizer.get_chat_template(None, _tools(conversation))):
            borders = self._marked_borders(conversation)
        else:
            borders = self._prefix_borders(conversation, text)
        tokens = _Tokens(self._tokenizer, text)
        spans: list[tuple[int, int]] = []
        for prompt, said in borders:
            start = tokens.count_before(prompt)
            if start is None:
                raise _refusal(conversation, "begins an answer inside a token that belongs to the prompt")
            spans.append((start, self._answer_end(tokens, start, said, conversation)))
        return tokens, spans

    def _prefix_borders(self, conversation: Conversation, text: str) -> list[tuple[str, str]]:
        """Return, for each answer, the text before it and the text up to its end, as the server would render them."""
        borders: list[tuple[str, str]] = []
        for number, message in enumerate(conversation.messages):
            if message.role != "assistant":
                continue
            prompt = self._render(conversation, number, add_generation_prompt=True)
            if not text.startswith(prompt):
                raise _refusal(
                    conversation,
                    f"renders differently up to messages[{number}] once the answer is there: the chat template isn't "
                    "prefix-stable, so a server would be asked something else than what was learnt",
                    suggestion="chat_template_name chat-ml",
                )
            borders.append((prompt, self._render(conversation, number + 1)))
        return borders

    def _marked_borders(self, conversation: Conversation) -> list[tuple[str, str]]:
        """Return the same from the template's own `{% generation %}` blocks."""
        from transformers.utils.chat_template_utils import render_jinja_template

        tools = _tools(conversation)
        render: Any = render_jinja_template
        texts, blocks = render(
            conversations=[_as_dicts(conversation)],
            tools=tools,
            chat_template=self._tokenizer.get_chat_template(None, tools),
            return_assistant_tokens_mask=True,
            **self._tokenizer.special_tokens_map,
        )
        text: str = texts[0]
        stops: list[str] = [self._tokenizer.decode([number]) for number in self.stop_ids]
        borders: list[tuple[str, str]] = []
        for start, end in blocks[0]:
            # a block may leave out the stop token that follows it
            following = next((stop for stop in stops if text.startswith(stop, end)), "")
            borders.append((text[:start], text[: end + len(following)]))
        return borders

    def _answer_end(self, tokens: _Tokens, start: int, said: str, conversation: Conversation) -> int:
        """Return the index after the token that ends the answer which begins at `start`."""
        ids = tokens.ids
        for index in range(tokens.shared_with(said) - 1, start - 1, -1):
            if ids[index] in self.stop_ids:
                return index + 1
        # A template may render an answer otherwise once more turns follow (its reasoning left out)
        for index in range(start, len(ids)):
            if ids[index] in self.stop_ids:
                return index + 1
        names = [str(self.tokenizer.convert_ids_to_tokens(number)) for number in sorted(self.stop_ids)]
        raise _refusal(
            conversation,
            "has an answer that the chat template ends with no token the server stops at",
            allowed=" or ".join(names) or "an EOS token, which this tokenizer has not",
            suggestion="chat_template_name chat-ml",
        )

    def _render(self, conversation: Conversation, number: int, *, add_generation_prompt: bool = False) -> str:
        from jinja2 import TemplateError

        try:
            text: str = self._tokenizer.apply_chat_template(
                _as_dicts(conversation)[:number],
                tools=_tools(conversation),
                add_generation_prompt=add_generation_prompt,
                tokenize=False,
            )
        except (TemplateError, TypeError, ValueError, LookupError, AttributeError, ArithmeticError) as error:
            roles = ", ".join(message.role for message in conversation.messages)
            raise _refusal(
                conversation, f"is refused by the chat template: {shown(str(error), longest=200)}", f"roles {roles}"
            ) from error
        return text


class _Tokens:
    """The ids of one text, which can be cut where an answer begins inside a token.

    A server tokenises its prompt alone, and the model goes on from there. Where the whole text would be cut into other
    tokens around that border (a prompt that ends with a newline and an answer that begins with one), the text is
    tokenised in two pieces.
    """

    def __init__(self, tokenizer: Any, text: str) -> None:
        self._tokenizer = tokenizer
        # Straight to the Rust tokenizer: the Python call around it hands each single text to a pool of threads
        self._backend: Any = tokenizer.backend_tokenizer
        self._backend.no_truncation()
        self._backend.no_padding()
        self._text = text
        self._cuts: list[int] = []
        self.ids = self._tokenise(text)

    @property
    def cuts(self) -> int:
        """How many cuts were made."""
        return len(self._cuts)

    def count_before(self, prompt: str) -> int | None:
        """Return how many ids the text's beginning has, cutting there if need be; None where that can't be done."""
        prompt_ids = self._tokenise(prompt)
        if self.ids[: len(prompt_ids)] == prompt_ids:
            return len(prompt_ids)
        whole = self._tokenizer.decode(self.ids)
        self._cuts.append(len(prompt))
        self.ids = self._tokenise(self._text)
        return len(prompt_ids) if self._tokenizer.decode(self.ids) == whole else None

    def shared_with(self, beginning: str) -> int:
        """Return how many ids the text has in common with another text that begins like it."""
        if beginning == self._text:
            return len(self.ids)
        other = self._tokenise(beginning)
        if self.ids[: len(other)] == other:
            return len(other)
        pairs = zip(self.ids, other, strict=False)
        return next((index for index, (mine, theirs) in enumerate(pairs) if mine != theirs), len(self.ids))

    def _tokenise(self, text: str) -> list[int]:
        borders = [0, *(cut for cut in self._cuts if cut < len(text)), len(text)]
        ids: list[int] = []
        for start, end in pairwise(borders):
            ids += self._backend.encode(text[start:end], add_special_tokens=False).ids
        return ids


def _as_dicts(conversation: Conversation) -> list[dict[str, Any]]:
    return [message.as_dict() for message in conversation.messages]


def _tools(conversation: Conversation) -> list[dict[str, Any]] | None:
    return None if conversation.tools is None else list(conversation.tools)


def _refusal(
    conversation: Conversation, what: str, value: str = "", *, allowed: str = "", suggestion: str = ""
) -> InvalidDataError:
    problem = Problem(conversation.where or "a conversation", what, value, allowed, suggestion)
    return InvalidDataError(f"{problem.where}: {what}.", hint="", problems=[problem])


def trained_spans(loss_mask: Sequence[bool]) -> list[tuple[int, int]]:
    """Return the runs of True in a mask as (start, end) pairs, end excluded."""
    edges = [index for index in range(1, len(loss_mask)) if loss_mask[index] != loss_mask[index - 1]]
    borders = [0, *edges, len(loss_mask)]
    return [(start, end) for start, end in pairwise(borders) if start < end and loss_mask[start]]
