"""The chat template contract reports every difference between a server and the training."""

from __future__ import annotations

import pytest

from lab.chats import DataConf, chat
from tuneyard.data import check_template

CHAT_ML = DataConf(chat_template_name="chat-ml")
HEAD = "{% for message in messages %}"
TAIL = "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
TURN = "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"


@pytest.mark.parametrize("conf", [DataConf(), CHAT_ML], ids=["keep-original", "chat-ml"])
@pytest.mark.parametrize("style", ["chatml", "llama3", "mistral", "zephyr"])
def test_the_known_families_of_templates_keep_the_contract(make_encoder, style, conf):
    encoder = make_encoder(style, conf=conf)
    assert check_template(encoder, [chat("a", "b"), chat("a", "b", "c", "\n\nd", system="s")]) == []


def test_the_whole_text_in_the_loss_keeps_it_too(make_encoder):
    assert check_template(make_encoder("chatml", completions_only=False)) == []


def test_the_length_limit_does_not_affect_the_contract(make_encoder):
    assert check_template(make_encoder("chatml", max_length=3)) == []


def test_two_bos_are_found(make_encoder):
    template = "{{ bos_token + bos_token }}" + HEAD + "{{ message['content'] + eos_token }}" + "{% endfor %}"
    (problem,) = check_template(make_encoder("llama3", template=template))
    assert str(problem) == (
        "chat template: begins a conversation with two BOS tokens (given: '<|begin_of_text|>'); allowed: one"
    )


def test_a_template_that_never_stops_is_found(make_encoder):
    template = HEAD + "{{ message['role'] + ': ' + message['content'] + '\n' }}" + "{% endfor %}"
    (problem,) = check_template(make_encoder("chatml", template=template))
    assert str(problem) == (
        "chat template: has an answer that the chat template does not end with a token that the server stops at; "
        "allowed: <|im_end|>; did you mean chat_template_name chat-ml?"
    )


def test_an_end_that_the_server_does_not_stop_at_is_found(make_encoder):
    encoder = make_encoder("chatml", stop_ids=[0])
    (problem,) = check_template(encoder)
    assert "does not end with a token that the server stops at; allowed: <|endoftext|>" in str(problem)


def test_a_template_that_changes_earlier_turns_is_found(make_encoder):
    template = "{{ messages | length }}" + HEAD + TURN + TAIL
    (problem,) = check_template(make_encoder("chatml", template=template))
    assert "renders differently up to messages[1] once the answer follows" in str(problem)


@pytest.mark.parametrize(
    "turn",
    [
        "{{ '<|im_start|>assistant\n' + message['content'][:4] }}"
        "{% generation %}{{ message['content'][4:] + '<|im_end|>' }}{% endgeneration %}{{ '\n' }}",
        TURN + "{% if false %}{% generation %}{% endgeneration %}{% endif %}",
    ],
)
def test_a_templates_generation_blocks_are_ignored(make_encoder, turn):
    template = HEAD + "{% if message['role'] == 'assistant' %}" + turn + "{% else %}" + TURN + "{% endif %}" + TAIL
    encoder = make_encoder("chatml", template=template)
    assert check_template(encoder) == []
    [encoded] = encoder.encode(chat("a", "words of an answer"))
    start, end = encoded.answers[0]
    assert encoder.tokenizer.decode(encoded.input_ids[start:end]) == "words of an answer<|im_end|>"


def test_a_template_for_single_questions_keeps_it_for_them(make_encoder):
    template = (
        "{% if messages | length > 2 %}{{ raise_exception('one question only') }}{% endif %}" + HEAD + TURN + TAIL
    )
    assert check_template(make_encoder("chatml", template=template)) == []


def test_a_template_that_refuses_everything_is_found(make_encoder):
    template = "{{ raise_exception('not today') }}"
    (problem,) = check_template(make_encoder("chatml", template=template))
    assert str(problem) == (
        "chat template: is refused by the chat template: not today (given: 'roles user, assistant')"
    )
