"""`pip install "tuneyard[serve]"` is enough to serve: a server that finds no other package answers."""

from __future__ import annotations

import json
import re
import tomllib
from importlib.metadata import PackageNotFoundError, packages_distributions, requires
from pathlib import Path

import openai
import pytest
from packaging.requirements import Requirement

from lab import serving

PROJECT = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
HIDE = """
import json, os, sys
from importlib.machinery import PathFinder

hidden = frozenset(json.loads(os.environ["HIDDEN_PACKAGES"]))


class Others(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] in hidden else super().find_spec(name, path, target)


sys.meta_path[:] = [Others if finder is PathFinder else finder for finder in sys.meta_path]
"""


def normalized(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def brought_along(requirements: list[str]) -> set[str]:
    """Every distribution that an installation of these brings, by what the installed ones require."""
    found: set[tuple[str, frozenset[str]]] = set()
    waiting = [Requirement(text) for text in requirements]
    while waiting:
        requirement = waiting.pop()
        one = normalized(requirement.name), frozenset(requirement.extras)
        if one in found:
            continue
        found.add(one)
        try:
            further = [Requirement(text) for text in requires(requirement.name) or ()]
        except PackageNotFoundError:
            continue  # for another platform
        for extra in ("", *requirement.extras):
            waiting += [each for each in further if each.marker is None or each.marker.evaluate({"extra": extra})]
    return {name for name, _ in found}


def hidden_from(extra: str) -> list[str]:
    """The names of all packages here that the core and an extra don't bring."""
    there = brought_along([*PROJECT["dependencies"], *PROJECT["optional-dependencies"][extra]])
    return [
        package
        for package, distributions in packages_distributions().items()
        if package != "tuneyard" and not {normalized(name) for name in distributions} & there
    ]


@pytest.fixture
def hidden(tmp_path: Path) -> dict[str, str]:
    """An environment in which no other package is found."""
    folder = tmp_path / "hiding"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(HIDE)
    return {"PYTHONPATH": str(folder), "HIDDEN_PACKAGES": json.dumps(hidden_from("serve"))}


def test_hidden_packages_are_those_of_training_alone() -> None:
    hidden = hidden_from("serve")
    assert {"datasets", "trl", "tensorboard", "matplotlib", "pyarrow", "pytest"} <= set(hidden)
    assert not {"torch", "transformers", "peft", "fastapi", "openai", "pydantic"} & set(hidden)


def test_server_with_only_its_extra_answers(stored_models, tmp_path: Path, hidden: dict[str, str]) -> None:
    adapters = {"other": serving.OTHER}
    running = serving.start(serving.values(adapters=adapters), stored_models.store, tmp_path / "w", **hidden)
    try:
        client = openai.OpenAI(base_url=running.url, api_key=running.key, max_retries=0)
        for model in ("tuned", "other", "tiny"):
            answer = client.chat.completions.create(
                model=model, messages=[{"role": "user", "content": "Hello"}], max_tokens=4, temperature=0.7, seed=1
            )
            assert answer.usage and answer.usage.completion_tokens
        assert len(list(client.models.list())) == 3
        assert "Traceback" not in running.log.read_text()
    finally:
        running.process.kill()
        running.process.wait()


def test_server_without_a_package_of_its_extra_fails(stored_models, tmp_path: Path, hidden: dict[str, str]) -> None:
    """This shows that a hidden package is really not found."""
    less = json.dumps([*json.loads(hidden["HIDDEN_PACKAGES"]), "peft"])
    running = serving.start(
        serving.values(), stored_models.store, tmp_path / "w", **{**hidden, "HIDDEN_PACKAGES": less}
    )
    assert running.process.wait(120) != 0
    assert "peft" in running.log.read_text()
