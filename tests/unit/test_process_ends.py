"""How a process ends, whatever happens in it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

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
def test_what_main_returns_is_the_exit_code(body: str, code: int, tmp_path: Path) -> None:
    result = end(body, tmp_path)
    assert (result.returncode, result.stdout, result.stderr) == (code, "", "")


def test_a_mistake_is_a_sentence_its_problems_and_a_hint(tmp_path: Path) -> None:
    body = 'raise InvalidDataError("Two rows are off.", hint="Mend them.", problems=[Problem("a:1", "is no JSON")])'
    result = end(body, tmp_path)
    assert result.returncode == 3
    assert result.stderr.splitlines() == ["error: Two rows are off.", "  a:1: is no JSON", "hint: Mend them."]


def test_sigterm_is_143_and_leaves_blocks_in_order(tmp_path: Path) -> None:
    body = f"""
    try:
        os.kill(os.getpid(), {int(signal.SIGTERM)})
    finally:
        print("closed", flush=True)
"""
    result = end(body, tmp_path)
    assert (result.returncode, result.stdout) == (143, "closed\n")


def test_ctrl_c_is_130_without_a_traceback(tmp_path: Path) -> None:
    result = end(f"os.kill(os.getpid(), {int(signal.SIGINT)})", tmp_path)
    assert (result.returncode, result.stderr) == (130, "interrupted\n")


def test_an_internal_error_is_one_line_and_its_traceback_is_in_a_file(tmp_path: Path) -> None:
    result = end("{}['missing']", tmp_path / "new folder")
    assert result.returncode == 1
    assert result.stderr.splitlines()[0] == "error: Something in Tuneyard itself went wrong: KeyError: 'missing'"
    kept = tmp_path / "new folder" / "traceback.txt"
    assert str(kept) in result.stderr
    assert "Traceback" in kept.read_text()
    assert "Traceback" not in result.stderr


def test_tracebacks_are_shown_where_they_are_asked_for(tmp_path: Path) -> None:
    result = end('raise IntegrityError("Bytes differ.")', tmp_path, TUNEYARD_DEBUG="1")
    assert result.returncode == 7
    assert "Traceback" in result.stderr
    assert result.stderr.splitlines()[-1] == "error: Bytes differ."


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ('raise IntegrityError("It differs.", hint="Bring it back.")', (7, "It differs.", "Bring it back.")),
        ("return 143", (143, "", "")),
        ("raise KeyboardInterrupt", (130, "interrupted", "")),
        (f"os.kill(os.getpid(), {int(signal.SIGTERM)})", (143, "terminated by SIGTERM", "")),
        ('raise RuntimeError("odd")', (1, "Something in Tuneyard itself went wrong: RuntimeError: odd", "")),
    ],
)
def test_the_outcome_is_left_as_last_words_where_a_pod_keeps_them(
    body: str, words: tuple[int, str, str], tmp_path: Path
):
    log = tmp_path / "termination-log"
    result = end(body, tmp_path, TUNEYARD_TERMINATION_LOG=str(log))
    assert result.returncode == words[0]
    assert tuple(json.loads(log.read_text()).values()) == words
    assert log.stat().st_size <= 4096


def test_last_words_tell_each_problem(tmp_path: Path) -> None:
    log = tmp_path / "termination-log"
    problems = "[Problem(where='a.b', what='is not trained'), Problem(where='c', what='is missing')]"
    end(f'raise InvalidDataError("2 values are off", problems={problems})', tmp_path, TUNEYARD_TERMINATION_LOG=str(log))
    error = json.loads(log.read_text())["error"]
    assert error.splitlines() == ["2 values are off", "  a.b: is not trained", "  c: is missing"]


@pytest.mark.parametrize("letter", ["x", "ß", "語", '"'])
def test_last_words_are_never_more_than_kubernetes_keeps(letter: str, tmp_path: Path) -> None:
    log = tmp_path / "termination-log"
    body = f"raise IntegrityError({letter * 9000!r}, hint={letter * 9000!r})"
    end(body, tmp_path, TUNEYARD_TERMINATION_LOG=str(log))
    words = json.loads(log.read_text())
    assert log.stat().st_size <= 4096
    assert len(words["error"]) >= 400
    assert len(words["hint"]) >= 200
    assert (letter * 9000).startswith(words["error"])


def test_last_words_that_cannot_be_left_change_nothing(tmp_path: Path) -> None:
    result = end('raise IntegrityError("It differs.")', tmp_path, TUNEYARD_TERMINATION_LOG=str(tmp_path / "no/such"))
    assert (result.returncode, result.stderr) == (7, "error: It differs.\n")


def test_nothing_is_left_where_all_went_well(tmp_path: Path) -> None:
    log = tmp_path / "termination-log"
    assert end("return 0", tmp_path, TUNEYARD_TERMINATION_LOG=str(log)).returncode == 0
    assert not log.exists()


def test_the_places_authorities_are_trusted_beside_the_systems(tmp_path: Path) -> None:
    site = tmp_path / "ca.crt"
    site.write_text("-----BEGIN CERTIFICATE-----\nplace\n-----END CERTIFICATE-----\n")
    known = tmp_path / "system.pem"
    known.write_text("-----BEGIN CERTIFICATE-----\nsystem\n-----END CERTIFICATE-----\n")
    body = 'print(Path(os.environ["SSL_CERT_FILE"]).read_text(), os.environ["REQUESTS_CA_BUNDLE"])'
    told = end(body, tmp_path, TUNEYARD_CA_FILE=str(site), SSL_CERT_FILE=str(known)).stdout
    assert told.index("system") < told.index("place")
    assert str(tmp_path / "authorities.pem") in told


def test_authorities_that_are_not_there_change_nothing(tmp_path: Path) -> None:
    result = end('print(os.environ.get("SSL_CERT_FILE"))', tmp_path, TUNEYARD_CA_FILE=str(tmp_path / "none.crt"))
    assert result.stdout == "None\n"


def test_the_last_words_of_a_child_are_passed_on_where_both_end_alike(tmp_path: Path) -> None:
    log, lost, telling = tmp_path / "log", tmp_path / "lost", tmp_path / "telling"
    log.write_text(json.dumps({"exit_code": 7, "error": "of an earlier process", "hint": ""}))
    lost.write_text(json.dumps({"exit_code": 1, "error": "a peer is gone", "hint": ""}))
    telling.write_text(json.dumps({"exit_code": 7, "error": "It differs.", "hint": "Bring it back."}))
    files = f"[Path({str(lost)!r}), Path({str(telling)!r}), Path({str(tmp_path / 'none')!r})]"
    body = f"from tuneyard.process import pass_on_last_words; pass_on_last_words(7, {files}); return 7"
    assert end(body, tmp_path, TUNEYARD_TERMINATION_LOG=str(log)).returncode == 7
    assert tuple(json.loads(log.read_text()).values()) == (7, "It differs.", "Bring it back.")


def test_the_last_words_of_an_earlier_process_are_not_taken_for_ones_own(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text(json.dumps({"exit_code": 7, "error": "of an earlier process", "hint": ""}))
    end("return 7", tmp_path, TUNEYARD_TERMINATION_LOG=str(log))
    assert json.loads(log.read_text()) == {"exit_code": 7, "error": "", "hint": ""}


ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii", "PYTHONCOERCECLOCALE": "0"}


def test_a_process_prints_and_names_files_on_a_terminal_of_ascii(tmp_path: Path) -> None:
    text = "Gr\\u00fc\\u00dfe\\u2026"
    body = f'print("{text}"); open("{tmp_path}/{text}", "x").close(); raise InvalidDataError("{text}", hint="{text}")'
    result = end(body, tmp_path / "work", **ASCII)
    assert (result.returncode, result.stdout) == (3, "Gr\\xfc\\xdfe...\n")
    assert result.stderr == "error: Gr\\xfc\\xdfe...\nhint: Gr\\xfc\\xdfe...\n"
    assert "Grüße…".encode() in os.listdir(os.fsencode(tmp_path))  # noqa: PTH208  (the bytes of its name)


@pytest.mark.parametrize(
    "name", ["delivery", "delivery.script_process", "train", "serving", "diagnosis", "runners.kubernetes.pod_removal"]
)
def test_the_help_of_each_process_is_printed_on_a_terminal_of_ascii(name: str) -> None:
    command = [sys.executable, "-m", f"tuneyard.{name}", "--help"]
    done = subprocess.run(command, env={"PATH": os.environ["PATH"], **ASCII}, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(b"usage: ")
    assert (done.stdout + done.stderr).isascii()
