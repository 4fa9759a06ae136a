"""The public face: what `tuneyard` exports is there, sorted, documented, and the verbs are callable."""

from __future__ import annotations

import inspect
from importlib import import_module
from importlib.metadata import version
from pathlib import Path

import pytest

import tuneyard

VERBS = ("chat", "delete", "deliver", "find", "finetune", "logs", "plan", "runs", "serve", "stop", "watch")
ROOMS = ("checkpoints", "data", "runners", "store", "values")


def test_all_is_sorted_and_each_member_is_there():
    assert list(tuneyard.__all__) == sorted(tuneyard.__all__)
    for name in tuneyard.__all__:
        assert getattr(tuneyard, name) is not None
        assert name in dir(tuneyard)


def test_an_unknown_member_is_an_attribute_error():
    with pytest.raises(AttributeError, match="has no attribute 'fintune'"):
        tuneyard.fintune  # noqa: B018


def test_the_version_is_the_package_s():
    assert tuneyard.__version__ == version("tuneyard")


@pytest.mark.parametrize("verb", VERBS)
def test_each_verb_is_a_documented_and_annotated_function(verb):
    function = getattr(tuneyard, verb)
    assert inspect.isfunction(function)
    doc = inspect.getdoc(function)
    assert doc and doc.splitlines()[0].endswith(".")
    signature = inspect.signature(function)
    assert signature.return_annotation is not inspect.Signature.empty
    for parameter in signature.parameters.values():
        assert parameter.annotation is not inspect.Parameter.empty, parameter
        assert parameter.name in doc, f"{verb}: {parameter.name} is not documented"


def test_no_room_has_the_name_of_an_exported_member():
    rooms = {path.parent.name for path in Path(tuneyard.__file__).parent.glob("*/__init__.py")}
    modules = {path.stem for path in Path(tuneyard.__file__).parent.glob("*.py")} - {"__init__"}
    assert len(rooms) > 15
    assert not (rooms | modules) & set(tuneyard.__all__)


@pytest.mark.parametrize("room", ROOMS)
def test_each_room_exports_sorted_members_that_are_there(room):
    module = import_module(f"tuneyard.{room}")
    public = sorted(module.__all__)
    assert sorted(set(public)) == public
    for name in public:
        assert hasattr(module, name), f"tuneyard.{room}.{name}"
