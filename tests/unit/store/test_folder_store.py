"""What only a folder can do wrong: links, leftovers, other processes, and keys that are folders."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tuneyard.errors import ConflictError, DeniedError, NotFoundError
from tuneyard.store import open_store


def test_nothing_but_objects_lies_in_a_bucket(tmp_path: Path) -> None:
    store = open_store(tmp_path.as_uri())
    store.put("bucket/a/b", b"one")
    store.write("bucket/a/c", [b"two"])
    assert sorted(path.name for path in (tmp_path / "bucket/a").iterdir()) == ["b", "c"]
    assert sorted(path.name for path in tmp_path.iterdir()) == [".store", "bucket"]
    assert list((tmp_path / ".store/tmp").iterdir()) == []


def test_a_delete_removes_empty_folders_but_never_the_bucket(tmp_path: Path) -> None:
    store = open_store(tmp_path.as_uri())
    store.put("bucket/a/b/c", b"")
    store.put("bucket/a/d", b"")
    store.delete(["bucket/a/b/c"])
    assert [path.name for path in (tmp_path / "bucket/a").iterdir()] == ["d"]
    store.delete(["bucket/a/d"])
    assert list((tmp_path / "bucket").iterdir()) == []


@pytest.mark.parametrize("verb", ["put", "create", "write", "delete"])
def test_writes_do_not_follow_a_link_out_of_the_store(tmp_path: Path, verb: str) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "key").write_bytes(b"theirs")
    store = open_store((tmp_path / "store").as_uri())
    store.put("bucket/other", b"")
    (tmp_path / "store/bucket/link").symlink_to(outside)
    with pytest.raises(DeniedError, match=f"leads out of the store.*{outside}"):
        if verb == "delete":
            store.delete(["bucket/link/key"])
        else:
            getattr(store, verb)("bucket/link/key", b"ours" if verb != "write" else [b"ours"])
    assert (outside / "key").read_bytes() == b"theirs"
    assert [path.name for path in outside.iterdir()] == ["key"]


def test_a_put_over_a_link_replaces_the_link_and_not_its_target(tmp_path: Path) -> None:
    (tmp_path / "outside").write_bytes(b"theirs")
    store = open_store((tmp_path / "store").as_uri())
    store.put("bucket/other", b"")
    (tmp_path / "store/bucket/key").symlink_to(tmp_path / "outside")
    store.put("bucket/key", b"ours")
    assert (tmp_path / "outside").read_bytes() == b"theirs"
    assert store.get("bucket/key").body == b"ours"


def test_a_linked_model_is_read_and_listed_and_a_loop_ends(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/config.json").write_bytes(b"{}")
    store = open_store((tmp_path / "store").as_uri())
    store.put("bucket/models/own", b"")
    (tmp_path / "store/bucket/models/linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "store/bucket/models/loop").symlink_to(tmp_path / "store/bucket")
    (tmp_path / "store/bucket/models/broken").symlink_to(tmp_path / "nothing")
    keys = [info.key for info in store.list("bucket/models/")]
    assert "bucket/models/linked/config.json" in keys
    assert "bucket/models/own" in keys
    assert store.get("bucket/models/linked/config.json").body == b"{}"


def test_an_object_can_not_be_a_folder_of_others(tmp_path: Path) -> None:
    store = open_store(tmp_path.as_uri())
    store.put("bucket/a/b", b"")
    for key in ("bucket/a", "bucket/a/b/c"):
        with pytest.raises(ConflictError, match="lies above or below"):
            store.put(key, b"")
        with pytest.raises(NotFoundError):
            store.get(key)
    assert [info.key for info in store.list("bucket/")] == ["bucket/a/b"]


def test_objects_of_equal_size_and_time_have_different_etags(tmp_path: Path) -> None:
    store = open_store(tmp_path.as_uri())
    etags = {store.put("bucket/key", f"{number:08d}".encode()) for number in range(200)}
    assert len(etags) == 200


def test_a_large_object_keeps_its_etag_until_it_is_written_again(tmp_path: Path) -> None:
    store = open_store(tmp_path.as_uri())
    first = store.put("bucket/key", b"x" * 2_000_000)
    assert store.head("bucket/key").etag == store.get("bucket/key").etag == first
    second = store.replace("bucket/key", b"x" * 2_000_000, etag=first)
    assert second != first


HOLD = """
    import sys, time
    from tuneyard.store import open_store

    def chunks():
        yield b"half"
        print("writing", flush=True)
        sys.stdin.read()
        yield b" and half"

    open_store(sys.argv[1]).write("bucket/key", chunks())
"""


def start_writer(url: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", textwrap.dedent(HOLD), url]
    writer = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert writer.stdout
    assert writer.stdout.readline() == "writing\n"
    return writer


def test_leftovers_of_a_killed_writer_are_removed_on_the_next_open(tmp_path: Path) -> None:
    with start_writer(tmp_path.as_uri()) as writer:
        writer.kill()
    assert len(list((tmp_path / ".store/tmp").iterdir())) == 1
    assert list(open_store(tmp_path.as_uri()).list("bucket/")) == []
    assert list((tmp_path / ".store/tmp").iterdir()) == []


def test_files_of_a_running_writer_are_kept(tmp_path: Path) -> None:
    with start_writer(tmp_path.as_uri()) as writer:
        store = open_store(tmp_path.as_uri())
        assert len(list((tmp_path / ".store/tmp").iterdir())) == 1
        writer.communicate(timeout=120)
    assert writer.returncode == 0
    assert store.get("bucket/key").body == b"half and half"


COUNT = """
    import sys
    from tuneyard.errors import ChangedError
    from tuneyard.store import open_store

    store = open_store(sys.argv[1])
    for turn in range(int(sys.argv[2])):
        while True:
            found = store.get("bucket/count")
            number = int(found.body.split()[0]) + 1
            try:
                store.replace("bucket/count", f"{number} {sys.argv[3]}-{turn}".encode(), etag=found.etag)
                break
            except ChangedError:
                pass
"""


def test_processes_that_compare_and_swap_lose_no_update(tmp_path: Path) -> None:
    store = open_store(tmp_path.as_uri())
    store.create("bucket/count", b"0 start")
    command = [sys.executable, "-c", textwrap.dedent(COUNT), tmp_path.as_uri(), "25"]
    counters = [subprocess.Popen([*command, str(number)]) for number in range(4)]
    assert [counter.wait(120) for counter in counters] == [0] * 4
    assert store.get("bucket/count").body.split()[0] == b"100"


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is denied to root")
def test_a_folder_that_may_not_be_written_is_denied(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir(mode=0o500)
    with pytest.raises(DeniedError, match="Permission denied"):
        open_store((tmp_path / "store").as_uri()).put("bucket/key", b"")
