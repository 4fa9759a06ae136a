"""Rows that are equal, leak, or are too long are kept, dropped or refused by the values, and always counted."""

from __future__ import annotations

import random

import pytest

from lab.chats import row
from tuneyard.data import check, encode_files, report_table, split
from tuneyard.errors import InvalidDataError
from tuneyard.values import RowsConf

CHANCE = random.Random(3)
WORDS = ["".join(CHANCE.choices("abcdefghijklmnop", k=CHANCE.randint(2, 9))) for _ in range(500)]


def words(count: int = 60) -> str:
    return " ".join(CHANCE.choices(WORDS, k=count))


ONE, TWO, HELD = words(), words(), words()


@pytest.fixture
def alike(write_rows):
    rows = [
        row(ONE, "a"),
        row(TWO, "b"),
        row(ONE, "a"),
        row(f"{TWO} now", "b"),
        row(HELD, "c"),
        row(f"{HELD} now", "c"),
    ]
    return write_rows(*rows)


@pytest.fixture
def held(write_rows):
    return write_rows(row(words(), "d"), row(HELD, "c"), name="held.jsonl")


def test_equal_and_nearly_equal_rows_are_counted_and_kept(alike, held, make_encoder):
    report = check([alike], make_encoder("chatml"), validation=[held])
    assert (report.rows, report.validation_rows, report.kept, report.dropped, report.bad) == (8, 2, 8, 0, 0)
    assert (report.duplicates, report.near_duplicates, report.leaked, report.near_leaked) == (1, 2, 1, 1)
    first = report.pairs[0]
    assert (first.where, first.other, first.similarity, first.leaks) == (f"{alike}:3", f"{alike}:1", 1, False)
    assert {(pair.where, pair.other) for pair in report.pairs if pair.leaks} == {
        (f"{alike}:5", f"{held}:2"),
        (f"{alike}:6", f"{held}:2"),
    }


@pytest.mark.parametrize(
    ("rules", "kept", "dropped"),
    [
        (RowsConf(duplicates="drop"), 7, {"duplicates": 1}),
        (RowsConf(near_duplicates="drop"), 6, {"near_duplicates": 2}),
        (RowsConf(leaked="drop"), 6, {"leaked": 2}),
        (
            RowsConf(leaked="drop", duplicates="drop", near_duplicates="drop"),
            4,
            {"leaked": 2, "duplicates": 1, "near_duplicates": 1},
        ),
        (RowsConf(near_duplicates="drop", similarity=1), 8, {}),
    ],
)
def test_dropped_rows_are_counted_by_key(alike, held, make_encoder, rules, kept, dropped):
    report = check([alike], make_encoder("chatml"), validation=[held], rows=rules)
    assert (report.kept, report.dropped_for, report.dropped) == (kept, dropped, sum(dropped.values()))
    assert report.rows == report.kept + report.dropped + report.bad
    trained, of_training = encode_files([alike], make_encoder("chatml"), validation=[held], rows=rules)
    assert len(trained) == of_training.kept == kept - 2
    assert of_training.leaked == 1


@pytest.mark.parametrize("choice", ["duplicates", "near_duplicates", "leaked"])
def test_refused_rows_raise_even_if_bad_rows_are_allowed(alike, held, make_encoder, choice):
    report = check([alike], make_encoder("chatml"), validation=[held], rows=RowsConf(**{choice: "refuse"}))
    assert report.refused == report.bad == report.problem_count == {"duplicates": 1}.get(choice, 2)
    assert f"allowed: data_conf.rows.{choice} keep or drop" in str(report.problems[0])
    assert str(alike) in report.problems[0].value or str(held) in report.problems[0].value
    with pytest.raises(InvalidDataError, match="can't be used; the first"):
        report.raise_if_bad(allow_bad_rows=True)


def test_unusable_rows_may_be_dropped_and_are_counted(write_rows, make_encoder):
    path = write_rows(row("a", "b"), row("a", ""), row("c", " "), row("a"))
    report = check([path], make_encoder("chatml"))
    assert (report.kept, report.bad, report.refused) == (1, 3, 0)
    assert report.reasons == {
        "messages[].content is empty": 2,
        "no message is the assistant's, so there is nothing to train on": 1,
    }
    report.raise_if_bad(allow_bad_rows=True)
    with pytest.raises(InvalidDataError):
        report.raise_if_bad()


