"""A check counts every row, names every bad one, and stops a training that would use fewer rows than given."""

from __future__ import annotations

import json
from contextlib import nullcontext
from itertools import pairwise
from pathlib import Path

import pytest
from rich.console import Console

from lab.chats import DataConf, row
from lab.tiny_models import make_tokenizer
from tuneyard.data import ChatEncoder, check, encode_files, load_tokenizer, report_table
from tuneyard.errors import InvalidDataError, NotFoundError

REAL = Path(__file__).parents[3].parent / "shared" / "data" / "t0-conversations.jsonl"
ENDLESS = "{% for message in messages %}{{ message['role'] + ': ' + message['content'] + '\n' }}{% endfor %}"


def as_text(renderable, width: int = 400) -> str:
    console = Console(width=width, no_color=True, force_terminal=False)
    with console.capture() as captured:
        console.print(renderable)
    return captured.get()


@pytest.fixture
def mixed(write_rows):
    return write_rows(
        row("a", "b") | {"source": "x"},
        row("a", "b"),
        {"conversations": []},
        row("a", "word " * 100),
        row("a", "b", "c", "d", system="s"),
        row("a", "b</s> <|im_end|>"),
        row("a"),
    )


def test_every_row_is_counted_once(mixed, make_encoder):
    report = check([mixed], make_encoder("chatml", max_length=100))
    assert (report.rows, report.kept, report.dropped, report.truncated, report.bad) == (7, 3, 2, 0, 2)
    assert report.rows == report.kept + report.dropped + report.bad
    assert report.duplicates == 1
    assert report.messages == {"user": 6, "assistant": 6, "system": 1}
    assert report.turns == {1: 4, 2: 1}
    assert report.unused_fields == {"source": 1}
    assert report.special_tokens_in_text == {"<|im_end|>": 1}
    assert [(problem.where, problem.what) for problem in report.problems] == [
        (f"{mixed}:3", "the row has no messages: it has the format sharegpt, but its file is read as messages"),
        (f"{mixed}:7", "no message is the assistant's, so there is nothing to train on"),
    ]


def test_tokens_and_lengths_are_those_of_the_encoder(mixed, make_encoder):
    encoder = make_encoder("chatml", max_length=100)
    rows, report = encode_files([mixed], encoder)
    assert [row.group for row in rows] == [0, 0, 3]
    assert len(rows) == report.kept == 3
    assert report.sequences == 3
    assert report.tokens == sum(len(item.input_ids) for row in rows for item in row.sequences)
    assert report.trained_tokens == sum(sum(item.loss_mask) for row in rows for item in row.sequences)
    assert sum(part.rows for part in report.histogram) == report.kept + report.dropped
    assert report.longest[0].where == f"{mixed}:4"
    assert report.longest[0].tokens == report.longest_length > 100
    assert [item.tokens for item in report.longest] == sorted((item.tokens for item in report.longest), reverse=True)
    assert report.longest[-1].tokens <= report.median_length <= report.p90_length <= report.longest_length
    assert report == check([mixed], encoder)


def test_histogram_bins_double_and_count_their_rows(write_rows, make_encoder):
    path = write_rows(*(row("a", "x " * words) for words in (1, 5, 30, 31, 200)))
    report = check([path], make_encoder("chatml"))
    bins = [(part.least, part.most) for part in report.histogram]
    assert all(most == 2 * (least - 1) for least, most in bins if least > 1)
    assert all(after[0] == before[1] + 1 for before, after in pairwise(bins))
    lengths = [len(item.input_ids) for row in encode_files([path], make_encoder("chatml"))[0] for item in row.sequences]
    for part in report.histogram:
        assert part.rows == sum(part.least <= length <= part.most for length in lengths)


def test_truncated_rows_are_kept_and_counted(mixed, make_encoder):
    report = check([mixed], make_encoder("chatml", max_length=100, overlong="truncate"))
    assert (report.kept, report.truncated, report.dropped) == (4, 1, 1)


def test_refused_long_rows_are_bad_rows(mixed, make_encoder):
    report = check([mixed], make_encoder("chatml", max_length=100, overlong="refuse"))
    assert (report.kept, report.dropped, report.bad) == (3, 1, 3)
    assert "tokens long; allowed: at most 100 (max_seq_length)" in str(report.problems[1])


def test_bad_rows_stop_a_training_with_the_first_and_the_command_that_lists_all(mixed, make_encoder):
    report = check([mixed], make_encoder("chatml"))
    with pytest.raises(InvalidDataError) as caught:
        report.raise_if_bad()
    assert caught.value.message == (
        f"2 of 7 rows of {mixed} can't be used; the first: {mixed}:3: the row has no messages: it has the format "
        "sharegpt, but its file is read as messages (given: 'keys conversations'); did you mean format sharegpt?"
    )
    assert caught.value.hint == "See every row: tuneyard data check with the same -f and --set"
    assert caught.value.exit_code == 3
    assert len(caught.value.problems) == 2
    report.raise_if_bad(allow_bad_rows=True)


