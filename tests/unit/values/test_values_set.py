"""`--set` reads as Helm reads it."""

from __future__ import annotations

import json
import os
import subprocess
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab.missing_tools import needs
from tuneyard.values.helm_set import SetSyntaxError, apply_set, parse_set

# What Helm 4.3 gave for each text, taken down from `helm template --set TEXT`.
AS_HELM: list[tuple[str, dict[str, Any]]] = [
    ("a=1", {"a": 1}),
    ("a=TRUE", {"a": True}),
    ("a=false", {"a": False}),
    ("a=nULL", {"a": None}),
    ("a=-5", {"a": -5}),
    ("a=+5", {"a": 5}),
    ("a=007", {"a": "007"}),
    ("a=0", {"a": 0}),
    ("a=-0", {"a": 0}),
    ("a=1.5", {"a": "1.5"}),
    ("a=5e-5", {"a": "5e-5"}),
    ("a= 1", {"a": " 1"}),
    ("a=99999999999999999999", {"a": "99999999999999999999"}),
    ("a=", {"a": ""}),
    ("a=,b=1", {"a": "", "b": 1}),
    ("a=1,", {"a": 1}),
    ("a=b=c", {"a": "b=c"}),
    ("a={1,b}", {"a": [1, "b"]}),
    ("a={1, b}", {"a": [1, " b"]}),
    ("a={,x}", {"a": ["", "x"]}),
    ("a={x,}", {"a": ["x", ""]}),
    ("a={a},b=2", {"a": ["a"], "b": 2}),
    ("a[0].b=1,a[1]=x", {"a": [{"b": 1}, "x"]}),
    ("a[2]=x", {"a": [None, None, "x"]}),
    ("a[0][1]=z", {"a": [[None, "z"]]}),
    (r"a.b\.c=1", {"a": {"b.c": 1}}),
    (r"a=b\,c", {"a": "b,c"}),
    (r"a=\{x", {"a": "{x"}),
    ("a.b=1,a=2", {"a": 2}),
]
REFUSED: list[tuple[str, str]] = [
    ("a", "the key a has no value"),
    ("a={a}x,b=1", "the key x has no value"),
    ("a={{1}}", "the key } has no value"),
    ("a..b=1", "a key is empty"),
    ("a={x,", "a list lacks its closing '}'"),
    ("a[x]=1", "'x' is not an index between 0 and 65536"),
    ("a[99999999]=1", "'99999999' is not an index between 0 and 65536"),
    ("a[0]b=1", "after an index comes '.', '[' or '=', not 'b'"),
    ("a=1,a.b=2", "the key b is set in a value that is not a map"),
    ("a=1,a[0]=2", "the index [0] is applied to a value that is not a list"),
]


@pytest.mark.parametrize(("text", "expected"), AS_HELM, ids=[text for text, _ in AS_HELM])
def test_set_equals_helms_set(text, expected):
    assert apply_set({}, text) == expected


@pytest.mark.parametrize(("text", "reason"), REFUSED, ids=[text for text, _ in REFUSED])
def test_what_helm_refuses_is_refused_with_a_reason(text, reason):
    with pytest.raises(SetSyntaxError) as caught:
        apply_set({}, text)
    assert str(caught.value) == reason


def test_an_assignment_without_a_key_is_refused_though_helm_ignores_it():
    with pytest.raises(SetSyntaxError, match="a key is empty"):
        apply_set({}, "=1")


def test_empty_braces_are_an_empty_list():
    assert apply_set({}, "a={},b=1") == {"a": [], "b": 1}


def test_a_set_overrides_files_without_changing_them():
    before = {"a": {"b": [1, {"c": 2}], "d": 3}}
    assert apply_set(before, "a.b[1].c=9") == {"a": {"b": [1, {"c": 9}], "d": 3}}
    assert before == {"a": {"b": [1, {"c": 2}], "d": 3}}


keys = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), min_size=1, max_size=8)
texts = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=12)


def escaped(text: str, stops: str) -> str:
    return "".join(f"\\{character}" if character in stops + "\\" else character for character in text)


@given(st.lists(keys, min_size=1, max_size=4), texts)
def test_any_key_and_text_can_be_escaped_with_backslashes(path, value):
    key = ".".join(escaped(part, ".[=,") for part in path)
    escaped_text = escaped(value, ",")
    escaped_text = f"\\{escaped_text}" if escaped_text.startswith("{") else escaped_text
    ((parsed_path, parsed),) = parse_set(f"{key}={escaped_text}")
    assert parsed_path == path
    if isinstance(parsed, str):
        assert parsed == value
    else:
        assert value.lower() in {"true", "false", "null"} or int(value) == parsed


@given(st.dictionaries(keys, st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=4))
def test_integers_are_parsed_as_numbers(numbers):
    text = ",".join(f"{escaped(key, '.[=,')}={number}" for key, number in numbers.items())
    assert apply_set({}, text) == numbers


@given(texts)
def test_any_text_gives_values_or_a_reason(text):
    try:
        assert isinstance(apply_set({}, text), dict)
    except SetSyntaxError as error:
        assert str(error)


@needs("helm")
def test_the_installed_helm_gives_the_same(tmp_path):
    (tmp_path / "templates").mkdir()
    (tmp_path / "Chart.yaml").write_text("apiVersion: v2\nname: x\nversion: 0.1.0\n")
    # helm drops null keys, so those cases are skipped
    (tmp_path / "templates" / "x.yaml").write_text("{{ .Values | toJson }}\n")
    without_nulls = [(text, expected) for text, expected in AS_HELM if None not in expected.values()]
    for text, expected in without_nulls[::4]:
        command = ["helm", "template", str(tmp_path), "--set", text]
        environment = {**os.environ, "HELM_CACHE_HOME": str(tmp_path / "cache")}
        out = subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout
        assert json.loads(out.splitlines()[-1]) == expected, text
