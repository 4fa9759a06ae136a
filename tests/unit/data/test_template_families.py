"""Over the templates of real models: the trained ids are those that a server would request and stop at, on every turn.

The oracle is the server's view: the tokenizer's own rendering of the messages before an answer, with its generation
prompt.
"""

from __future__ import annotations

import pytest

from lab.chat_families import CONVERSATIONS, FAMILIES, make_family_tokenizer
from lab.chats import DataConf
from tuneyard.data import ChatEncoder, check_template, load_tokenizer
from tuneyard.data.rendering import template_messages
from tuneyard.errors import InvalidDataError


@pytest.fixture(scope="module")
def encoders(tmp_path_factory):
    """An encoder for each family, built on demand."""
    root, made = tmp_path_factory.mktemp("families"), {}

    def encoder(name: str) -> ChatEncoder:
        if name not in made:
            folder = make_family_tokenizer(root / name, FAMILIES[name])
            made[name] = ChatEncoder(load_tokenizer(folder, DataConf()))
        return made[name]

    return encoder


@pytest.mark.parametrize("kind", CONVERSATIONS)
@pytest.mark.parametrize("name", FAMILIES)
def test_each_answer_is_trained_after_the_servers_prompt_up_to_its_stop_token(encoders, name, kind):
    family, conversation, encoder = FAMILIES[name], CONVERSATIONS[kind], encoders(name)
    if kind in family.refused:
        with pytest.raises(InvalidDataError) as refused:
            encoder.encode(conversation)
        assert refused.value.problems[0].where == "rows.jsonl:1"
        return
    sequences = encoder.encode(conversation)
    tokenizer = encoder.tokenizer
    answers = [number for number, message in enumerate(conversation.messages) if message.role == "assistant"]
    trained = [(sequence, span) for sequence in sequences for span in sequence.answers]
    assert len(trained) == len(answers)
    for sequence, spans in ((sequence, sequence.answers) for sequence in sequences):
        within = {index for start, end in spans for index in range(start, end)}
        assert within == {index for index, counts in enumerate(sequence.loss_mask) if counts} != set()
    messages = [message.as_dict() for message in conversation.messages]
    for number, (sequence, (start, end)) in zip(answers, trained, strict=True):
        request = template_messages(messages[:number])
        given = None if conversation.tools is None else list(conversation.tools)
        served = tokenizer.apply_chat_template(request, tools=given, add_generation_prompt=True, return_dict=False)
        assert sequence.input_ids[:start] == served
        stops = set(tokenizer.convert_tokens_to_ids(list(family.stops)))
        assert [place for place in range(start, end) if sequence.input_ids[place] in stops] == [end - 1]
        text = tokenizer.decode(sequence.input_ids[start:end])
        message = conversation.messages[number]
        assert message.content.strip() in text
        for field in ("reasoning_content", "thinking"):
            is_reported = f"messages[].{field}" in encoder.unrendered(conversation)
            assert is_reported or message.fields.get(field, "") in text
        for one in message.fields.get("tool_calls", ()):
            assert one["function"]["name"] in text and "Anna" in text
        if family.bos:
            bos = tokenizer.bos_token_id
            assert sequence.input_ids[0] == bos
            assert sequence.input_ids[1] != bos
    assert check_template(encoder, [conversation]) == []


@pytest.mark.parametrize("name", FAMILIES)
def test_a_familys_supported_forms_are_not_refused(encoders, name):
    refused = set()
    for kind, conversation in CONVERSATIONS.items():
        try:
            encoders(name).encode(conversation)
        except InvalidDataError:
            refused.add(kind)
    assert refused == set(FAMILIES[name].refused)


@pytest.mark.parametrize("name", FAMILIES)
def test_our_own_server_computes_the_trained_ids(encoders, name):
    from tuneyard.serving.answers.decoding import SpecialTokens
    from tuneyard.serving.requests import ChatCompletionRequest
    from tuneyard.serving.template import ChatTemplate

    encoder = encoders(name)
    template = ChatTemplate(encoder.tokenizer, SpecialTokens(encoder.tokenizer), encoder.stop_ids)
    for kind, conversation in CONVERSATIONS.items():
        if kind in FAMILIES[name].refused:
            continue
        trained = [(each, span) for each in encoder.encode(conversation) for span in each.answers]
        answers = [number for number, message in enumerate(conversation.messages) if message.role == "assistant"]
        for number, (sequence, (start, _)) in zip(answers, trained, strict=True):
            messages = [message.as_dict() for message in conversation.messages[:number]]
            request = {"model": "m", "messages": messages, "tools": conversation.tools and list(conversation.tools)}
            body = ChatCompletionRequest.model_validate(
                {key: value for key, value in request.items() if value is not None}
            )
            served = template.prompt(body.given_messages, body.offered_tools, {}).inputs["input_ids"].tolist()
            assert served == [sequence.input_ids[:start]], kind
