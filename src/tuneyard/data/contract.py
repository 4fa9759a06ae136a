"""The chat template contract: what has to hold between a training and the server of its result, before step 1.

One BOS at most; every answer's mask ends with a token the server stops at and covers the answer's words; the ids before
each answer are those the server makes of the same messages. Checked on a made-up conversation of two turns and on a few
real ones.
"""

from __future__ import annotations

from collections.abc import Iterable

from tuneyard.data.conversations import Conversation, Message
from tuneyard.data.encoding import ChatEncoder, Encoded, trained_spans
from tuneyard.errors import InvalidDataError, Problem

WHERE = "chat template"

_ONE_TURN = (Message("user", "What is a yard?"), Message("assistant", "A place to build boats."))
_TWO_TURNS = (*_ONE_TURN, Message("user", "And a boat?"), Message("assistant", "What is built there."))


def check_template(encoder: ChatEncoder, samples: Iterable[Conversation] = ()) -> list[Problem]:
    """Check that a chat template trains what a server will ask for.

    Args:
        encoder: With the template and the stop tokens in question.
        samples: Some real conversations; one that the template refuses is passed over here, as its row is told of.

    Returns:
        What doesn't hold, each with what to do about it; empty where all holds.
    """
    try:
        problems = _check(encoder, Conversation(_ONE_TURN, where=WHERE))
    except InvalidDataError as error:
        return list(error.problems)
    for conversation in (Conversation(_TWO_TURNS, where=WHERE), *samples):
        if problems:
            break
        try:
            problems = _check(encoder, conversation)
        except InvalidDataError:
            # templates for single questions are fine; rows with more turns are refused one by one
            continue
    return problems


def _check(encoder: ChatEncoder, conversation: Conversation) -> list[Problem]:
    whole = ChatEncoder(encoder.tokenizer, completions_only=encoder.completions_only, stop_ids=encoder.stop_ids).encode(
        conversation
    )
    found = [_bos_problem(encoder, whole)]
    if encoder.completions_only:
        found += _answer_problems(encoder, whole, conversation)
    elif not all(whole.loss_mask):
        found.append(Problem(WHERE, "leaves a part of the text out of the loss"))
    return [problem for problem in found if problem is not None]


def _bos_problem(encoder: ChatEncoder, encoded: Encoded) -> Problem | None:
    bos = encoder.tokenizer.bos_token_id
    if bos is None or encoded.input_ids[:2] != [bos, bos]:
        return None
    return Problem(WHERE, "begins a conversation with two BOS tokens", str(encoder.tokenizer.bos_token), "one")


def _answer_problems(encoder: ChatEncoder, encoded: Encoded, conversation: Conversation) -> list[Problem | None]:
    answers = [number for number, message in enumerate(conversation.messages) if message.role == "assistant"]
    spans = trained_spans(encoded.loss_mask)
    if len(spans) != len(answers):
        return [Problem(WHERE, "marks another number of answers than there are", str(len(spans)), str(len(answers)))]
    found: list[Problem | None] = []
    for number, (start, end) in zip(answers, spans, strict=True):
        words = conversation.messages[number].content.strip()
        learnt = str(encoder.tokenizer.decode(encoded.input_ids[start:end]))
        if encoded.input_ids[end - 1] not in encoder.stop_ids:
            found.append(Problem(WHERE, "ends an answer with a token the server does not stop at", learnt[-40:]))
        if words not in learnt:
            found.append(Problem(WHERE, "leaves words of an answer out of the loss", words[:60]))
        served, trained = encoder.prompt_ids(conversation, number), encoded.input_ids[:start]
        if encoded.apart and number != answers[0]:
            # one row can't hold both an answer as it is written and the same answer as it is read back in a later turn
            served, trained = encoder.tokenizer.decode(served), encoder.tokenizer.decode(trained)
        if served != trained:
            found.append(
                Problem(
                    WHERE,
                    f"gives a server other tokens before messages[{number}] than the training had",
                    suggestion="chat_template_name chat-ml",
                )
            )
    return found
