"""Tokenizers are loaded as delivered: with a template, a pad and a stop token, and never one token more."""

from __future__ import annotations

import json
import shutil
from typing import get_args

import pytest
from transformers import AutoTokenizer

from lab.chats import DataConf, chat
from lab.tiny_models import CHATML
from tuneyard.data import ChatEncoder, Conversation, Message, check_template, load_tokenizer, stop_token_ids
from tuneyard.data.templates import NAMED, TEMPLATE_NAMES
from tuneyard.errors import InvalidDataError, InvalidValuesError, NotFoundError
from tuneyard.values.finetuning import DataConf as FinetuningDataConf

CHAT_ML = DataConf(chat_template_name="chat-ml")
STYLES = ("chatml", "plain", "llama3", "mistral", "zephyr")


def edited(source, folder, **changes):
    """Copy a tokenizer and change its tokenizer_config.json; None removes a key."""
    shutil.copytree(source, folder)
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in config.items() if value is not None}))
    return folder


@pytest.mark.parametrize(
    ("style", "template"),
    [
        *((style, name) for style in STYLES for name in NAMED),
        *((style, "keep-original") for style in STYLES if style != "plain"),  # plain has no template to keep
    ],
)
def test_no_template_or_pad_strategy_adds_a_token(tokenizer_folder, style, template):
    folder = tokenizer_folder(style)
    delivered = AutoTokenizer.from_pretrained(folder)
    loaded = load_tokenizer(folder, DataConf(template))
    assert len(loaded) == len(delivered)
    assert loaded.get_vocab() == delivered.get_vocab()
    assert loaded.eos_token == delivered.eos_token
    assert loaded.pad_token_id is not None


def test_keep_original_keeps_the_template_word_for_word(tokenizer_folder):
    assert load_tokenizer(tokenizer_folder("chatml"), DataConf()).chat_template == CHATML


def test_keep_original_without_a_template_points_to_chat_ml(tokenizer_folder):
    with pytest.raises(InvalidValuesError, match="has no chat template of its own to keep") as caught:
        load_tokenizer(tokenizer_folder("plain"), DataConf())
    assert caught.value.hint == "Set one: --set finetuning_config.data_conf.chat_template_name=chat-ml"
    assert caught.value.problems[0].where == "finetuning_config.data_conf.chat_template_name"


def test_every_allowed_template_and_strategy_is_implemented(tokenizer_folder):
    fields = FinetuningDataConf.model_fields
    assert set(get_args(fields["chat_template_name"].annotation)) == set(TEMPLATE_NAMES)
    for strategy in get_args(fields["missing_pad_token_strategy"].annotation):
        tokenizer = load_tokenizer(tokenizer_folder("mistral"), DataConf(missing_pad_token_strategy=strategy))
        assert tokenizer.pad_token is not None


def test_an_unknown_template_is_refused_by_name(tokenizer_folder):
    with pytest.raises(InvalidValuesError, match="no chat template named 'alpaca'") as caught:
        load_tokenizer(tokenizer_folder("chatml"), DataConf("alpaca"))
    assert caught.value.problems[0].allowed == (
        "keep-original or chat-ml or simplified-llama31 or mistral-with-system or poro"
    )


def test_chat_ml_uses_the_tokenizers_own_marks_where_it_has_them(tokenizer_folder):
    tokenizer = load_tokenizer(tokenizer_folder("chatml"), CHAT_ML)
    ids = tokenizer.apply_chat_template([{"role": "user", "content": "a"}], return_dict=False)
    marks = tokenizer.convert_tokens_to_ids(["<|im_start|>", "<|im_end|>"])
    assert [number for number in ids if number in marks] == marks


def test_chat_ml_without_such_marks_ends_answers_with_eos_before_the_plain_text(tokenizer_folder):
    tokenizer = load_tokenizer(tokenizer_folder("plain"), CHAT_ML)
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}], tokenize=False
    )
    assert text == "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\nb</s><|im_end|>\n"


