"""The chat template contract between a training and the server of its result, checked before step 1.

There are no two BOS in a row; the mask covers every answer, and with completions only nothing else; each answer ends
with the first token that the server stops at; the ids before each answer are those the server renders for the same
messages. Checked on synthetic conversations and on a few real ones of each kind. Whether an answer contains all of its
message's text, reasoning and tool calls is checked for every row as it is encoded.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

from tuneyard.data.conversations import Conversation, Message
from tuneyard.data.encoding import ChatEncoder, Encoded
from tuneyard.errors import InvalidDataError, Problem

WHERE = "chat template"

_ONE_TURN = (Message("user", "What is a yard?"), Message("assistant", "A place to build boats."))
_TWO_TURNS = (*_ONE_TURN, Message("user", "And a boat?"), Message("assistant", "What is built there."))


def check_template(encoder: ChatEncoder, samples: Iterable[Conversation] = ()) -> list[Problem]:
    """Check that a chat template renders the same for training and for a server.

    Args:
        encoder: The encoder, with the template and the stop tokens to check.
        samples: Some real conversations; one that the template refuses is skipped, since its row is reported.

    Returns:
        The problems, each with a suggestion; empty if there are none.
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
    unlimited = ChatEncoder(encoder.tokenizer, completions_only=encoder.completions_only, stop_ids=encoder.stop_ids)
    sequences = unlimited.encode(conversation)
    answers = conversation.answers
    trained = sum(len(sequence.answers) for sequence in sequences)
    if trained != len(answers):
        return [Problem(WHERE, "does not mark every answer", f"{trained} answers", str(len(answers)))]
    found: list[Problem | None] = []
    for sequence in sequences:
        found.append(_bos_problem(encoder, sequence, conversation))
        found.append(_mask_problem(encoder, sequence))
        for span in sequence.answers:
            found += _answer_problems(encoder, sequence, span, conversation, answers.pop(0))
    return [problem for problem in found if problem is not None]


def _bos_problem(encoder: ChatEncoder, encoded: Encoded, conversation: Conversation) -> Problem | None:
    bos = encoder.tokenizer.bos_token_id
    if bos is None or not any(pair == (bos, bos) for pair in pairwise(encoded.input_ids)):
        return None
    name = str(encoder.tokenizer.bos_token)
    if any(name in message.content for message in conversation.messages):
        return None  # the row's own text contains it
    return Problem(WHERE, "begins a conversation with two BOS tokens", name, "one")


def _mask_problem(encoder: ChatEncoder, encoded: Encoded) -> Problem | None:
    answers = {index for start, end in encoded.answers for index in range(start, end)}
    trained = {index for index, counts in enumerate(encoded.loss_mask) if counts}
    if encoder.completions_only and trained != answers:
        return Problem(WHERE, "trains on tokens other than the answers", f"{len(trained ^ answers)} tokens differ")
    if not trained >= answers:
        return Problem(WHERE, "excludes a part of an answer from the loss", f"{len(answers - trained)} tokens")
    return None


def _answer_problems(
    encoder: ChatEncoder, encoded: Encoded, span: tuple[int, int], conversation: Conversation, number: int
) -> list[Problem | None]:
    start, end = span
    content = conversation.messages[number].content
    ids = encoded.input_ids[start:end]
    text = str(encoder.tokenizer.decode(ids))
    found: list[Problem | None] = []
    if not ids or ids[-1] not in encoder.stop_ids:
        found.append(Problem(WHERE, "ends an answer with a token that the server does not stop at", text[-40:]))
    earlier = {str(encoder.tokenizer.decode([each])) for each in ids[:-1] if each in encoder.stop_ids}
    if any(stop not in content for stop in earlier):
        found.append(Problem(WHERE, "continues an answer after a token that the server stops at", text[-40:]))
    if encoder.prompt_ids(conversation, number) != encoded.input_ids[:start]:
        found.append(
            Problem(
                WHERE,
                f"renders different tokens before messages[{number}] for a server than for training",
                suggestion="chat_template_name chat-ml",
            )
        )
    return found
