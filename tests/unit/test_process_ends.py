"""How a process ends: its exit code, what it prints, and the termination message that it leaves."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tuneyard.errors import DeniedError
from tuneyard.process import Terminated, ending

PROGRAM = """
import os, signal, sys
from pathlib import Path
from tuneyard.errors import InvalidDataError, IntegrityError, Problem
from tuneyard.process import run_main

def main():
    {body}

sys.exit(run_main(main, workdir=Path({workdir!r})))
"""


def end(body: str, workdir: Path, **env: str) -> subprocess.CompletedProcess[str]:
    program = PROGRAM.format(body=body, workdir=str(workdir))
    env = {"PATH": os.environ["PATH"], **env}
    return subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize(("body", "code"), [("pass", 0), ("return 0", 0), ("return 4", 4)])
def test_the_exit_code_is_what_main_returns(body: str, code: int, tmp_path: Path) -> None:
    result = end(body, tmp_path)
    assert (result.returncode, result.stdout, result.stderr) == (code, "", "")


def test_an_error_prints_a_sentence_its_problems_and_a_hint(tmp_path: Path) -> None:
    body = 'raise InvalidDataError("Two rows are off.", hint="Correct them.", problems=[Problem("a:1", "is no JSON")])'
    result = end(body, tmp_path)
    assert result.returncode == 3
    assert result.stderr.splitlines() == ["error: Two rows are off.", "  a:1: is no JSON", "hint: Correct them."]


def test_sigterm_exits_with_143_after_finally_blocks(tmp_path: Path) -> None:
    body = f"""
    try:
        os.kill(os.getpid(), {int(signal.SIGTERM)})
    finally:
        print("closed", flush=True)
