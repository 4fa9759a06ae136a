"""A message marked as not trained is only read; an unclear mark refuses its row."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lab.chats import DataConf, row
from lab.tiny_models import make_model
from tuneyard.data import ChatEncoder, Conversation, check, load_tokenizer, parse_row
from tuneyard.data.encoding import trained_spans
from tuneyard.data.marks import MARKS, TRUTHS
from tuneyard.errors import InvalidDataError, Problem

TURNS = [
    {"role": "user", "content": "What is a yard?"},
    {"role": "assistant", "content": "A place."},
    {"role": "user", "content": "And?"},
    {"role": "assistant", "content": "Boats."},
]
NO = {"weight": 0, **dict.fromkeys(TRUTHS, False)}
YES = {"weight": 1, **dict.fromkeys(TRUTHS, True)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("model"))


def encoder(folder: Path, **options: object) -> ChatEncoder:
    return ChatEncoder(load_tokenizer(folder, DataConf()), **options)  # pyright: ignore[reportArgumentType]


def marked(number: int, **marks: object) -> dict[str, object]:
    return {"messages": [{**turn, **(marks if place == number else {})} for place, turn in enumerate(TURNS)]}


def read(given: dict[str, object]) -> Conversation:
    made = parse_row(given, "a.jsonl:1", "sharegpt" if "conversations" in given else "messages")
    assert isinstance(made, Conversation), made
    return made


def trained(encoder: ChatEncoder, given: dict[str, object]) -> list[str]:
    return [
        encoder.tokenizer.decode(encoded.input_ids[start:end])
        for encoded in encoder.encode(read(given))
        for start, end in trained_spans(encoded.loss_mask)
    ]


@pytest.mark.parametrize("key", MARKS)
def test_an_answer_marked_as_not_trained_is_only_read(key: str, folder: Path) -> None:
    marked_row = marked(1, **{key: NO[key]})
    assert trained(encoder(folder), marked_row) == ["Boats.<|im_end|>"]
    (encoded,) = encoder(folder).encode(read(marked_row))
    (plain,) = encoder(folder).encode(read({"messages": TURNS}))
    assert encoded.input_ids == plain.input_ids
    assert read(marked_row).unused == ()


@pytest.mark.parametrize("key", MARKS)
def test_an_answer_marked_as_trained_is_unchanged(key: str, folder: Path) -> None:
    assert trained(encoder(folder), marked(3, **{key: YES[key]})) == ["A place.<|im_end|>", "Boats.<|im_end|>"]


def test_a_last_answer_marked_as_not_trained_is_dropped_with_its_question(folder: Path) -> None:
    marked_row = marked(3, weight=0)
    assert trained(encoder(folder), marked_row) == ["A place.<|im_end|>"]
    (encoded,) = encoder(folder).encode(read(marked_row))
    assert "And?" not in encoder(folder).tokenizer.decode(encoded.input_ids)


def test_with_the_whole_text_trained_marked_answers_are_only_read(folder: Path) -> None:
    whole = encoder(folder, completions_only=False)
    text = "".join(trained(whole, marked(1, train=False)))
    assert "A place." not in text
    assert "What is a yard?" in text
    assert "Boats." in text
    assert "A place." in whole.tokenizer.decode(whole.encode(read(marked(1, train=False)))[0].input_ids)
    assert "A place." not in "".join(trained(whole, marked(1, weight=0)))
    assert "Boats." not in "".join(trained(whole, marked(3, weight=0)))


@pytest.mark.parametrize("shape", ["sharegpt", "prompt-completion", "preference"])
def test_every_format_of_rows_has_marks(shape: str, folder: Path) -> None:
    turns = [{"from": "human", "value": "Hello"}, {"from": "gpt", "value": "Hi.", "weight": 0}]
    turns += [{"from": "human", "value": "And?"}, {"from": "gpt", "value": "Boats."}]
    rows = {
        "sharegpt": {"conversations": turns},
        "prompt-completion": {"prompt": [TURNS[0]], "completion": [{**TURNS[1], "train": False}, *TURNS[2:]]},
        "preference": {
            "prompt": [TURNS[0]],
            "chosen": [{**TURNS[1], "loss": False}, *TURNS[2:]],
            "rejected": [{"role": "assistant", "content": "No."}],
        },
    }
    made = parse_row(rows[shape], "a.jsonl:1", shape)
    assert not isinstance(made, Problem), made
    conversation = made if isinstance(made, Conversation) else made.conversations[0]
    of = encoder(folder)
    texts = [
        of.tokenizer.decode(each.input_ids[start:end])
        for each in of.encode(conversation)
        for start, end in trained_spans(each.loss_mask)
    ]
    assert texts == ["Boats.<|im_end|>"]
    assert made.unused == ()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("weight", value) for value in (0.5, 2, -1, "0", "1", True, False, [], {}, "no", "")),
        *((key, value) for key in TRUTHS for value in (0, 1, 0.0, "false", "true", "no", "", [], {})),
    ],
)
def test_an_unclear_mark_refuses_the_row(key: str, value: object) -> None:
    made = parse_row(marked(1, **{key: value}), "a.jsonl:7")
    assert isinstance(made, Problem)
    assert made.where == "a.jsonl:7"
    assert f"messages[1].{key} is neither" in made.what


def test_a_null_is_no_mark_and_a_float_of_parquet_is_one(folder: Path) -> None:
    nothing = dict.fromkeys(MARKS)
    assert len(trained(encoder(folder), marked(1, **nothing))) == 2
    assert trained(encoder(folder), marked(1, weight=0.0)) == ["Boats.<|im_end|>"]


def test_contradicting_marks_refuse_the_row() -> None:
    made = parse_row(marked(1, weight=0, train=True), "a.jsonl:7")
    assert isinstance(made, Problem)
    assert "contradict" in made.what
    assert not isinstance(parse_row(marked(1, weight=0, train=False), "a.jsonl:7"), Problem)


@pytest.mark.parametrize(("key", "value"), [("weight", 0), ("train", False), ("loss", False)])
def test_a_row_marked_as_a_whole_is_refused_with_its_line(key: str, value: object) -> None:
    made = parse_row({"messages": TURNS, key: value}, "a.jsonl:7")
    assert isinstance(made, Problem)
    assert f"marked by {key}" in made.what
    assert not isinstance(parse_row({"messages": TURNS, "loss": 0.0, "weight": 1}, "a.jsonl:7"), Problem)


def test_a_row_without_a_trained_answer_is_refused(folder: Path) -> None:
    none = {"messages": [{**turn, "train": False} if turn["role"] == "assistant" else turn for turn in TURNS]}
    with pytest.raises(InvalidDataError, match="marks every answer"):
        encoder(folder).encode(read(none))


def test_marks_on_other_messages_are_honoured_or_refused(folder: Path) -> None:
    assert len(trained(encoder(folder), marked(0, train=False))) == 2  # a question is not trained anyway
    with pytest.raises(InvalidDataError, match=r"messages\[0\], the user's, as trained, but only"):
        encoder(folder).encode(read(marked(0, train=True)))
    whole = encoder(folder, completions_only=False)
    assert len(trained(whole, marked(0, train=True))) == 1
    with pytest.raises(InvalidDataError, match=r"messages\[0\], the user's, as not trained, but"):
        whole.encode(read(marked(0, weight=0)))


def test_a_tools_result_after_the_last_trained_answer_is_accepted(folder: Path) -> None:
    call = {"type": "function", "function": {"name": "f", "arguments": {}}}
    turns = [*TURNS[:2], TURNS[2], {"role": "assistant", "content": "Wait.", "tool_calls": [call], "weight": 0}]
    turns += [{"role": "tool", "content": "a result"}, {**TURNS[3], "weight": 0}]
    made = parse_row({"messages": turns}, "a.jsonl:1")
    assert isinstance(made, Conversation)
    assert len(encoder(folder).encode(made)) == 1


def test_rows_that_differ_in_a_mark_are_not_the_same() -> None:
    assert read(marked(1, weight=0)).digest() != read({"messages": TURNS}).digest()
    assert read(marked(1, weight=1)).digest() == read({"messages": TURNS}).digest()


def test_the_check_of_a_file_counts_and_shows_what_is_trained(folder: Path, tmp_path: Path) -> None:
    rows = [marked(1, weight=0), marked(1, weight=0.5), row("Hi", "Hello.")]
    file = tmp_path / "a.jsonl"
    file.write_text("\n".join(json.dumps(each) for each in rows) + "\n")
    report = check([file], encoder(folder))
    assert [problem.where for problem in report.problems] == [f"{file}:2"]
