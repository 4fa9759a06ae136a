"""Ids and masks: exactly the answers and their stop tokens, with the ids of a server for the same messages."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lab.chats import DataConf, chat
from lab.tiny_models import CHATML
from tuneyard.data import ChatEncoder, Conversation, Encoded, Message, check_template
from tuneyard.data.encoding import trained_spans
from tuneyard.errors import InvalidDataError

CHAT_ML = DataConf(chat_template_name="chat-ml")
SMOLLM2 = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n' }}"
    "{% endif %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
MARKED = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}{% if message['role'] == 'assistant' %}"
    "{% generation %}{{ message['content'] + '<|im_end|>' }}{% endgeneration %}{{ '\n' }}"
    "{% else %}{{ message['content'] + '<|im_end|>\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# like Qwen3: reasoning stays in the last answer only
REASONING = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% if message['role'] == 'assistant' and loop.last %}{{ '<think>\n\n</think>\n\n' }}{% endif %}"
    "{{ message['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
UNSTABLE = (
    "{{ messages | length }}{% for message in messages %}{{ message['content'] + eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '>' }}{% endif %}"
)
ENDLESS = "{% for message in messages %}{{ message['role'] + ': ' + message['content'] + '\n' }}{% endfor %}"


def trained(encoder: ChatEncoder, encoded: Encoded) -> list[str]:
    """Return the trained texts of one sequence."""
    spans = trained_spans(encoded.loss_mask)
    return [encoder.tokenizer.decode(encoded.input_ids[start:end]) for start, end in spans]


@pytest.mark.parametrize(
    ("style", "options", "text", "answers"),
    [
        (
            "chatml",
            {},
            "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\nWhat is a yard?<|im_end|>\n"
            "<|im_start|>assistant\nA place.<|im_end|>\n<|im_start|>user\nAnd?<|im_end|>\n"
            "<|im_start|>assistant\nBoats.<|im_end|>\n",
            ["A place.<|im_end|>", "Boats.<|im_end|>"],
        ),
        (
            "chatml",
            {"template": SMOLLM2},
            "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
            "<|im_start|>user\nWhat is a yard?<|im_end|>\n<|im_start|>assistant\nA place.<|im_end|>\n"
            "<|im_start|>user\nAnd?<|im_end|>\n<|im_start|>assistant\nBoats.<|im_end|>\n",
            ["A place.<|im_end|>", "Boats.<|im_end|>"],
        ),
        (
            "llama3",
            {},
            "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nWhat is a yard?<|eot_id|>"
            "<|start_header_id|>assistant<|end_header_id|>\n\nA place.<|eot_id|>"
            "<|start_header_id|>user<|end_header_id|>\n\nAnd?<|eot_id|>"
            "<|start_header_id|>assistant<|end_header_id|>\n\nBoats.<|eot_id|>",
            ["A place.<|eot_id|>", "Boats.<|eot_id|>"],
        ),
        (
            "plain",
            {"conf": CHAT_ML},
            "<|im_start|>user\nWhat is a yard?<|im_end|>\n<|im_start|>assistant\nA place.</s><|im_end|>\n"
            "<|im_start|>user\nAnd?<|im_end|>\n<|im_start|>assistant\nBoats.</s><|im_end|>\n",
            ["A place.</s>", "Boats.</s>"],
        ),
    ],
)
def test_the_mask_covers_each_answer_and_its_stop_token_and_nothing_else(make_encoder, style, options, text, answers):
    encoder = make_encoder(style, **options)
    [encoded] = encoder.encode(chat("What is a yard?", "A place.", "And?", "Boats."))
    assert encoder.tokenizer.decode(encoded.input_ids) == text
    assert trained(encoder, encoded) == answers


@pytest.mark.parametrize("style", ["mistral", "zephyr"])
def test_sentencepiece_like_tokenizers_train_on_the_answers_tokens_too(make_encoder, style):
    encoder = make_encoder(style)
    [encoded] = encoder.encode(chat("What is a yard?", "A é place.", "And?", "Boats."))
    first, second = trained(encoder, encoded)
    assert (first.strip(), second.strip()) == ("A é place.</s>", "Boats.</s>")
    # each letter of é is two byte tokens of the answer
    start, end = trained_spans(encoded.loss_mask)[0]
    tokens = encoder.tokenizer.convert_ids_to_tokens(encoded.input_ids[start:end])
    assert tokens[-1] == "</s>"
    assert [token for token in tokens if token.startswith("<0x")] == ["<0xC3>", "<0xA9>"]


@pytest.mark.parametrize("style", ["chatml", "llama3", "mistral", "zephyr"])
@pytest.mark.parametrize("conf", [DataConf(), CHAT_ML], ids=["keep-original", "chat-ml"])
def test_the_ids_are_those_of_a_servers_prompts_and_of_the_whole_conversation(make_encoder, style, conf):
    encoder = make_encoder(style, conf=conf)
    conversation = chat("What is a yard?", "A place.", "And?", "Boats.")
    [encoded] = encoder.encode(conversation)
    messages = [message.as_dict() for message in conversation.messages]
    served = encoder.tokenizer.apply_chat_template(messages, tokenize=True, return_dict=False)
    assert encoded.input_ids == served
    for number, (start, _) in zip((1, 3), trained_spans(encoded.loss_mask), strict=True):
        prompt = encoder.tokenizer.apply_chat_template(
            messages[:number], add_generation_prompt=True, tokenize=True, return_dict=False
        )
        assert encoded.input_ids[:start] == prompt == encoder.prompt_ids(conversation, number)


@pytest.mark.parametrize("style", ["llama3", "mistral"])
def test_there_is_one_bos_where_tokenizer_and_template_both_give_it(make_encoder, style):
    encoder = make_encoder(style)
    [encoded] = encoder.encode(chat("a", "b", "c", "d"))
    assert encoded.input_ids.count(encoder.tokenizer.bos_token_id) == 1
    assert encoded.input_ids[0] == encoder.tokenizer.bos_token_id


def test_an_answer_that_begins_inside_a_prompts_token_is_tokenised_apart(make_encoder):
    encoder = make_encoder("chatml")
    conversation = chat("a", "\n\nb")
    whole = encoder.tokenizer.apply_chat_template(
        [message.as_dict() for message in conversation.messages], tokenize=True, return_dict=False
    )
    prompt = encoder.prompt_ids(conversation, 1)
    assert whole[: len(prompt)] != prompt, "the tokenizer joins the newlines, or this tests nothing"
    [encoded] = encoder.encode(conversation)
    assert encoded.input_ids[: len(prompt)] == prompt
    assert encoder.tokenizer.decode(encoded.input_ids) == encoder.tokenizer.decode(whole)
    assert trained(encoder, encoded) == ["\n\nb<|im_end|>"]
    assert encoded.apart == 1
    assert encoder.encode(chat("a", "b"))[0].apart == 0


def test_a_prompt_that_is_tokenised_differently_alone_is_trained_as_the_server_sends_it(make_encoder):
    # GPT-2's words: the closing "\n\n" is one token at a text's end, and two before a word
    encoder = make_encoder("chatml", template=CHATML.replace("\n'", "\n\n'"))
    conversation = chat("a", "b", "c", "d")
    # and the second prompt reads the first answer back in other tokens than it was written in
    first, second = encoder.encode(conversation)
    assert (first.apart, second.apart) == (1, 1)
    for number, sequence in ((1, first), (3, second)):
        assert sequence.input_ids[: sequence.answers[0][0]] == encoder.prompt_ids(conversation, number)
    assert trained(encoder, first) + trained(encoder, second) == ["b<|im_end|>", "d<|im_end|>"]
    assert check_template(encoder) == []


def test_generation_blocks_of_a_template_change_nothing(make_encoder):
    encoder = make_encoder("chatml", template=MARKED)
    assert trained(encoder, *encoder.encode(chat("a", "b", "c", "d"))) == ["b<|im_end|>", "d<|im_end|>"]


def test_an_answer_whose_reasoning_later_turns_omit_is_trained_in_its_own_sequence(make_encoder):
    encoder = make_encoder("chatml", template=REASONING)
    first, second = encoder.encode(chat("a", "b", "c", "d"))
    assert trained(encoder, first) == ["<think>\n\n</think>\n\nb<|im_end|>"]
    assert trained(encoder, second) == ["<think>\n\n</think>\n\nd<|im_end|>"]
    assert second.input_ids[: second.answers[0][0]] == encoder.prompt_ids(chat("a", "b", "c", "d"), 3)


def test_a_stop_token_in_an_answers_text_does_not_end_its_mask(make_encoder):
    encoder = make_encoder("chatml")
    assert trained(encoder, *encoder.encode(chat("a", "b<|im_end|>c"))) == ["b<|im_end|>c<|im_end|>"]


def test_tool_calls_and_answers_after_tools_are_trained(make_encoder):
    template = (
        "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] }}"
        "{% if message.tool_calls %}{{ message.tool_calls | tojson }}{% endif %}{{ '<|im_end|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    )
    conversation = Conversation(
        (
            Message("user", "2+2?"),
            Message("assistant", "", {"tool_calls": [{"name": "add"}]}),
            Message("tool", "4"),
            Message("assistant", "Four."),
        ),
        where="f:3",
    )
    encoder = make_encoder("chatml", template=template)
    assert trained(encoder, *encoder.encode(conversation)) == ['[{"name": "add"}]<|im_end|>', "Four.<|im_end|>"]
    with pytest.raises(InvalidDataError, match="f:3: has tool_calls, which the chat template does not render"):
        make_encoder("chatml").encode(conversation)


def test_fields_that_the_template_does_not_use_are_named(make_encoder):
    tools = ({"type": "function", "function": {"name": "add"}},)
    message = Message("assistant", "b", {"reasoning_content": "hm", "name": "bob"})
    conversation = Conversation((Message("user", "a"), message), tools=tools)
    assert make_encoder("chatml").unrendered(conversation) == [
        "tools",
        "messages[].reasoning_content",
        "messages[].name",
    ]


def test_without_completions_only_the_whole_text_is_trained(make_encoder):
    encoder = make_encoder("chatml", completions_only=False)
    [encoded] = encoder.encode(chat("a", "b"))
    assert all(encoded.loss_mask)
    assert encoded.input_ids == make_encoder("chatml").encode(chat("a", "b"))[0].input_ids


def test_long_rows_are_dropped_truncated_or_refused(make_encoder):
    conversation = chat("a", "one two three four", where="rows.jsonl:5")
    [whole] = make_encoder("chatml").encode(conversation)
    start, _ = trained_spans(whole.loss_mask)[0]
    limit = start + 2
    [dropped] = make_encoder("chatml", max_length=limit).encode(conversation)
    assert (dropped.fate, dropped.dropped, dropped.input_ids, dropped.length) == ("dropped", True, [], whole.length)
    [cut] = make_encoder("chatml", max_length=limit, overlong="truncate").encode(conversation)
    assert (cut.fate, cut.truncated, cut.length) == ("truncated", True, whole.length)
    assert (cut.input_ids, cut.loss_mask) == (whole.input_ids[:limit], whole.loss_mask[:limit])
    with pytest.raises(InvalidDataError, match=rf"rows\.jsonl:5: is {whole.length} tokens long") as caught:
        make_encoder("chatml", max_length=limit, overlong="refuse").encode(conversation)
    assert caught.value.problems[0].allowed == f"at most {limit} (max_seq_length)"
    [exact] = make_encoder("chatml", max_length=whole.length).encode(conversation)
    assert (exact.fate, exact.input_ids) == ("kept", whole.input_ids)


def test_a_row_without_any_answer_after_truncation_is_dropped(make_encoder):
    conversation = chat("a", "b")
    [whole] = make_encoder("chatml").encode(conversation)
    start, _ = trained_spans(whole.loss_mask)[0]
    assert make_encoder("chatml", max_length=start, overlong="truncate").encode(conversation)[0].dropped


@pytest.mark.parametrize(
    ("style", "template", "roles", "reason"),
    [
        (
            "mistral",
            None,
            "system user assistant",
            "Conversation roles must alternate user/assistant/user/assistant/...",
        ),
        ("mistral", None, "user tool assistant", "Only user and assistant roles are supported!"),
        ("chatml", UNSTABLE, "user assistant", "renders differently up to messages[1] once the answer follows"),
        (
            "chatml",
            ENDLESS,
            "user assistant",
            "has an answer that the chat template does not end with a token that",
        ),
    ],
)
def test_what_a_template_cannot_render_is_refused_with_the_row(make_encoder, style, template, roles, reason):
    encoder = make_encoder(style, template=template)
    with pytest.raises(InvalidDataError) as caught:
        encoder.encode(Conversation(tuple(Message(role, "x") for role in roles.split()), where="f:9"))
    (problem,) = caught.value.problems
    assert problem.where == "f:9"
    assert reason in str(problem)


@pytest.mark.parametrize("style", ["chatml", "plain", "llama3"])
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    contents=st.lists(
        st.text(st.characters(exclude_categories=["Cs"], exclude_characters="<\0"), min_size=1).filter(str.strip),
        min_size=1,
        max_size=3,
    )
)
def test_masks_decode_to_exactly_the_answers_and_their_ends(make_encoder, style, contents):
    encoder = make_encoder(style, conf=CHAT_ML)
    turns = [text for number, answer in enumerate(contents) for text in (f"q{number}", answer)]
    # an answer that begins with a newline is in a sequence of its own, since the prompt's end would merge with it
    sequences = encoder.encode(chat(*turns))
    answers = [text for encoded in sequences for text in trained(encoder, encoded)]
    assert answers == [answer + encoder.tokenizer.eos_token for answer in contents]
