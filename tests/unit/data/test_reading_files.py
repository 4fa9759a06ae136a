"""Files of rows: JSONL and Parquet, good ones and broken ones."""

from __future__ import annotations

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lab.chats import row
from tuneyard.data import Conversation, read_rows
from tuneyard.errors import NotFoundError, Problem


def texts(path) -> list[str]:
    return [str(item) if isinstance(item, Problem) else item.where for item in read_rows([path])]


def test_rows_are_in_order_with_their_line_and_blank_lines_are_skipped(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(row("a", "b")) + "\n\n  \r\n" + json.dumps(row("c", "d")))
    first, second = read_rows([path])
    assert (first.where, second.where) == (f"{path}:1", f"{path}:4")
    assert second.messages[1].content == "d"


def test_several_files_are_read_one_after_the_other(write_rows):
    one = write_rows(row("a", "b"), name="one.jsonl")
    two = write_rows(row("c", "d"), name="two.JSONL")
    assert [item.where for item in read_rows([two, one])] == [f"{two}:1", f"{one}:1"]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"{'messages': []}", "is not JSON: Expecting property name enclosed in double quotes at character 2"),
        (b"[", "allowed: one object a line, without a list around them"),
        (b'{"messages": [', "is not JSON"),
        (b'{"messages": "a\x01"}', "is not JSON: Invalid control character at character 16"),
        (b"\x00\x00", "is not JSON"),
        (b'{"messages": "caf\xe9"}', "is not UTF-8 at byte 18 of the line (given: 'byte 0xe9')"),
        (b"\xef\xbb\xbf{}", "the line begins with a byte order mark; allowed: UTF-8 without a byte order mark"),
        (b'{"messages": 1, "messages": []}', "is not JSON that can be read: the key 'messages' is repeated"),
        (b"[" * 100_000, "is not JSON that can be read: nested too deeply, or a number too long"),
        (b"9" * 10_000, "is not JSON that can be read: nested too deeply, or a number too long"),
    ],
)
def test_an_invalid_line_has_a_reason_and_the_next_is_read(tmp_path, line, reason):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(line + b"\n" + json.dumps(row("a", "b")).encode() + b"\n")
    problem, after = read_rows([path])
    assert str(problem).startswith(f"{path}:1: ")
    assert reason in str(problem)
    assert len(str(problem)) < 400
    assert isinstance(after, Conversation)
    assert after.where == f"{path}:2"


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("rows.jsonl", b"", "the file has no rows"),
        ("rows.jsonl", b"\n \n", "the file has no rows"),
        (
            "rows.jsonl",
            '{"messages": 1}'.encode("utf-16"),
            "content is UTF-16; allowed: JSON lines in UTF-8",
        ),
        ("rows.jsonl", b"\x1f\x8b\x08", "the file's content is gzip"),
        ("rows.jsonl", b"PAR1....", "the file's content is Parquet"),
        (
            "rows.json",
            b"{}",
            "has an unknown file extension (given: '.json'); allowed: .jsonl (one JSON object a line)",
        ),
        ("rows.json", b"{}", "did you mean rows.jsonl?"),
        ("rows.csv", b"a,b", "has an unknown file extension (given: '.csv')"),
        ("rows", b"{}", "has an unknown file extension (given: 'none')"),
        ("rows.parquet", b"not parquet", "can't be read as Parquet"),
    ],
)
def test_an_unusable_file_has_a_reason(tmp_path, name, content, reason):
    path = tmp_path / name
    path.write_bytes(content)
    (problem,) = texts(path)
    assert problem.startswith(f"{path}: ")
    assert reason in problem


def test_a_folder_is_refused(tmp_path):
    assert texts(tmp_path) == [f"{tmp_path}: is a folder; allowed: a file, .jsonl (one JSON object a line) or .parquet"]


def test_a_missing_file_of_rows_is_not_found(tmp_path):
    with pytest.raises(NotFoundError, match="does not exist"):
        list(read_rows([tmp_path / "none.jsonl"]))


def test_parquet_holds_the_same_rows_with_row_numbers(tmp_path):
    rows = [row("a", "b"), row("c", "d", "e", "f", system="s"), {"messages": [{"role": "user", "content": "only"}]}]
    rows[0]["messages"][1]["name"] = "bob"
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.Table.from_pylist(rows * 200), path)
    read = list(read_rows([path]))
    assert len(read) == 600
    assert [message.as_dict() for message in read[0].messages] == rows[0]["messages"]
    # the other rows' null names are no fields of theirs
    assert [message.as_dict() for message in read[598].messages] == rows[1]["messages"]
    assert read[598].where == f"{path}:599"
    assert str(read[599]).startswith(f"{path}:600: no message is the assistant's")


def test_parquet_without_messages_is_one_problem(tmp_path):
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"text": ["a", "b"], "chat": ["c", "d"]}), path)
    assert texts(path) == [
        f"{path}: the row has no messages (given: 'keys text, chat'); did you mean messages instead of chat?"
    ]


def test_parquet_without_rows_is_a_problem(tmp_path):
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.Table.from_pylist([row("a", "b")]).slice(0, 0), path)
    assert texts(path) == [f"{path}: the file has no rows"]


def test_truncated_parquet_is_a_problem(tmp_path):
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.Table.from_pylist([row("a", "b")]), path)
    path.write_bytes(path.read_bytes()[:-20])
    (problem,) = texts(path)
    assert "can't be read as Parquet" in problem
