"""A node's numbers from the environment: one that is no number is a usage error, in each of them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tuneyard.errors import UsageError
from tuneyard.train.place import Place, number_of


@pytest.mark.parametrize("text", ["", None])
def test_a_variable_that_is_not_set_has_its_default(text: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TUNEYARD_MEETING_SECONDS", raising=False)
    if text is not None:
        monkeypatch.setenv("TUNEYARD_MEETING_SECONDS", text)
    assert number_of("TUNEYARD_MEETING_SECONDS", 7.5, float) == 7.5


@pytest.mark.parametrize(("name", "kind"), [("TUNEYARD_MEETING_SECONDS", float), ("TUNEYARD_MASTER_PORT", int)])
def test_what_is_no_number_is_a_usage_error(name: str, kind: type, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "ten")
    with pytest.raises(UsageError, match=f"{name} is 'ten', which is not a number"):
        number_of(name, kind(1), kind)


def test_the_number_of_nodes_is_read_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNEYARD_NODES", "many")
    with pytest.raises(UsageError, match="TUNEYARD_NODES is 'many'"):
        Place.of(1)


def test_a_wait_that_is_no_number_is_a_usage_error(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tuneyard.train", "values.json", "--workdir", str(tmp_path)]
    ended = subprocess.run(command, env={"TUNEYARD_WAIT_SECONDS": "long"}, capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert "Traceback" not in ended.stderr
    assert "long" in ended.stderr
