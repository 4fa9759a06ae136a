"""The chat at a real terminal (a pseudo-terminal): Ctrl-C stops the answer and nothing else."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tuneyard.chatting import chat_stream
from tuneyard.chatting.endpoint import open_client

SCRIPT = """
import fcntl, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)  # so that Ctrl-C at this terminal is our signal
from tuneyard.chatting import run_chat
from tuneyard.chatting.endpoint import connect
run_chat(connect(sys.argv[1], sys.argv[2]), compare=sys.argv[3] == "compare", temperature=0.0, max_tokens=1900)
print("left in peace")
"""
QUESTION = "What is a yard?"
CTRL_C, CTRL_D = b"\x03", b"\x04"


class Terminal:
    """What someone at the terminal sees and types."""

    def __init__(self, master: int) -> None:
        self._master = master
        self._at = 0
        self.seen = ""

    def see(self, pattern: str, *, seconds: float = 180) -> None:
        """Read until something matches that comes after what was last seen."""
        until = time.monotonic() + seconds
        while not (match := re.compile(pattern).search(self.seen, self._at)):
            assert time.monotonic() < until, self.seen
            if select.select([self._master], [], [], 0.1)[0]:
                self.seen += os.read(self._master, 65536).decode(errors="replace")
        self._at = match.end()

    def type(self, keys: bytes) -> None:
        os.write(self._master, keys)


@contextmanager
def talking(server, how: str) -> Iterator[tuple[Terminal, subprocess.Popen[bytes]]]:
    master, slave = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "120", "LINES": "40"}
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, server.url, server.key, how],
        stdin=slave,
        stdout=slave,
        stderr=slave,
        env=environment,
        start_new_session=True,
    )
    os.close(slave)
    try:
        yield Terminal(master), process
    finally:
        process.kill()
        process.wait()
        os.close(master)


def test_ctrl_c_stops_the_answer_and_ctrl_d_exits(server, endpoint, tmp_path):
    kept = tmp_path / "kept.jsonl"
    with talking(server, "one") as (terminal, process):
        terminal.see("> ")
        terminal.type(f"{QUESTION}\r".encode())
        terminal.see(r"yard\?\s+\S{2}")
        terminal.type(CTRL_C)
        terminal.see("> ")
        assert "Traceback" not in terminal.seen
        terminal.type(f"/save {kept}\r".encode())
        terminal.see("Saved to")
        terminal.see("> ")
        terminal.type(CTRL_D)
        terminal.see("left in peace")
        assert process.wait(120) == 0
        assert " …" in terminal.seen  # the mark of an answer that was stopped
    question, answer = json.loads(kept.read_text())["messages"]
    assert question == {"role": "user", "content": QUESTION}
    with open_client(endpoint) as client:
        begins = "".join(chat_stream(client, "tuned", [question], max_tokens=60, temperature=0.0))
    assert answer["content"]
    assert answer["content"].startswith(begins) or begins.startswith(answer["content"])


def test_ctrl_c_stops_both_answers_of_a_comparison(server, tmp_path):
    kept = tmp_path / "kept.jsonl"
    with talking(server, "compare") as (terminal, process):
        terminal.see("> ")
        terminal.type(f"{QUESTION}\r".encode())
        terminal.see("tiny.*tuned")
        terminal.see("│")
        terminal.type(CTRL_C)
        terminal.see("Stopped")
        terminal.see("> ")
        terminal.type(f"/save {kept}\r/exit\r".encode())
        terminal.see("left in peace")
        assert process.wait(120) == 0
        assert "Traceback" not in terminal.seen
    assert len(kept.read_text().splitlines()) == 2


@pytest.mark.parametrize("keys", [b"/exit\r", CTRL_D])
def test_exit_and_ctrl_d_end_the_chat(server, keys):
    with talking(server, "one") as (terminal, process):
        terminal.see("> ")
        terminal.type(keys)
        terminal.see("left in peace")
        assert process.wait(120) == 0