"""
    result = end(body, tmp_path)
    assert (result.returncode, result.stdout) == (143, "closed\n")


def test_ctrl_c_exits_with_130_and_no_traceback(tmp_path: Path) -> None:
    result = end(f"os.kill(os.getpid(), {int(signal.SIGINT)})", tmp_path)
    assert (result.returncode, result.stderr) == (130, "Interrupted.\n")


def test_an_internal_error_prints_one_line_and_writes_its_traceback_to_a_file(tmp_path: Path) -> None:
    result = end("{}['missing']", tmp_path / "new folder")
    assert result.returncode == 1
    assert result.stderr.splitlines()[0] == "error: Internal error: KeyError: 'missing'"
    kept = tmp_path / "new folder" / "traceback.txt"
    assert str(kept) in result.stderr
    assert "Traceback" in kept.read_text()
    assert "Traceback" not in result.stderr


def test_debug_prints_tracebacks(tmp_path: Path) -> None:
    result = end('raise IntegrityError("Bytes differ.")', tmp_path, TUNEYARD_DEBUG="1")
    assert result.returncode == 7
    assert "Traceback" in result.stderr
    assert result.stderr.splitlines()[-1] == "error: Bytes differ."


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ('raise IntegrityError("It differs.", hint="Bring it back.")', (7, "It differs.", "Bring it back.")),
        ("return 143", (143, "", "")),
        ("raise KeyboardInterrupt", (130, "Interrupted.", "")),
        (f"os.kill(os.getpid(), {int(signal.SIGTERM)})", (143, "Terminated by SIGTERM.", "")),
        ('raise RuntimeError("odd")', (1, "Internal error: RuntimeError: odd", "")),
    ],
)
def test_the_outcome_is_left_as_a_termination_message(body: str, message: tuple[int, str, str], tmp_path: Path):
    log = tmp_path / "termination-log"
    result = end(body, tmp_path, TUNEYARD_TERMINATION_LOG=str(log))
    assert result.returncode == message[0]
    assert tuple(json.loads(log.read_text()).values()) == message
    assert log.stat().st_size <= 4096


def test_a_termination_message_lists_each_problem(tmp_path: Path) -> None:
    log = tmp_path / "termination-log"
    problems = "[Problem(where='a.b', what='is not trained'), Problem(where='c', what='is missing')]"
    end(f'raise InvalidDataError("2 values are off", problems={problems})', tmp_path, TUNEYARD_TERMINATION_LOG=str(log))
    error = json.loads(log.read_text())["error"]
    assert error.splitlines() == ["2 values are off", "  a.b: is not trained", "  c: is missing"]


@pytest.mark.parametrize("letter", ["x", "ß", "語", '"'])
def test_a_termination_message_is_no_longer_than_kubernetes_keeps(letter: str, tmp_path: Path) -> None:
    log = tmp_path / "termination-log"
    body = f"raise IntegrityError({letter * 9000!r}, hint={letter * 9000!r})"
    end(body, tmp_path, TUNEYARD_TERMINATION_LOG=str(log))
    message = json.loads(log.read_text())
    assert log.stat().st_size <= 4096
    assert len(message["error"]) >= 400
    assert len(message["hint"]) >= 200
    assert (letter * 9000).startswith(message["error"])


def test_a_termination_message_that_cannot_be_written_changes_nothing(tmp_path: Path) -> None:
    result = end('raise IntegrityError("It differs.")', tmp_path, TUNEYARD_TERMINATION_LOG=str(tmp_path / "no/such"))
    assert (result.returncode, result.stderr) == (7, "error: It differs.\n")


def test_success_leaves_no_termination_message(tmp_path: Path) -> None:
    log = tmp_path / "termination-log"
    assert end("return 0", tmp_path, TUNEYARD_TERMINATION_LOG=str(log)).returncode == 0
    assert not log.exists()


def test_a_sites_authorities_are_trusted_besides_the_systems(tmp_path: Path) -> None:
    site = tmp_path / "ca.crt"
    site.write_text("-----BEGIN CERTIFICATE-----\nsite\n-----END CERTIFICATE-----\n")
    known = tmp_path / "system.pem"
    known.write_text("-----BEGIN CERTIFICATE-----\nsystem\n-----END CERTIFICATE-----\n")
    body = 'print(Path(os.environ["SSL_CERT_FILE"]).read_text(), os.environ["REQUESTS_CA_BUNDLE"])'
    printed = end(body, tmp_path, TUNEYARD_CA_FILE=str(site), SSL_CERT_FILE=str(known)).stdout
    assert printed.index("system") < printed.index("site")
    assert str(tmp_path / "authorities.pem") in printed


def test_a_missing_file_of_authorities_changes_nothing(tmp_path: Path) -> None:
    result = end('print(os.environ.get("SSL_CERT_FILE"))', tmp_path, TUNEYARD_CA_FILE=str(tmp_path / "none.crt"))
    assert result.stdout == "None\n"


def test_the_message_of_a_child_with_the_same_exit_code_is_forwarded(tmp_path: Path) -> None:
    log, lost, failed = tmp_path / "log", tmp_path / "lost", tmp_path / "failed"
    log.write_text(json.dumps({"exit_code": 7, "error": "of an earlier process", "hint": ""}))
    lost.write_text(json.dumps({"exit_code": 1, "error": "a peer is gone", "hint": ""}))
    failed.write_text(json.dumps({"exit_code": 7, "error": "It differs.", "hint": "Bring it back."}))
    files = f"[Path({str(lost)!r}), Path({str(failed)!r}), Path({str(tmp_path / 'none')!r})]"
    body = f"from tuneyard.process import forward_message; forward_message(7, {files}); return 7"
    assert end(body, tmp_path, TUNEYARD_TERMINATION_LOG=str(log)).returncode == 7
    assert tuple(json.loads(log.read_text()).values()) == (7, "It differs.", "Bring it back.")


def test_an_earlier_processs_message_is_replaced(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text(json.dumps({"exit_code": 7, "error": "of an earlier process", "hint": ""}))
    end("return 7", tmp_path, TUNEYARD_TERMINATION_LOG=str(log))
    assert json.loads(log.read_text()) == {"exit_code": 7, "error": "", "hint": ""}


ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii", "PYTHONCOERCECLOCALE": "0"}


def test_an_ascii_terminal_shows_messages_and_file_names(tmp_path: Path) -> None:
    text = "Gr\\u00fc\\u00dfe\\u2026"
    body = f'print("{text}"); open("{tmp_path}/{text}", "x").close(); raise InvalidDataError("{text}", hint="{text}")'
    result = end(body, tmp_path / "work", **ASCII)
    assert (result.returncode, result.stdout) == (3, "Gr\\xfc\\xdfe...\n")
    assert result.stderr == "error: Gr\\xfc\\xdfe...\nhint: Gr\\xfc\\xdfe...\n"
    assert "Grüße…".encode() in os.listdir(os.fsencode(tmp_path))  # noqa: PTH208  (the bytes of its name)


@pytest.mark.parametrize(
    "name", ["delivery", "delivery.script_process", "train", "serving", "diagnosis", "runners.kubernetes.pod_removal"]
)
def test_an_ascii_terminal_shows_the_help_of_each_process(name: str) -> None:
    command = [sys.executable, "-m", f"tuneyard.{name}", "--help"]
    done = subprocess.run(command, env={"PATH": os.environ["PATH"], **ASCII}, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(b"usage: ")
    assert (done.stdout + done.stderr).isascii()


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (KeyboardInterrupt(), 130),
        (Terminated(), 143),
        (DeniedError("No."), 5),
        (PermissionError(errno.EACCES, "Permission denied", "/nowhere/x"), 5),
        (OSError(errno.ENOSPC, "No space left on device"), 8),
        (RuntimeError("odd"), 1),
    ],
)
def test_every_kind_of_exception_has_its_exit_code(error: BaseException, code: int, tmp_path: Path) -> None:
    assert ending(error, workdir=tmp_path).exit_code == code


def test_an_exit_that_is_no_error_passes_through(tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        ending(SystemExit(2), workdir=tmp_path)