def test_a_truncated_answer_is_counted_dropped_or_refused(write_rows, make_encoder):
    limit = 60
    path = write_rows(row("a", "b"), row("a", words(200)), row("a", "b", words(200), "d"))
    report = check([path], make_encoder("chatml", max_length=limit, overlong="truncate"))
    assert (report.kept, report.truncated, report.cut_answers, report.lost_answers) == (3, 2, 1, 1)
    report = check([path], make_encoder("chatml", max_length=limit, overlong="truncate", cut_answers="drop"))
    assert (report.kept, report.truncated, report.dropped_for) == (2, 1, {"cut_answers": 1})
    report = check([path], make_encoder("chatml", max_length=limit, overlong="truncate", cut_answers="refuse"))
    assert (report.kept, report.bad, report.refused) == (2, 1, 1)
    assert "and truncated to 60 inside an answer" in str(report.problems[0])
    report = check([path], make_encoder("chatml", max_length=limit))
    assert (report.kept, report.dropped_for) == (1, {"overlong": 2})
    report = check([path], make_encoder("chatml", max_length=limit, overlong="refuse"))
    assert (report.kept, report.refused, report.dropped) == (1, 2, 0)


def test_each_method_refuses_the_rows_of_the_other(write_rows, make_encoder):
    preference = {"prompt": "a", "chosen": "b", "rejected": "c"}
    pairs = write_rows(preference, preference | {"prompt": words(300)}, name="pairs.jsonl")
    chats = write_rows(row("a", "b"), name="chats.jsonl")
    report = check([pairs, chats], make_encoder("chatml"))
    assert report.formats == {str(pairs): "preference", str(chats): "messages"}
    assert report.kept == 1
    assert "supervised finetuning trains on conversations; allowed: method: dpo" in str(report.problems[0])
    report = check([pairs, chats], make_encoder("chatml", max_length=200), method="dpo", examples=3)
    assert (report.kept, report.dropped_for, report.bad) == (1, {"overlong": 1}, 1)
    assert [example.name for example in report.examples] == [f"{pairs}:1 (chosen)", f"{pairs}:1 (rejected)"]
    trained = ["".join(part.text for part in example.segments if part.learnt) for example in report.examples]
    assert trained == ["b<|im_end|>", "c<|im_end|>"]


def test_a_preference_is_encoded_as_the_chosen_and_the_rejected_answer(write_rows, make_encoder):
    rows = [{"prompt": "a", "chosen": answer, "rejected": "c"} for answer in ("b", "a longer one")]
    encoder = make_encoder("chatml")
    kept, report = encode_files([write_rows(*rows)], encoder, method="dpo")
    assert ([row.group for row in kept], report.sequences, report.several) == ([0, 1], 4, 0)
    for row_, given in zip(kept, rows, strict=True):
        chosen, rejected = row_.sequences
        for side, answer in ((chosen, given["chosen"]), (rejected, "c")):
            trained = [token for token, counts in zip(side.input_ids, side.loss_mask, strict=True) if counts]
            assert encoder.tokenizer.decode(trained) == f"{answer}<|im_end|>"


def test_rows_with_tools_are_counted(write_rows, make_encoder):
    path = write_rows(row("a", "b") | {"tools": [{"type": "function", "function": {"name": "f"}}]}, row("c", "d"))
    assert check([path], make_encoder("chatml")).tool_rows == 1


def test_the_table_names_equal_and_dropped_rows(alike, held, make_encoder):
    from rich.console import Console

    console = Console(width=300, no_color=True)
    with console.capture() as captured:
        rules = RowsConf(near_duplicates="drop", duplicates="refuse")
        console.print(report_table(check([alike], make_encoder("chatml"), validation=[held], rows=rules)))
    text = captured.get()
    assert "2 near duplicates" in text
    assert "equal to a validation row; 1 more are nearly equal to one" in text
    assert f"{alike}:5: equal to {held}:2, a validation row" in text
    assert "can't be used; 1 of them refused by the values" in text


def test_rows_of_one_group_are_on_one_side(make_encoder, write_rows):
    texts = [words() for _ in range(60)]
    path = write_rows(*(row(text, "a") for text in texts), *(row(f"{text} now", "a") for text in texts))
    encoded, _ = encode_files([path], make_encoder("chatml"))
    rows, groups = [row.sequences for row in encoded], [row.group for row in encoded]
    assert groups == list(range(60)) * 2
    for seed in range(5):
        train, validation = split(rows, 0.2, seed, groups)
        assert len(validation) == 24
        assert not {groups[index] for index in train} & {groups[index] for index in validation}
    train, validation = split(rows, 0.2, 1)
    assert {groups[index] for index in train} & {groups[index] for index in validation}
