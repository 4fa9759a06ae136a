"""Training reads formats and filters rows as configured, exactly as `data check` does."""

from __future__ import annotations

import json

import pytest

from lab.tiny_models import make_tokenizer
from lab.training import VALUES, changed
from tuneyard.errors import InvalidDataError
from tuneyard.job.rows import encoded_rows
from tuneyard.values import FinetuneValues

DATA = "finetuning_config.data_conf"
WORDS = [f"word{number}" for number in range(16)]
ROWS = [
    {"instruction": " ".join(WORDS[number % 16 :] + WORDS[: number % 16]), "output": f"Answer {number}."}
    for number in range(16)
]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return make_tokenizer(tmp_path_factory.mktemp("base"))


@pytest.fixture
def write(tmp_path):
    def write(name, rows):
        path = tmp_path / name
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return path

    return write


def values(validation="NONE", **changes):
    held = {"type": validation, "datasets": [{"path": "b/held.jsonl"}] if validation == "CONCATENATION" else []}
    settings = {
        f"{DATA}.training_data.datasets": [{"path": "b/rows.jsonl"}],
        f"{DATA}.validation_data": held,
        "finetuning_config.training_args.eval_strategy": "no",
        "finetuning_config.sft_args.max_seq_length": 200,
    }
    return FinetuneValues.model_validate(changed(VALUES, **(settings | changes)))


def test_another_format_is_detected_and_a_chosen_one_takes_precedence(base, write):
    path = write("rows.jsonl", ROWS)
    trained, held = encoded_rows(values(), base, [path], [], print)
    assert (len(trained), held) == (16, [])
    chosen = {f"{DATA}.training_data.datasets": [{"path": "b/rows.jsonl", "format": "sharegpt"}]}
    with pytest.raises(InvalidDataError, match="it has the format alpaca, but its file is read as sharegpt"):
        encoded_rows(values(**chosen), base, [path], [], print)


def test_rows_with_special_tokens_are_logged_with_their_key_and_their_choice(base, write):
    path = write("rows.jsonl", [*ROWS, {"instruction": "say <|im_end|>", "output": "no"}])
    notices = []
    assert len(encoded_rows(values(), base, [path], [], notices.append)[0]) == 16
    tokens = "(<|im_end|> in 1; first: b/rows.jsonl:17)"
    line = f"1 of 17 rows of b/rows.jsonl have special tokens in their texts {tokens}"
    assert notices == [f"{line}; data_conf.rows.special_tokens is 'drop'."]
    notices.clear()
    keep = {f"{DATA}.rows.special_tokens": "keep"}
    assert len(encoded_rows(values(**keep), base, [path], [], notices.append)[0]) == 17
    assert notices == [f"{line}; data_conf.rows.special_tokens is 'keep'."]
    with pytest.raises(InvalidDataError, match=r"b/rows\.jsonl:17: has the special token <\|im_end\|>"):
        encoded_rows(values(**{f"{DATA}.rows.special_tokens": "refuse"}), base, [path], [], notices.append)


def test_leaked_rows_are_dropped_from_training_only(base, write):
    path, other = write("rows.jsonl", ROWS), write("held.jsonl", ROWS[:2])
    exact = {f"{DATA}.rows.similarity": 1}
    trained, held = encoded_rows(values("CONCATENATION", **exact), base, [path], [other], print)
    assert (len(trained), len(held)) == (16, 2)
    drop = {f"{DATA}.rows.leaked": "drop"}
    trained, held = encoded_rows(values("CONCATENATION", **exact, **drop), base, [path], [other], print)
    assert (len(trained), len(held)) == (14, 2)
    assert not {tuple(each.input_ids) for each in trained} & {tuple(each.input_ids) for each in held}
    with pytest.raises(InvalidDataError, match="is equal to a validation row"):
        encoded_rows(
            values("CONCATENATION", **exact, **{f"{DATA}.rows.leaked": "refuse"}), base, [path], [other], print
        )


def test_invalid_rows_stop_a_training_unless_they_may_be_dropped(base, write):
    path = write("rows.jsonl", [*ROWS, {"instruction": "x", "output": ""}])
    with pytest.raises(InvalidDataError, match="output is empty"):
        encoded_rows(values(), base, [path], [], print)
    assert len(encoded_rows(values(**{f"{DATA}.rows.unusable": "drop"}), base, [path], [], print)[0]) == 16


def test_overlong_rows_follow_the_setting(base, write):
    path = write("rows.jsonl", [*ROWS, {"instruction": "x", "output": "long " * 300}])
    assert len(encoded_rows(values(), base, [path], [], print)[0]) == 16
    cut, _ = encoded_rows(values(**{f"{DATA}.rows.overlong": "truncate"}), base, [path], [], print)
    assert [len(each.input_ids) for each in cut if each.truncated] == [200]
    with pytest.raises(InvalidDataError, match="tokens long; allowed: at most 200"):
        encoded_rows(values(**{f"{DATA}.rows.overlong": "refuse"}), base, [path], [], print)
