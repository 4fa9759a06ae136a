"""Progress reports amount, rate and time left, on a terminal, in a log and from another process."""

import os
import pty
import re
import subprocess
import sys

from tuneyard.progress import BarState, progress_bar, read_bar

WORK = """
import time
from tuneyard.progress import progress_bar
from tuneyard.terminal import show_logs
show_logs()
with progress_bar("copying", 100, "items") as advance:
    for _ in range(4):
        time.sleep(0.25)
        advance(25)
"""


def test_without_a_terminal_the_end_is_logged_in_one_line(caplog):
    caplog.set_level("INFO", "tuneyard")
    with progress_bar("copying", 2_000_000, "bytes") as advance:
        advance(1_500_000)
        advance(500_000)
    assert re.fullmatch(r"copying: 2\.0 MB in \d+\.\d s", caplog.messages[-1])


def test_another_process_can_read_the_bar_while_it_runs_and_finds_none_after(tmp_path):
    file = tmp_path / "bar.json"
    environment = {**os.environ, "TUNEYARD_PROGRESS": str(file)}
    process = subprocess.Popen([sys.executable, "-c", WORK], env=environment, stderr=subprocess.DEVNULL)
    seen: list[BarState] = []
    while process.poll() is None:
        state = read_bar(file)
        if state is not None and (not seen or state != seen[-1]):
            seen.append(state)
    assert process.returncode == 0
    assert seen
    assert {state.description for state in seen} == {"copying"}
    assert [state.done for state in seen] == sorted(state.done for state in seen)
    assert all(state.total == 100 and state.per_second > 0 for state in seen)
    assert read_bar(file) is None


def test_a_torn_file_is_no_bar(tmp_path):
    (tmp_path / "bar.json").write_text('{"description": "cop')
    assert read_bar(tmp_path / "bar.json") is None


def on_terminal(program, *words):
    """Run a program on a pseudo-terminal and return all it showed."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.environ.update(TERM="xterm", COLUMNS="100", LINES="24")
        os.execv(sys.executable, [sys.executable, "-c", program, *words])
    shown = b""
    while True:
        try:
            chunk = os.read(terminal, 4096)
        except OSError:
            break
        if not chunk:
            break
        shown += chunk
    os.close(terminal)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0, shown.decode()
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.decode())


def test_a_program_that_shows_no_logs_sees_no_bar():
    assert on_terminal(WORK.replace("show_logs()\n", "\n")) == ""


def test_on_a_terminal_there_is_a_bar_with_rate():
    shown = on_terminal(WORK)
    assert "━" in shown
    assert "100/100" in shown
    assert re.search(r"\d+\.\d/s", shown)


def test_a_terminal_draws_the_bar_of_a_process_that_has_none(tmp_path):
    file = tmp_path / "bar.json"
    program = f"""
import os, subprocess, sys
from pathlib import Path
from tuneyard.progress import draw_bar
with draw_bar(Path({str(file)!r}), every_seconds=0.05):
    environment = {{**os.environ, "TUNEYARD_PROGRESS": {str(file)!r}}}
    subprocess.run([sys.executable, "-c", {WORK!r}], env=environment, stderr=subprocess.DEVNULL, check=True)
"""
    shown = on_terminal(program)
    assert re.search(r"copying: \d+ of 100 \(\d+ %\), [\d.]+/s, \d+ s left", shown)
    assert "━" in shown