@pytest.mark.parametrize(("style", "bos"), [("chatml", 0), ("plain", 0), ("llama3", 1), ("mistral", 1), ("zephyr", 1)])
def test_chat_ml_gives_bos_once_and_only_where_the_tokenizer_gives_it_itself(tokenizer_folder, style, bos):
    tokenizer = load_tokenizer(tokenizer_folder(style), CHAT_ML)
    text = tokenizer.apply_chat_template([{"role": "user", "content": "a"}], tokenize=False)
    expected = (tokenizer.bos_token if bos else "") + "<|im_start|>user\na"
    assert text.startswith(expected)


@pytest.mark.parametrize(
    ("name", "style", "text"),
    [
        (
            "chat-ml",
            "mistral",
            "<s><|im_start|>system\ns<|im_end|>\n<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\n",
        ),
        (
            "simplified-llama31",
            "llama3",
            "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\ns<|eot_id|>"
            "<|start_header_id|>user<|end_header_id|>\n\nq<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
        ),
        ("mistral-with-system", "mistral", "<s><<SYS>>\ns\n<</SYS>>\n[INST] q [/INST]"),
        ("poro", "plain", "<|system|>\ns</s><|user|>\nq</s><|assistant|>\n"),
    ],
)
def test_named_templates_render_their_known_prompts(tokenizer_folder, name, style, text):
    tokenizer = load_tokenizer(tokenizer_folder(style), DataConf(name))
    messages = [{"role": "system", "content": "s"}, {"role": "user", "content": "q"}]
    assert tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False) == text


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("name", NAMED)
def test_every_named_template_keeps_the_contract_with_every_tokenizer(tokenizer_folder, name, style):
    encoder = ChatEncoder(load_tokenizer(tokenizer_folder(style), DataConf(name)))
    assert check_template(encoder, [chat("a", "b", "c", "d", system="s")]) == []


@pytest.mark.parametrize("name", ["mistral-with-system", "poro"])
def test_a_role_without_a_form_in_a_named_template_is_refused(tokenizer_folder, name):
    encoder = ChatEncoder(load_tokenizer(tokenizer_folder("plain"), DataConf(name)))
    conversation = Conversation((Message("user", "a"), Message("tool", "b"), Message("assistant", "c")))
    with pytest.raises(InvalidDataError, match="this template has no messages of the role tool"):
        encoder.encode(conversation)


def test_chat_ml_makes_im_end_the_stop_of_a_tokenizer_that_has_it_but_stops_elsewhere(tokenizer_folder, tmp_path):
    folder = edited(tokenizer_folder("chatml"), tmp_path / "base", eos_token="<|endoftext|>", pad_token="<|endoftext|>")
    before = AutoTokenizer.from_pretrained(folder)
    tokenizer = load_tokenizer(folder, CHAT_ML)
    assert (before.eos_token, tokenizer.eos_token) == ("<|endoftext|>", "<|im_end|>")
    assert len(tokenizer) == len(before)
    encoder = ChatEncoder(tokenizer)
    [encoded] = encoder.encode(chat("a", "b"))
    assert [number for number, counts in zip(encoded.input_ids, encoded.loss_mask, strict=True) if counts][-1] == (
        tokenizer.convert_tokens_to_ids("<|im_end|>")
    )
    assert check_template(encoder) == []


def test_chat_ml_needs_a_stop_token(tokenizer_folder, tmp_path):
    folder = edited(tokenizer_folder("plain"), tmp_path / "endless", eos_token=None)
    with pytest.raises(
        InvalidValuesError, match=r"has no EOS token and no <\|im_end\|>, so the template 'chat-ml' can't end"
    ):
        load_tokenizer(folder, CHAT_ML)


@pytest.mark.parametrize(
    ("strategy", "pad"),
    [("bos-repurpose", "<s>"), ("unk-repurpose", "<unk>"), ("eos-repurpose", "</s>"), ("unk-convert-to-eos", "<unk>")],
)
def test_a_missing_pad_token_is_taken_from_another(tokenizer_folder, strategy, pad):
    tokenizer = load_tokenizer(tokenizer_folder("mistral"), DataConf(missing_pad_token_strategy=strategy))
    assert tokenizer.pad_token == pad


