"""Where Tuneyard's own folders lie, and what a user reads where the system refuses one of them."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from lab.small_disks import small_disk
from tuneyard.errors import (
    ConflictError,
    DeniedError,
    FullError,
    InvalidValuesError,
    NotFoundError,
    TuneyardError,
    UnavailableError,
)
from tuneyard.folders import home_folder, refusals, refused
from tuneyard.store import open_store

DELIVER = {
    "dataScript": "open('/downloads/datasets/a.jsonl', 'w').write('{}')",
    "bucketDataDir": "default-bucket/datasets",
}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TUNEYARD_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def test_the_home_is_named_by_the_variable_or_lies_in_the_users_data(tmp_path: Path) -> None:
    assert home_folder({"TUNEYARD_HOME": str(tmp_path)}) == tmp_path
    assert home_folder({"TUNEYARD_HOME": "relative"}) == Path.cwd() / "relative"
    assert home_folder({}).name == "tuneyard"
    assert home_folder({}).is_absolute()
    with pytest.raises(InvalidValuesError, match="TUNEYARD_HOME is '~nobody-of-that-name'"):
        home_folder({"TUNEYARD_HOME": "~nobody-of-that-name"})


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (errno.EACCES, DeniedError),
        (errno.EPERM, DeniedError),
        (errno.EROFS, DeniedError),
        (errno.ENOTDIR, ConflictError),
        (errno.EEXIST, ConflictError),
        (errno.ENOENT, NotFoundError),
        (errno.ENAMETOOLONG, InvalidValuesError),
        (errno.ELOOP, InvalidValuesError),
        (errno.ENOSPC, FullError),
        (errno.EDQUOT, FullError),
        (errno.EIO, UnavailableError),
        (errno.ESTALE, UnavailableError),
    ],
)
def test_each_refusal_of_the_system_has_its_exit_code(home: Path, number: int, kind: type[TuneyardError]) -> None:
    error = refused(OSError(number, os.strerror(number), str(home / "runs")))
    assert type(error) is kind
    assert error.message == f"The path '{home}/runs' in '{home}' can't be used: {os.strerror(number)}."
    if kind is not FullError:
        assert error.hint == "Use another folder: export TUNEYARD_HOME=/path/to/folder"


def test_the_hint_names_what_moves_the_folder(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def hint(path: Path, workdir: Path | None = None) -> str:
        error = refused(PermissionError(errno.EACCES, "Permission denied", str(path)), workdir=workdir)
        assert error
        return error.hint

    work = tmp_path / "work"
    assert hint(work / "models", work) == "Use another folder: --workdir /path/to/folder"
    assert "TUNEYARD_HOME" in hint(home.parent, home / "runs/finetune/lora/work")  # above the home, which can't be made
    assert "TUNEYARD_HOME" in hint(home / "runs/finetune/lora/work/x", home / "runs/finetune/lora/work")
    temporary = Path(tempfile.gettempdir())
    assert hint(temporary / "tuneyard-x" / "y") == "Use another folder: export TMPDIR=/path/to/folder"
    assert hint(Path("/elsewhere/x")) == "Check it, or use another: ls -ld /elsewhere/x"
    monkeypatch.setenv("TUNEYARD_CHART", "finetune")
    assert hint(work / "models", work) == "Check the pod's volume and podSecurityContext.fsGroup."


def test_errors_without_a_file_or_of_the_installation_are_internal() -> None:
    assert refused(ConnectionResetError(errno.ECONNRESET, "Connection reset by peer")) is None
    assert refused(OSError(errno.EBADF, "Bad file descriptor")) is None
    assert refused(FileNotFoundError(errno.ENOENT, "No such file", str(Path(sys.prefix) / "lib/x.py"))) is None


def test_a_program_gets_our_error_with_the_systems_as_its_cause(home: Path) -> None:
    with pytest.raises(DeniedError) as caught, refusals():
        Path("/sys/tuneyard").mkdir()
    assert isinstance(caught.value.__cause__, OSError)
    with pytest.raises(ConnectionResetError), refusals():
        raise ConnectionResetError


@pytest.mark.parametrize("verb", ["put", "create", "write"])
@pytest.mark.parametrize(
    ("root", "kind"), [("/sys/store", DeniedError), ("/proc/store", NotFoundError), ("/dev/null/store", ConflictError)]
)
def test_a_store_s_folder_that_can_t_be_written_is_named(root: str, kind: type[TuneyardError], verb: str) -> None:
    store = open_store(root)
    with pytest.raises(kind, match=f"bucket/key' can't be read or written in 'file://{root}': ") as caught:
        getattr(store, verb)("bucket/key", [b""] if verb == "write" else b"")
    assert f"ls -ld {root}" in caught.value.hint
    assert "--store URL or export TUNEYARD_STORE=URL" in caught.value.hint


def test_a_store_in_the_home_moves_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNEYARD_HOME", "/sys/home")
    with pytest.raises(DeniedError, match=r"Operation not permitted|Permission denied") as caught:
        open_store("/sys/home/store").put("bucket/key", b"")
    assert "export TUNEYARD_HOME=/path" in caught.value.hint
    monkeypatch.setenv("TUNEYARD_CHART", "deliver")
    with pytest.raises(DeniedError) as caught:
        open_store("/sys/home/store").put("bucket/key", b"")
    assert caught.value.hint == "Check the pod's volume, or name another store: --set bucketStorageHost=URL"


def test_a_file_is_no_store(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConflictError, match=r"The store's folder .*/file' is a file\."):
        open_store(str(tmp_path / "file"))


def _deliver(folder: Path, workdir: str, **environment: str) -> subprocess.CompletedProcess[str]:
    (folder / "values.json").write_text(json.dumps(DELIVER))
    return subprocess.run(
        [sys.executable, "-m", "tuneyard.delivery", str(folder / "values.json"), "--workdir", workdir],
        env={
            **os.environ,
            "TUNEYARD_STORE": str(folder / "store"),
            "TUNEYARD_HOME": str(folder / "home"),
            **environment,
        },
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(("workdir", "code"), [("/sys/work", 5), ("/dev/null/work", 6), ("/proc/work", 4)])
def test_a_process_s_folder_that_can_t_be_made_is_named(tmp_path: Path, workdir: str, code: int) -> None:
    done = _deliver(tmp_path, workdir)
    assert done.returncode == code, done.stderr
    assert workdir in done.stderr
    assert "hint: Use another folder: --workdir /path/to/folder" in done.stderr
    words = tmp_path / "words.json"
    _deliver(tmp_path, workdir, TUNEYARD_TERMINATION_LOG=str(words), TUNEYARD_CHART="deliver")
    message = json.loads(words.read_text())
    assert (message["exit_code"], message["hint"]) == (code, "Check the pod's volume and podSecurityContext.fsGroup.")


def test_a_read_only_disk_is_denied(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 1) as disk:
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        done = _deliver(tmp_path, str(disk / "work"))
    assert done.returncode == 5, done.stderr
    assert f"The path '{disk}/work' can't be used: Read-only file system." in done.stderr


def test_no_folder_for_temporary_files_names_its_variable() -> None:
    tuneyard = Path(sys.executable).with_name("tuneyard")
    # Read-only, not hidden: this checkout may lie there.
    read_only = "; ".join(
        f"mount --bind {folder} {folder}; mount -o remount,bind,ro {folder}" for folder in ("/tmp", "/var/tmp")
    )
    script = f"set -e; {read_only}; cd /sys; exec {tuneyard} data check /rows.jsonl --model /model"
    ran = subprocess.run(
        ["unshare", "--mount", "sh", "-c", script],
        env={**os.environ, "TMPDIR": "/sys", "TUNEYARD_HOME": "/sys/home"},
        capture_output=True,
        text=True,
        check=False,
    )
    if "unshare" in ran.stderr or "mount:" in ran.stderr:
        pytest.skip(f"no file system can be mounted here: {ran.stderr.strip()}")
    assert ran.returncode == 4, ran.stderr
    assert "error: No folder for temporary files can be used: " in ran.stderr
    assert "hint: Use another folder: export TMPDIR=/path/to/folder" in ran.stderr
