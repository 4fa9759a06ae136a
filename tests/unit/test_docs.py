"""The documentation: its commands and keys exist, and its design pages have one form."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from typer.core import TyperGroup
from typer.main import get_command

import tuneyard
from lab.value_keys import keys_of
from tuneyard.cli.main import app
from tuneyard.values import DeliverValues, FinetuneValues, InferenceValues, Values

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
MODELS: dict[str, type[Values]] = {
    "deliver": DeliverValues,
    "finetune": FinetuneValues,
    "plan": FinetuneValues,
    "serve": InferenceValues,
}
PARTS = ["Context", "Decision", "Rejected", "Invariants"]
SOURCES = (ROOT, ROOT / "src/tuneyard")
ROOT_COMMAND = get_command(app)


def commands_of(text: str) -> Iterator[list[str]]:
    """Yield the words after `tuneyard` of each command in a page's blocks of bash and in its inline code."""
    for block in re.findall(r"^[ ]*```bash\n(.*?)^[ ]*```$", text, re.MULTILINE | re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            for command in re.findall(r"(?<![\w/.-])(?:\.venv/bin/)?tuneyard ([-a-z][^;|]*)", line.partition("#")[0]):
                yield shlex.split(command)
    for command in re.findall(r"`tuneyard ([^`]+)`", text):
        yield shlex.split(command)


def resolved(words: list[str]) -> tuple[Any, list[str], list[str]]:
    """Follow words to the command that they name; return it, its name, and the words left."""
    command, name = ROOT_COMMAND, []
    while words and isinstance(command, TyperGroup) and words[0] in command.commands:
        command, name, words = command.commands[words[0]], [*name, words[0]], words[1:]
    return command, name, words


def mistakes(words: list[str]) -> Iterator[str]:
    command, name, rest = resolved(words)
    if command is ROOT_COMMAND and not rest[0].startswith("-"):
        yield f"no command {rest[0]!r}"
        return
    known = {option for parameter in command.params for option in parameter.opts} | {"--help", "--install-completion"}
    for word in rest:
        option = word.strip("[]").partition("=")[0]
        if re.fullmatch(r"--?[a-z][-a-z]*", option) and option not in known:
            yield f"{' '.join(name)} has no option {option}"
    for flag, value in pairwise(rest):
        if flag == "--set" and name and name[0] in MODELS:
            yield from unknown_key(value.partition("=")[0], MODELS[name[0]])


def unknown_key(key: str, model: type[Values]) -> Iterator[str]:
    keys = [known for known, _ in keys_of(model)]
    if not any(key == known or key.startswith(f"{known}.") or known.startswith(f"{key}.") for known in keys):
        yield f"{model.__name__} has no key {key}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_command_option_and_key_in_the_docs_exists(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert [(words, mistake) for words in commands_of(text) for mistake in mistakes(words)] == []


def test_the_docs_show_many_commands() -> None:
    shown = [words for page in PAGES for words in commands_of(page.read_text(encoding="utf-8"))]
    assert len(shown) > 120
    assert len({resolved(words)[1][0] for words in shown if resolved(words)[1]}) >= 14


@pytest.mark.parametrize("words", [["serv", "x"], ["serve", "--target", "x"], ["finetune", "--set", "learning_rate=1"]])
def test_a_command_that_does_not_exist_is_found(words: list[str]) -> None:
    assert list(mistakes(words))


def test_every_file_of_the_repository_that_the_docs_name_exists() -> None:
    named = [
        (page.name, path)
        for page in PAGES
        for path in re.findall(r"`((?:[a-z_]+/)+[\w-]+\.(?:py|md|yaml))`", page.read_text(encoding="utf-8"))
    ]
    assert len(named) > 20
    assert [(page, path) for page, path in named if not any((base / path).is_file() for base in SOURCES)] == []


def test_every_design_decision_has_the_four_parts() -> None:
    decisions = [page for page in (ROOT / "docs/design").glob("*.md") if page.stem not in ("index", "layout")]
    assert len(decisions) >= 20
    headings = {page.stem: re.findall(r"^## (.*)$", page.read_text(), re.MULTILINE) for page in decisions}
    assert {name: found for name, found in headings.items() if found != PARTS} == {}


def test_the_pictures_show_no_folder_of_a_machine() -> None:
    pictures = sorted((ROOT / "docs/assets").glob("*.svg"))
    assert len(pictures) >= 2
    for picture in pictures:
        assert re.findall(r"(?:/|&#47;)(?:home|root|tmp|work|Users)/", picture.read_text(encoding="utf-8")) == [], (
            picture
        )


def test_the_python_reference_has_every_exported_member(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs", reason="needs the docs group")
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--strict", "--site-dir", str(tmp_path / "site")]
    environ = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    built = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stdout + built.stderr
    page = (tmp_path / "site/reference/python/index.html").read_text(encoding="utf-8")
    anchors = set(re.findall(r'id="tuneyard\.(\w+)"', page))
    assert set(tuneyard.__all__) - {"__version__"} <= anchors
