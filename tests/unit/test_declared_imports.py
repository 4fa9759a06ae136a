"""Every package that the source imports is declared where it is used: for the core, or in the extra of its room."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import tuneyard

SOURCE = Path(tuneyard.__file__).parent
PROJECT = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))["project"]

# Each extra that a room is used with, besides the core, has to bring what the room imports.
EXTRAS = {
    "data": {"train"},
    "device": {"train", "serve"},
    "estimate": {"train"},
    "job": {"train"},
    "network": {"train"},
    "models": {"train", "serve"},
    "serving": {"serve"},
    "train": {"train"},
}


def declared(requirements: list[str]) -> dict[str, str]:
    """Names, as they are compared, and what follows them."""
    found = [re.match(r"([A-Za-z0-9._-]+)(.*)", requirement) for requirement in requirements]
    return {normalized(match[1]): match[2].strip() for match in found if match}


def normalized(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


CORE = declared(PROJECT["dependencies"])
OF_EXTRA = {extra: declared(wanted) for extra, wanted in PROJECT["optional-dependencies"].items()}


def imports() -> Iterator[tuple[str, str, str]]:
    """Every import of somebody else's package: room, where, and the package's name in Python."""
    for path in sorted(SOURCE.rglob("*.py")):
        parts = path.relative_to(SOURCE).with_suffix("").parts
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            else:
                names = [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
            for name in names:
                package = name.partition(".")[0]
                if package not in sys.stdlib_module_names and package != "tuneyard":
                    yield parts[0], f"{path.relative_to(SOURCE)}:{node.lineno}", package


def test_every_import_is_declared_for_the_core_or_in_each_extra_that_its_room_is_used_with() -> None:
    distributions = packages_distributions()
    missing: list[str] = []
    seen: set[str] = set()
    for room, where, package in imports():
        names = {normalized(name) for name in distributions[package]}
        seen |= names
        if names & CORE.keys():
            continue
        extras = EXTRAS.get(room, set())
        missing += [f"{where}: {package} is not in {extra!r}" for extra in extras if not names & OF_EXTRA[extra].keys()]
        if not extras:
            missing.append(f"{where}: {package} is not declared for the core")
    assert not missing, "\n".join(missing)
    assert len(seen) >= 25
    assert set(EXTRAS) <= {path.stem for path in SOURCE.iterdir()}


def test_nothing_is_declared_for_the_core_that_nothing_imports() -> None:
    distributions = packages_distributions()
    used = {normalized(name) for _, _, package in imports() for name in distributions[package]}
    assert not CORE.keys() - used


def test_a_package_has_one_range_wherever_it_is_declared() -> None:
    ranges: dict[str, set[str]] = {}
    for wanted in (CORE, *OF_EXTRA.values()):
        for name, rest in wanted.items():
            ranges.setdefault(name, set()).add(rest)
    assert {name: found for name, found in ranges.items() if len(found) > 1} == {}


def test_doctor_looks_for_packages_of_the_extras_alone() -> None:
    from tuneyard.diagnosis import local

    assert local.PACKAGES.keys() == {"train", "serve"}
    for extra, names in local.PACKAGES.items():
        assert len(names) > 3
        assert set(names) <= OF_EXTRA[extra].keys()
