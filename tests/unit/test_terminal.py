"""What is written on a terminal that lacks the characters, and what is read from it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import sys
from tuneyard.terminal import prepare_text, shows_unicode
prepare_text()
open("caf" + chr(233) + ".txt", "x").close()
prepare_text()
print(sys.stdin.read())
print("caf\\u00e9 \\udcff", file=sys.stderr)
print(shows_unicode(sys.stdout))
"""
ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii"}


def run(folder: Path, text: bytes, **environment: str) -> tuple[bytes, bytes]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("LC_", "LANG", "PYTHON"))}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        input=text,
        env={**kept, **environment},
        cwd=folder,
        capture_output=True,
        check=True,
    )
    assert os.listdir(os.fsencode(folder)) == ["café.txt".encode()]  # noqa: PTH208  (the bytes of its name)
    return done.stdout, done.stderr


@pytest.mark.parametrize(
    "environment",
    [ASCII, {**ASCII, "PYTHONIOENCODING": ""}, {"LC_ALL": "C.UTF-8", "PYTHONIOENCODING": "ascii"}],
    ids=["all in ASCII", "the C locale", "the streams alone"],
)
def test_typographic_characters_become_ascii_and_others_escapes(tmp_path: Path, environment: dict[str, str]) -> None:
    out, err = run(tmp_path, "a… b–c «d» ├─└ █▌▏ → ü 😀".encode(), **environment)
    assert out == b"a... b-c <<d>> |-` ##. -> \\xfc \\U0001f600\nFalse\n"
    assert err == b"caf\\xe9 \\udcff\n"


def test_a_terminal_keeps_what_its_encoding_has(tmp_path: Path) -> None:
    out, err = run(tmp_path, "ü … 😀".encode("latin-1", "ignore"), LC_ALL="C.UTF-8", PYTHONIOENCODING="latin-1")
    assert out.decode("latin-1") == "ü  \nFalse\n"
    assert err.decode("latin-1") == "café \\udcff\n"


def test_a_terminal_of_utf_8_shows_everything_that_is_text(tmp_path: Path) -> None:
    out, err = run(tmp_path, "ü … 😀".encode(), LC_ALL="C.UTF-8")
    assert out.decode() == "ü … 😀\nTrue\n"
    assert err.decode() == "café \\udcff\n"
