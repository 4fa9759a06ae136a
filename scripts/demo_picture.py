"""Write the pictures of the demo from a real run of it: a terminal, and the training's loss.

    python scripts/demo_picture.py                     run the demo in a fresh home (minutes), then draw
    python scripts/demo_picture.py --recording FILE    draw from the bytes that an earlier run wrote to its terminal

The demo runs on a pseudo-terminal, so the picture has its colours and progress bars. The bytes are kept in build/ and
played into a terminal emulator, whose screen rich draws. Left out are the steps before the training, later answers,
repeated lines and lines that name a folder of this machine.
"""

from __future__ import annotations

import argparse
import fcntl
import io
import os
import pty
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import termios
from collections.abc import Mapping
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any

import pyte
from rich.console import Console
from rich.style import Style
from rich.text import Text

ROOT = Path(__file__).resolve().parents[1]
ASSETS = ROOT / "docs" / "assets"
DEMO = ROOT / "examples" / "tuneyard-facts" / "demo.py"
COLUMNS = 100
FIRST = "3. finetune"
"""The first step in the picture."""
FOLDER = re.compile(r"(?:file://|\s)/[\w.-]+/")
"""Matches a path of this machine."""
QUESTIONS = 5
"""How many rows of the table of answers are shown."""


def record(recording: Path) -> None:
    """Run the demo in a fresh home on its own terminal, and record its output."""
    recording.parent.mkdir(exist_ok=True)
    main, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 50, COLUMNS, 0, 0))
    with tempfile.TemporaryDirectory() as home, recording.open("wb") as file:
        environment = {**os.environ, "TUNEYARD_HOME": home, "TERM": "xterm-256color"}
        demo = subprocess.Popen(
            [sys.executable, DEMO],
            stdin=subprocess.DEVNULL,
            stdout=terminal,
            stderr=terminal,
            env=environment,
            cwd=ROOT,
        )
        os.close(terminal)
        for chunk in iter(lambda: _read(main), b""):
            file.write(chunk)
            sys.stdout.buffer.write(chunk)
            sys.stdout.flush()
        if demo.wait():
            sys.exit(f"The demo ended with exit code {demo.returncode}.")


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 65536)
    except OSError:  # the terminal's other end is closed
        return b""


def screen_of(recording: Path) -> list[Text]:
    """Replay a recording in a terminal, and return everything that it displayed, line by line."""
    screen = pyte.HistoryScreen(COLUMNS, 50, history=10_000)
    pyte.ByteStream(screen).feed(recording.read_bytes())
    lines: list[Mapping[int, Any]] = [*screen.history.top, *(screen.buffer[row] for row in range(screen.lines))]
    return [_text(line) for line in lines]


def _text(line: Mapping[int, Any]) -> Text:
    text = Text()
    for style, characters in groupby((line[column] for column in range(COLUMNS)), key=_style):
        text.append("".join(character.data for character in characters), style)
    text.rstrip()
    return text


def _style(character: Any) -> Style:
    def colour(name: str) -> str | None:
        if name == "default":
            return None
        named = {"brown": "yellow"}.get(name, name)  # pyte's name for it
        return f"#{named}" if re.fullmatch(r"[0-9a-f]{6}", named) else named.replace("bright", "bright_")

    return Style(
        color=colour(character.fg),
        bgcolor=colour(character.bg),
        bold=character.bold,
        italic=character.italics,
        underline=character.underscore,
        reverse=character.reverse,
    )


def chosen(lines: list[Text]) -> list[Text]:
    """Return the steps from `FIRST` on, each line once, with the first rows of the table of answers."""
    start = next(index for index, line in enumerate(lines) if line.plain.startswith(FIRST))
    kept: list[Text] = []
    rows = 0
    names_a_folder = False
    for before, line in pairwise(lines[max(0, start - 1) :]):
        # The end of a line that was wrapped after a folder's name goes with it.
        wrapped = names_a_folder and len(before.plain.rstrip()) == COLUMNS
        names_a_folder = bool(FOLDER.search(line.plain)) or wrapped
        rows += line.plain.startswith("├")
        in_table = line.plain.startswith(("│", "├", "└"))
        if in_table and rows >= QUESTIONS and not line.plain.startswith("└"):
            continue
        if line.plain.startswith("… and") or names_a_folder or (not in_table and kept and line.plain == kept[-1].plain):
            continue
        kept.append(line)
    while kept and not kept[-1].plain.strip():
        kept.pop()
    return kept


def draw(lines: list[Text]) -> str:
    """Draw lines as a terminal's window, without external fonts."""
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True)
    for line in lines:
        console.print(line, soft_wrap=True)
    svg = console.export_svg(title="make demo", unique_id="demo")
    svg = re.sub(r"\s*@font-face \{.*?\}", "", svg, flags=re.DOTALL)
    return "\n".join(line.rstrip() for line in svg.splitlines()) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recording", type=Path, help="draw from this recording instead of running the demo")
    recording = parser.parse_args().recording
    if recording is None:
        recording = ROOT / "build" / "demo.recording"
        record(recording)
    ASSETS.mkdir(exist_ok=True)
    picture = draw(chosen(screen_of(recording)))
    (ASSETS / "demo.svg").write_text(picture, encoding="utf-8")
    shutil.copyfile(ROOT / "demo" / "loss.svg", ASSETS / "loss.svg")


if __name__ == "__main__":
    main()
