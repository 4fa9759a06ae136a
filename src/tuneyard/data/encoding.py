"""Conversations to token ids and loss masks, with the ids that the server computes for the same messages.

Tokenised without adding anything, as chat servers do, so the template alone decides about BOS. A conversation is one
sequence as long as the server's prompt before each answer begins with the preceding part of the sequence; where the
template renders earlier turns differently, the answer begins its own sequence. Not the rendering (`rendering`), the
check of a template's contract (`contract`), nor the counting of rows (`check`).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tuneyard.data.conversations import Conversation
from tuneyard.data.rendering import Renderer, Turn, check_answer, refusal, template_messages, tools_of
from tuneyard.data.special import SpecialTokens
from tuneyard.data.tokenizer import stop_token_ids

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from tuneyard.data.bounded import TemplateProcess

Overlong = Literal["drop", "truncate", "refuse"]
CutAnswers = Literal["keep", "drop", "refuse"]
Fate = Literal["kept", "truncated", "dropped"]


@dataclass(frozen=True, slots=True)
class Encoded:
    """One sequence as a model reads it: a conversation, or a part of it that ends with an answer.

    Attributes:
        input_ids: Token ids, at most `max_length` of them; empty if it was dropped.
        loss_mask: For each id, whether predicting it counts in the loss.
        length: Its tokens before anything was cut.
        fate: `kept` whole, `truncated` to `max_length`, or `dropped` as too long.
        apart: Answers tokenised separately from their prompts: the tokenizer would have merged the prompt's end with
            the answer's beginning, but the server's model has to generate them separately.
        answers: For each answer that is trained here, (start, end) in the whole sequence, end excluded.
        reason: Why it was dropped: `overlong` or `cut_answers`, as in the values; else empty.
        where: The place of its conversation, `file:line`.
    """

    input_ids: list[int]
    loss_mask: list[bool]
    length: int
    fate: Fate = "kept"
    apart: int = 0
    answers: tuple[tuple[int, int], ...] = ()
    reason: str = ""
    where: str = ""

    @property
    def cuts_answer(self) -> bool:
        """Whether an answer was truncated, so that its end is not trained."""
        return self.truncated and any(start < len(self.input_ids) < end for start, end in self.answers)

    @property
    def lost_answers(self) -> int:
        """How many whole answers were cut off."""
        return sum(start >= len(self.input_ids) for start, _ in self.answers) if self.truncated else 0

    @property
    def truncated(self) -> bool:
        """Whether tokens at the end were cut off."""
        return self.fate == "truncated"

    @property
    def dropped(self) -> bool:
        """Whether it was dropped; it has no ids then."""
        return self.fate == "dropped"


@dataclass(slots=True)
class _Sequence:
    """A sequence that may still be continued.

    `repeats` ids at its beginning are also in the previous one; `untrained` are answers that the row excludes.
    """

    ids: list[int]
    answers: list[tuple[int, int]]
    apart: int
    repeats: int = 0
    untrained: list[tuple[int, int]] = field(default_factory=list[tuple[int, int]])

    def continues_in(self, prompt_ids: list[int]) -> bool:
        so_far = self.ids[: max(end for _, end in (*self.answers, *self.untrained))]
        return prompt_ids[: len(so_far)] == so_far


class ChatEncoder:
    """Encodes conversations for training with a tokenizer's chat template.

    Args:
        tokenizer: As `load_tokenizer` returns it.
        max_length: The most tokens of a sequence; None for no limit.
        completions_only: Whether only answers are trained, or the whole text (each token of it once).
        overlong: What happens to longer ones: `drop` drops them, `truncate` keeps their first `max_length` tokens (and
            drops those whose answers are all cut off), `refuse` raises.
        cut_answers: What happens to truncated ones with a truncated answer.
        stop_ids: The ids that the server stops at; by default read from the tokenizer's folder.
        process: The process that renders the chat template; None for the shared one.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerFast,
        *,
        max_length: int | None = None,
        completions_only: bool = True,
        overlong: Overlong = "drop",
        cut_answers: CutAnswers = "keep",
        stop_ids: Collection[int] | None = None,
        process: TemplateProcess | None = None,
    ) -> None:
        self.tokenizer = tokenizer
        self._tokenizer: Any = tokenizer  # its own annotations are unions too wide to use
        self.max_length = max_length
        self.completions_only = completions_only
        self.overlong: Overlong = overlong
        self.cut_answers: CutAnswers = cut_answers
        self.stop_ids = frozenset(
            stop_token_ids(tokenizer, Path(tokenizer.name_or_path)) if stop_ids is None else stop_ids
        )
        self._renderer = Renderer(
            tokenizer, [self._tokenizer.decode([number]) for number in sorted(self.stop_ids)], process
        )
        # The Rust tokenizer itself: its Python wrapper uses a thread pool even for a single text.
        self._backend: Any = self._tokenizer.backend_tokenizer
        self._backend.no_truncation()
        self._backend.no_padding()

    def encode(self, conversation: Conversation) -> list[Encoded]:
        """Encode one conversation.

        Args:
            conversation: Whose last message is the assistant's.

        Returns:
            Its sequences in order, at least one; one that is too long has the `fate` `dropped` and no ids.

        Raises:
            InvalidDataError: With one problem: the chat template refuses the conversation or omits a part of it, an
                answer can't be separated from its prompt, or it is too long and `overlong` is `refuse`.
        """
        conversation = self._as_marked(conversation)
        return [
            replace(self._fitted(conversation, sequence), where=conversation.where)
            for sequence in self._sequences(conversation)
        ]

    def prompt_ids(self, conversation: Conversation, message: int) -> list[int]:
        """Return the ids of a server's prompt for a message: of everything before it, with a generation prompt.

        Args:
            conversation: Any conversation.
            message: The index of one of the assistant's messages.
        """
        ids: list[int] = self._tokenizer.apply_chat_template(
            template_messages(each.as_dict() for each in conversation.messages[:message]),
            tools=tools_of(conversation),
            add_generation_prompt=True,
            tokenize=True,
            return_dict=False,
        )
        return ids

    @cached_property
    def special_tokens(self) -> SpecialTokens:
        """The search for special tokens in a row's texts."""
        return SpecialTokens(self.tokenizer, self.stop_ids)

    def unrendered(self, conversation: Conversation) -> list[str]:
        """Return the names of fields that the conversation has but the chat template does not use."""
        return self._renderer.unrendered(conversation)

    def _as_marked(self, conversation: Conversation) -> Conversation:
        """Refuse marks that can't be honoured, and drop the messages after the last trained answer."""
        answers = conversation.answers
        if not answers:
            raise refusal(conversation, "marks every answer as not trained", allowed="at least one trained answer")
        for number, message in enumerate(conversation.messages):
            if message.role == "assistant" or message.trained in (None, not self.completions_only):
                continue
            if message.trained:
                what = f"marks messages[{number}], the {message.role}'s, as trained, but only answers are"
                raise refusal(conversation, what, suggestion="train_on_completions_only false")
            if not self.completions_only:
                what = f"marks messages[{number}], the {message.role}'s, as not trained, but the whole text is"
                raise refusal(conversation, what, suggestion="train_on_completions_only true")
        if not self.completions_only:
            return conversation
        return replace(conversation, messages=conversation.messages[: answers[-1] + 1])

    def _fitted(self, conversation: Conversation, sequence: _Sequence) -> Encoded:
        ids, answers = sequence.ids, tuple(sequence.answers)
        mask = [not self.completions_only and index >= sequence.repeats for index in range(len(ids))]
        if self.completions_only:
            for start, end in answers:
                mask[start:end] = [True] * (end - start)
        for start, end in sequence.untrained:
            mask[start:end] = [False] * (end - start)
        if self.max_length is None or len(ids) <= self.max_length:
            return Encoded(ids, mask, len(ids), "kept", sequence.apart, answers)
        if self.overlong == "refuse":
            raise refusal(
                conversation,
                f"is {len(ids)} tokens long",
                allowed=f"at most {self.max_length} (max_seq_length)",
                choice="overlong",
            )
        dropped = Encoded([], [], len(ids), "dropped", sequence.apart, answers, "overlong")
        if self.overlong == "drop" or not any(mask[: self.max_length]):
            return dropped
        cut = slice(self.max_length)
        kept = Encoded(ids[cut], mask[cut], len(ids), "truncated", sequence.apart, answers)
        if not kept.cuts_answer or self.cut_answers == "keep":
            return kept
        if self.cut_answers == "refuse":
            raise refusal(
                conversation,
                f"is {len(ids)} tokens long, and truncated to {self.max_length} inside an answer",
                allowed="whole answers",
                choice="cut_answers",
            )
        return replace(dropped, reason="cut_answers")

    def _sequences(self, conversation: Conversation) -> list[_Sequence]:
        unrendered = self.unrendered(conversation)
        sequences: list[_Sequence] = []
        numbers = conversation.answers if self.completions_only else conversation.own_answers
        for number, turn in zip(numbers, self._renderer.turns(conversation, numbers), strict=True):
            prompt_ids = self._tokenise(turn.prompt).ids
            rest_ids, ends, apart = self._continued(conversation, turn, prompt_ids)
            count = self._answer_length(conversation, rest_ids)
            check_answer(conversation, turn, turn.rest[: ends[count - 1]], unrendered)
            ids, answer = prompt_ids + rest_ids, (len(prompt_ids), len(prompt_ids) + count)
            last = sequences[-1] if sequences else None
            if last is not None and last.continues_in(prompt_ids):
                last.ids = ids
                last.apart += apart
            else:
                last = _Sequence(ids, [], int(apart), 0 if last is None else _shared(last.ids, ids))
                sequences.append(last)
            (last.untrained if conversation.messages[number].trained is False else last.answers).append(answer)
        if len(sequences) > 1 and any(sequence.untrained for sequence in sequences):
            what = "marks an answer as not trained that the chat template renders differently in later turns"
            raise refusal(conversation, what, suggestion="train_on_completions_only true")
        return sequences

    def _continued(
        self, conversation: Conversation, turn: Turn, prompt_ids: list[int]
    ) -> tuple[list[int], list[int], bool]:
        """Return the ids after the prompt's, where each ends in the text, and whether they were tokenised separately.

        A server tokenises its prompt alone, and the model continues from there. If the whole text has other tokens
        around that boundary (a prompt that ends with a newline and an answer that begins with one), the rest is
        tokenised separately.
        """
        whole = self._tokenise(turn.prompt + turn.rest)
        begins = len(prompt_ids)
        if whole.ids[:begins] == prompt_ids:
            return whole.ids[begins:], [end - len(turn.prompt) for _, end in whole.offsets[begins:]], False
        alone = self._tokenise(turn.rest)
        if self._tokenizer.decode(prompt_ids + alone.ids) != self._tokenizer.decode(whole.ids):
            raise refusal(conversation, "begins an answer inside a token that belongs to the prompt")
        return alone.ids, [end for _, end in alone.offsets], True

    def _answer_length(self, conversation: Conversation, rest_ids: list[int]) -> int:
        """Return how many ids the answer has, including the token that ends it."""
        stops = [index for index, number in enumerate(rest_ids) if number in self.stop_ids]
        if not stops:
            names = [str(self.tokenizer.convert_ids_to_tokens(number)) for number in sorted(self.stop_ids)]
            raise refusal(
                conversation,
                "has an answer that the chat template does not end with a token that the server stops at",
                allowed=" or ".join(names) or "an EOS token, which this tokenizer does not have",
                suggestion="chat_template_name chat-ml",
            )
        last = stops.pop()
        # A template may put EOS after the end of the turn (Phi); the server stops at the first of them
        while stops and not self._tokenizer.decode(rest_ids[stops[-1] + 1 : last]).strip():
            last = stops.pop()
        return last + 1

    def _tokenise(self, text: str) -> Any:
        return self._backend.encode(text, add_special_tokens=False)


def _shared(one: list[int], other: list[int]) -> int:
    pairs = zip(one, other, strict=False)
    return next((index for index, (mine, theirs) in enumerate(pairs) if mine != theirs), min(len(one), len(other)))


def trained_spans(loss_mask: Sequence[bool]) -> list[tuple[int, int]]:
    """Return the runs of True in a mask as (start, end) pairs, end excluded."""
    edges = [index for index in range(1, len(loss_mask)) if loss_mask[index] != loss_mask[index - 1]]
    borders = [0, *edges, len(loss_mask)]
    return [(start, end) for start, end in pairwise(borders) if start < end and loss_mask[start]]
