"""HEAD, run.json and metrics.jsonl as documents."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import tuneyard.checkpoints
from lab.checkpoints import PREFIX, experiment, record
from lab.syncs import note_syncs
from tuneyard.checkpoints import CheckpointRef, Head, MetricsLog, RunRecord, Start, change_head, parse_rows, read_head
from tuneyard.checkpoints.seal import from_sealed_json, to_sealed_json
from tuneyard.errors import IntegrityError
from tuneyard.store import Store

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
REFS = st.builds(CheckpointRef.at, st.just(PREFIX), st.integers(0, 10**9), st.integers(1, 10**6))


@given(
    head=st.builds(
        Head,
        attempt=st.integers(1, 10**6),
        owner=st.text(),
        fingerprint=st.dictionaries(st.text(), JSON, max_size=4),
        checkpoint=st.none() | REFS,
        best=st.none() | REFS,
        finished=st.booleans(),
        history=st.lists(st.builds(Start, st.integers(1, 9), st.integers(0, 99)), max_size=4).map(tuple),
        nonce=st.text(),
    )
)
def test_head_comes_back_as_it_was_written(head: Head) -> None:
    assert Head.from_json(head.to_json(), prefix=PREFIX) == head


@given(facts=st.dictionaries(st.text(), JSON, max_size=5), place=st.floats(0, 1), bit=st.integers(0, 7))
def test_a_flipped_bit_of_a_sealed_document_is_found_or_has_no_effect(
    facts: dict[str, object], place: float, bit: int
) -> None:
    facts.pop("sha256", None)
    body = bytearray(to_sealed_json(facts))
    body[int(place * (len(body) - 1))] ^= 1 << bit
    try:
        found = from_sealed_json(bytes(body), where="there")
    except IntegrityError as error:
        assert "'there' is damaged" in error.message
    else:
        found.pop("sha256")
        assert found == facts


def test_a_head_of_a_newer_format_is_refused_and_never_overwritten(store: Store) -> None:
    experiment(store).claim(record())
    newer = to_sealed_json({"format": 2, "attempt": 1})
    store.put(f"{PREFIX}/HEAD", newer)
    for work in (experiment(store).head, lambda: experiment(store).claim(record())):
        with pytest.raises(IntegrityError, match=r"HEAD. has the format 2; this version of Tuneyard reads 1"):
            work()
    assert store.get(f"{PREFIX}/HEAD").body == newer


def test_swapped_head_and_run_json_are_damage(store: Store) -> None:
    exp = experiment(store)
    exp.claim(record())
    head, run = (store.get(f"{PREFIX}/{name}").body for name in ("HEAD", "run.json"))
    store.put(f"{PREFIX}/HEAD", run)
    store.put(f"{PREFIX}/run.json", head)
    with pytest.raises(IntegrityError, match=r"HEAD. is damaged"):
        read_head(store, PREFIX)
    with pytest.raises(IntegrityError, match=r"run\.json. can't be read"):
        exp.claim(record())


def test_head_names_its_checkpoint_relative_to_itself(store: Store) -> None:
    head = Head(attempt=1, owner="o", fingerprint={}, checkpoint=CheckpointRef.at(PREFIX, 10, 1))
    assert json.loads(head.to_json())["checkpoint"] == {"step": 10, "attempt": 1, "key": "checkpoint-10-1"}


def test_a_change_of_head_that_changes_nothing_writes_nothing(store: Store) -> None:
    experiment(store).claim(record())
    before = read_head(store, PREFIX)

    def same(head: Head | None) -> Head:
        assert head is not None
        return head

    change_head(store, PREFIX, same)
    assert read_head(store, PREFIX) == before


def test_simultaneous_changes_of_head_are_all_kept(store: Store) -> None:
    experiment(store).claim(record())

    def add(number: int) -> None:
        def added(head: Head | None) -> Head:
            assert head is not None
            return replace(head, history=(*head.history, Start(number, 0)))

        change_head(store, PREFIX, added)

    threads = [threading.Thread(target=add, args=(number,)) for number in range(1, 7)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    head = experiment(store).head()
    assert head is not None
    assert sorted(start.attempt for start in head.history) == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize(
    ("name", "step", "attempt"),
    [("checkpoint-10-1", 10, 1), ("checkpoint-0-12", 0, 12)],
)
def test_a_checkpoints_name_is_read(name: str, step: int, attempt: int) -> None:
    assert CheckpointRef.from_name(PREFIX, name) == CheckpointRef(step, attempt, f"{PREFIX}/{name}")


@pytest.mark.parametrize(
    "name", ["checkpoint-final", "checkpoint-final-merged", "checkpoint-10", "checkpoint-010-1", "checkpoint-1-0", "x"]
)
def test_other_names_are_no_checkpoints(name: str) -> None:
    assert CheckpointRef.from_name(PREFIX, name) is None


def test_newer_checkpoints_are_greater() -> None:
    names = ["checkpoint-9-1", "checkpoint-10-1", "checkpoint-10-2", "checkpoint-100-1"]
    refs = [CheckpointRef.from_name(PREFIX, name) for name in names]
    assert all(ref is not None for ref in refs)
    assert sorted(refs, reverse=True, key=lambda ref: ref or CheckpointRef.at(PREFIX, 0, 1)) == refs[::-1]


def test_run_json_comes_back_as_it_was_written() -> None:
    written = record(r=8, lr=5e-5)
    assert RunRecord.from_json(written.to_json(), where="run.json") == written


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"format": 1, "attempts": []}', b"\xff"])
def test_a_damaged_run_json_is_reported(body: bytes) -> None:
    with pytest.raises(IntegrityError, match=r"bucket/run\.json. is damaged"):
        RunRecord.from_json(body, where="bucket/run.json")


def test_a_run_json_of_another_version_is_reported() -> None:
    with pytest.raises(IntegrityError, match=r"bucket/run\.json. can't be read as the record of a run"):
        RunRecord.from_json(to_sealed_json({"format": 2, "attempts": []}), where="bucket/run.json")


def test_every_flipped_bit_of_run_json_is_reported() -> None:
    written = record(r=8, name="Ärger").to_json()
    for at in range(len(written)):
        for bit in range(8):
            body = bytearray(written)
            body[at] ^= 1 << bit
            try:
                read = RunRecord.from_json(bytes(body), where="run.json")
            except IntegrityError:
                continue
            assert read == record(r=8, name="Ärger"), f"byte {at}, bit {bit}"  # between words


def test_a_damaged_run_json_is_reported_and_does_not_stop_a_training(store: Store) -> None:
    experiment(store).claim(record())
    store.put(f"{PREFIX}/run.json", b"damaged")
    notices: list[str] = []
    assert experiment(store).claim(record(), on_damage=notices.append).number == 2
    assert ["run.json' is damaged" in sentence for sentence in notices] == [True]
    assert [entry["number"] for entry in json.loads(store.get(f"{PREFIX}/run.json").body)["attempts"]] == [2]


def test_rows_after_the_restored_step_are_dropped_so_that_each_appears_once(tmp_path: Path) -> None:
    first = MetricsLog(tmp_path / "metrics.jsonl")
    for step in range(1, 6):
        first.append({"step": step, "loss": 1 / step})
    again = MetricsLog(tmp_path / "metrics.jsonl", rows=first.snapshot(), up_to_step=3)
    again.append({"step": 4, "loss": 0.25})
    assert [row["step"] for row in again.rows()] == [1, 2, 3, 4]
    assert MetricsLog(tmp_path / "metrics.jsonl", rows=again.snapshot()).rows() == []


def test_an_incomplete_last_row_is_ignored_and_a_damaged_one_reported() -> None:
    assert list(parse_rows(b'{"step": 1}\n{"step": 2, "lo')) == [{"step": 1}]
    assert list(parse_rows(b"")) == []
    for line in (b"{", b"[1]", b'{"loss": 1}', b'{"step": "1"}'):
        with pytest.raises(IntegrityError, match=r"Line 2 of metrics\.jsonl is not a row of metrics"):
            list(parse_rows(b'{"step": 1}\n' + line + b'\n{"step": 3}\n'))


def test_a_number_that_json_lacks_is_null(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path / "metrics.jsonl")
    log.append({"step": 1, "loss": math.nan, "grad_norm": math.inf, "lr": 0.1})
    assert log.snapshot() == b'{"step": 1, "loss": null, "grad_norm": null, "lr": 0.1}\n'


def test_a_row_needs_a_step(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="int as 'step', not None"):
        MetricsLog(tmp_path / "metrics.jsonl").append({"loss": 1.0})


def test_the_room_loads_no_torch_and_shows_its_names_sorted() -> None:
    names = tuneyard.checkpoints.__all__
    assert names == sorted(names, key=lambda name: (not name.isupper(), name))  # constants first
    assert all(hasattr(tuneyard.checkpoints, name) for name in names)
    program = "import sys, tuneyard.checkpoints; print([m for m in ('torch', 'transformers') if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_rows_of_metrics_are_on_disk_when_they_are_added(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b"old")
    synced = note_syncs(monkeypatch, path)
    metrics = MetricsLog(path, rows=b'{"step": 1, "loss": 2.0}\n', up_to_step=1)
    begun = path.read_bytes()
    assert [(one.size, one.visible) for one in synced] == [(len(begun), b"old")]
    synced.clear()
    metrics.append({"step": 2})
    assert [one.visible for one in synced] == [path.read_bytes()]
    assert path.read_bytes() == begun + b'{"step": 2}\n'