def test_good_rows_raise_nothing(write_rows, make_encoder):
    check([write_rows(row("a", "b"))], make_encoder("chatml")).raise_if_bad()


def test_data_without_a_row_to_train_on_stops_a_training(write_rows, make_encoder):
    path = write_rows(row("a", "b"))
    with pytest.raises(InvalidDataError, match=r"None of the 1 rows .* 1 of them longer than 3 tokens") as caught:
        check([path], make_encoder("chatml", max_length=3)).raise_if_bad()
    assert caught.value.hint == "Raise finetuning_config.sft_args.max_seq_length"
    empty = write_rows(name="empty.jsonl")
    with pytest.raises(InvalidDataError, match=r"empty\.jsonl: the file has no rows"):
        check([empty], make_encoder("chatml")).raise_if_bad()
    bad = write_rows({}, name="bad.jsonl")
    with pytest.raises(InvalidDataError, match="None of the 1 rows"):
        check([bad], make_encoder("chatml")).raise_if_bad(allow_bad_rows=True)


def test_a_template_that_breaks_the_contract_stops_a_training_even_where_bad_rows_are_allowed(write_rows, make_encoder):
    path = write_rows(row("a", "b"))
    report = check([path], make_encoder("chatml", template=ENDLESS))
    assert report.problems[0].where == "chat template"
    with pytest.raises(InvalidDataError, match="would render conversations differently: chat template") as caught:
        report.raise_if_bad(allow_bad_rows=True)
    assert caught.value.hint.endswith("--set finetuning_config.data_conf.chat_template_name=chat-ml")


def test_a_limited_number_of_problems_is_kept_and_all_are_counted(write_rows, make_encoder):
    path = write_rows(*[{}] * 30, row("a", "b"))
    report = check([path], make_encoder("chatml"), max_problems=10)
    assert (len(report.problems), report.problem_count, report.bad) == (10, 30, 30)
    assert "… and 25 more" in as_text(report_table(report, max_problems=5))


def test_each_row_advances_the_progress_of_both_passes(mixed, make_encoder):
    seen: list[tuple[str, float]] = []
    check([mixed], make_encoder("chatml"), progress=lambda name: nullcontext(lambda rows: seen.append((name, rows))))
    assert seen == [("Reading rows", 1)] * 7 + [("Checking rows", 1)] * 7


def test_a_missing_file_is_not_found(tmp_path, make_encoder):
    with pytest.raises(NotFoundError):
        check([tmp_path / "none.jsonl"], make_encoder("chatml"))


def test_the_report_is_json_under_its_own_names(mixed, make_encoder):
    report = check([mixed], make_encoder("chatml", max_length=100))
    data = json.loads(json.dumps(report.to_json()))
    assert data["rows"] == 7
    assert data["turns"] == {"1": 4, "2": 1}
    assert set(data["histogram"][0]) == {"least", "most", "rows"}
    assert data["problems"][0]["where"] == f"{mixed}:3"


def test_the_table_is_readable_without_colour(mixed, make_encoder):
    text = as_text(report_table(check([mixed], make_encoder("chatml", max_length=100))))
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert f"rows 7 {mixed} (messages)" in lines
    assert "kept 3" in lines
    assert "dropped 2 1 overlong, 1 special tokens" in lines
    assert "bad 2 can't be used" in lines
    assert "Unused fields: source (1 rows)" in lines
    assert "Problems: 2" in lines
    assert f"{mixed}:7: no message is the assistant's, so there is nothing to train on (given: 'roles user')" in lines
    assert any("█" in line for line in lines)
    assert "\x1b" not in text


@pytest.mark.skipif(not REAL.exists(), reason="the shared data is not beside this checkout")
def test_two_thousand_real_conversations_check_clean(tmp_path):
    tokenizer = load_tokenizer(make_tokenizer(tmp_path, style="zephyr"), DataConf())
    report = check([REAL], ChatEncoder(tokenizer, max_length=2048))
    assert (report.rows, report.bad, report.problem_count) == (2000, 0, 0)
    assert report.kept + report.dropped == 2000
    assert report.dropped > 0
    assert report.messages == {"user": 2000, "assistant": 2000}
    assert report.unused_fields == {"source": 2000}
    assert report.duplicates == 9
    assert sum(part.rows for part in report.histogram) == 2000
    report.raise_if_bad()