@pytest.mark.parametrize("strategy", ["bos-repurpose", "unk-repurpose"])
def test_an_existing_pad_token_is_kept(tokenizer_folder, strategy):
    tokenizer = load_tokenizer(tokenizer_folder("chatml"), DataConf(missing_pad_token_strategy=strategy))
    assert tokenizer.pad_token == "<|im_end|>"


def test_a_pad_token_without_an_embedding_counts_as_missing(tokenizer_folder, tmp_path):
    folder = edited(tokenizer_folder("mistral"), tmp_path / "padded", pad_token="[PAD]")
    rows = len(AutoTokenizer.from_pretrained(tokenizer_folder("mistral")))
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", "vocab_size": rows}))
    assert load_tokenizer(folder, DataConf()).pad_token == "<s>"


def test_a_strategy_that_this_tokenizer_cannot_follow_is_refused(tokenizer_folder):
    with pytest.raises(InvalidValuesError, match="no unk_token for 'unk-repurpose' to use") as caught:
        load_tokenizer(tokenizer_folder("llama3"), DataConf(missing_pad_token_strategy="unk-repurpose"))
    assert caught.value.problems[0].suggestion == "bos-repurpose"
    with pytest.raises(InvalidValuesError, match="no pad token strategy named 'none'"):
        load_tokenizer(tokenizer_folder("llama3"), DataConf(missing_pad_token_strategy="none"))


def test_special_tokens_that_the_model_has_no_embedding_for_are_refused(tokenizer_folder, tmp_path):
    folder = edited(tokenizer_folder("chatml"), tmp_path / "grown", eos_token="<|new|>")
    rows = len(AutoTokenizer.from_pretrained(tokenizer_folder("chatml")))
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", "vocab_size": rows}))
    with pytest.raises(
        InvalidDataError, match=rf"uses the token '<\|new\|>' with id {rows}, but .* {rows} tokens only"
    ):
        load_tokenizer(folder, DataConf())


def test_a_folder_without_a_tokenizer_is_not_found(tmp_path):
    with pytest.raises(NotFoundError, match="has no tokenizer"):
        load_tokenizer(tmp_path, DataConf())


def test_a_broken_tokenizer_is_refused(tokenizer_folder, tmp_path):
    folder = edited(tokenizer_folder("chatml"), tmp_path / "broken")
    (folder / "tokenizer.json").write_text('{"version": "1.0"')
    with pytest.raises(InvalidDataError, match="can't be loaded"):
        load_tokenizer(folder, DataConf())


def test_code_that_comes_with_a_tokenizer_is_never_run(tokenizer_folder, tmp_path):
    folder = edited(tokenizer_folder("chatml"), tmp_path / "code", auto_map={"AutoTokenizer": ["evil.Tok", None]})
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Tok: pass\n")
    assert load_tokenizer(folder, DataConf()).get_vocab()
    (folder / "tokenizer.json").unlink()
    with pytest.raises(InvalidDataError, match="can't be loaded"):
        load_tokenizer(folder, DataConf())
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("generation", "config", "expected"),
    [
        (None, None, {2}),
        ({"eos_token_id": 7}, None, {2, 7}),
        ({"eos_token_id": [7, 2, 9]}, {"eos_token_id": 11}, {2, 7, 9}),
        (None, {"eos_token_id": 11}, {2, 11}),
        ({"temperature": 1.0}, None, {2}),
    ],
)
def test_a_server_stops_at_eos_and_at_the_generation_settings(tokenizer_folder, tmp_path, generation, config, expected):
    folder = edited(tokenizer_folder("mistral"), tmp_path / "model")
    for name, content in (("generation_config.json", generation), ("config.json", config)):
        if content is not None:
            (folder / name).write_text(json.dumps({"model_type": "llama"} | content))
    assert set(stop_token_ids(AutoTokenizer.from_pretrained(folder), folder)) == expected
