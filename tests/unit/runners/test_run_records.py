"""Atomic files, locks, last errors, differing keys, ports and outcomes."""

from __future__ import annotations

import os
import pickle
import socket
import stat
import subprocess
import sys

import pytest

from lab.syncs import note_syncs
from tuneyard.errors import UnavailableError
from tuneyard.runners import RunInfo
from tuneyard.runners.differences import differing_keys
from tuneyard.runners.local.output import last_error
from tuneyard.runners.local.ports import choose_port, is_free
from tuneyard.runners.local.records import is_locked, locked, read_json, try_lock, write_bytes, write_json
from tuneyard.runners.waiting import RunEndedError, raise_if_not_succeeded


def test_a_record_is_written_atomically_with_its_mode(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"a": 1})
    write_json(path, {"a": 2}, mode=0o600)
    assert read_json(path) == {"a": 2}
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_a_record_is_synced_before_it_is_renamed(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    write_bytes(path, b"old")
    synced = note_syncs(monkeypatch, path)
    write_bytes(path, b"new and longer")
    assert [(one.size, one.visible) for one in synced] == [(14, b"old")]


@pytest.mark.parametrize("body", [b"", b"{", b"[1]", b"\xff"])
def test_an_invalid_record_is_none(tmp_path, body):
    write_bytes(tmp_path / "x", body)
    assert read_json(tmp_path / "x") is None
    assert read_json(tmp_path / "absent") is None


def test_a_lock_is_held_until_its_last_holder_ends(tmp_path):
    path = tmp_path / "lock"
    assert not is_locked(path)
    lock = try_lock(path)
    assert is_locked(path)
    assert try_lock(path) is None
    command = [sys.executable, "-c", "import sys; print('up', flush=True); sys.stdin.read()"]
    with subprocess.Popen(command, pass_fds=(lock,), stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        holder.stdout.readline()
        os.close(lock)
        assert is_locked(path)
        holder.kill()
    assert not is_locked(path)


def test_probing_a_lock_does_not_take_it(tmp_path):
    path = tmp_path / "lock"
    os.close(try_lock(path))
    for _ in range(50):
        assert not is_locked(path)
    lock = try_lock(path)
    assert lock is not None
    os.close(lock)


def test_a_with_block_holds_a_lock_and_creates_its_folder(tmp_path):
    path = tmp_path / "deep" / "lock"
    with locked(path):
        assert is_locked(path)
    assert not is_locked(path)


def test_the_last_error_has_its_problems_and_hint(tmp_path):
    log = tmp_path / "log"
    log.write_text(
        "error: old\nhint: old hint\nstep 3\nerror: Two things.\n  a.b: is wrong\n  a.c: too\nhint: mend them\n"
    )
    assert last_error(log) == ("Two things.\n  a.b: is wrong\n  a.c: too", "mend them")


def test_without_an_error_the_last_line_is_the_last_error(tmp_path):
    log = tmp_path / "log"
    log.write_text("one\nKilled by something\n\n")
    assert last_error(log) == ("Killed by something", "")
    assert last_error(tmp_path / "absent") == ("", "")


def test_the_last_error_of_an_attempt_ignores_the_previous_attempt(tmp_path):
    log = tmp_path / "log"
    log.write_text("error: old\n")
    assert last_error(log, offset=log.stat().st_size) == ("", "")


def test_differing_keys_are_dotted_and_sorted():
    one = {"a": {"b": 1, "c": [1, 2]}, "d": None, "same": {"x": 1}}
    other = {"a": {"b": 2, "c": [1, 3]}, "e": 0, "same": {"x": 1}}
    assert differing_keys(one, other) == ["a.b", "a.c", "d", "e"]
    assert differing_keys(one, one) == []


def test_a_port_in_use_is_refused_by_number_and_skipped_otherwise():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert not is_free("127.0.0.1", port)
        with pytest.raises(UnavailableError, match=rf"Port {port} of 127\.0\.0\.1 is in use"):
            choose_port("127.0.0.1", port)
        assert choose_port("127.0.0.1", None, first=port) > port


@pytest.mark.parametrize(
    ("info", "code", "words"),
    [
        (RunInfo("finetune", "a", "failed", exit_code=7, error="Bytes differ."), 7, "failed: Bytes differ."),
        (
            RunInfo("finetune", "a", "stopped", why="stopped on request", exit_code=143),
            143,
            r"was stopped on request\.",
        ),
        (
            RunInfo("finetune", "a", "stopped", why="killed before it had saved", exit_code=137),
            143,
            "was killed before",
        ),
        (RunInfo("finetune", "a", "interrupted", why="the machine restarted"), 8, "was interrupted: the machine"),
    ],
)
def test_a_run_that_did_not_succeed_is_an_error_with_its_exit_code(info, code, words):
    with pytest.raises(RunEndedError, match=words) as caught:
        raise_if_not_succeeded(info)
    assert caught.value.exit_code == code
    assert pickle.loads(pickle.dumps(caught.value)).info == info


def test_a_run_that_succeeded_or_is_active_is_no_error():
    for status in ("succeeded", "running", "queued"):
        info = RunInfo("finetune", "a", status)
        assert raise_if_not_succeeded(info) is info
