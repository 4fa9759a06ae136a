"""How templates read values: by their keys, with defaults for nulls, and with the types of the defaults."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from lab.chart_keys import CASES
from lab.charts import CHARTS, WORKLOADS, Chart, each_chart, one, render
from lab.value_keys import keys_of

SWITCHES = ("setup", "enabled")
"""Keys that have to be true for the keys beside them to be rendered."""


def keys_in(text: str) -> set[str]:
    """Return the dotted keys that templates read from `$v`."""
    return set(re.findall(r"\$v\.([\w.]*\w)", text))


def known_keys(chart: Chart) -> set[str]:
    """Return the dotted path of every key of a chart, and of the maps above it."""
    paths = [path.split(".") for path, _ in keys_of(chart.model)]
    return {".".join(path[:length]) for path in paths for length in range(1, len(path) + 1)}


def put(values: dict[str, Any], path: str, value: Any) -> None:
    """Set a value by its dotted path."""
    *above, last = path.split(".")
    for name in above:
        values = values.setdefault(name, {})
    values[last] = value


def all_cases(chart: Chart) -> Iterator[tuple[str, Any]]:
    """Yield each key of a chart, by dotted path, with the value that its case changes it to."""
    for key, (_, change) in CASES[chart.name].items():
        if key in change and key != "httpRoute.enabled":
            yield key, change[key]


def contents(objects: list[dict[str, Any]]) -> Any:
    """Return objects without the values file and what is derived from its hash."""
    text = json.dumps([found for found in objects if "values.json" not in found.get("data", {})])
    return json.loads(re.sub(r"-values-[0-9a-f]{10}|[0-9a-f]{64}", "", text))


def switched_on(chart: Chart) -> dict[str, Any]:
    """Return minimal values with every switch on."""
    values = copy.deepcopy(chart.least)
    for key, value in all_cases(chart):
        if key.rpartition(".")[2] in SWITCHES:
            put(values, key, value)
    return values


@each_chart
def test_templates_read_only_keys_that_exist(chart):
    own = [file for file in (chart.folder / "templates").iterdir() if file.name != "_tuneyard.tpl"]
    read = set().union(*(keys_in(file.read_text()) for file in own))
    assert len(read) >= 9
    assert not read - known_keys(chart)


def test_shared_helpers_read_only_keys_of_some_chart():
    read = keys_in((WORKLOADS / "_tuneyard.tpl").read_text())
    assert len(read) >= 10
    known = set().union(*(known_keys(chart) for chart in CHARTS))
    assert not read - known - {"key"}, "$v.key is the example in the comment"


def test_templates_read_unresolved_values_only_for_the_values_file():
    helpers = [
        WORKLOADS / "_tuneyard.tpl",
        *(file for chart in CHARTS for file in (chart.folder / "templates").iterdir()),
    ]
    raw = {
        name
        for file in helpers
        for name, body in re.findall(r'define "([\w.]+)" -\}\}(.*?)(?=\n\{\{- define|\Z)', file.read_text(), re.DOTALL)
        if ".Values" in re.sub(r"/\*.*?\*/", "", body, flags=re.DOTALL)
    }
    assert raw == {"tuneyard.resolved", "tuneyard.values", "tuneyard.document"}
    assert not [file for file in helpers if file.suffix == ".yaml" and ".Values" in file.read_text()]


@each_chart
def test_null_in_every_nested_key_means_the_default(chart):
    values = switched_on(chart)
    nulls = copy.deepcopy(values)
    keys = [key for key, _ in all_cases(chart) if key.rpartition(".")[2] not in SWITCHES]
    assert len(keys) >= 13
    for key in keys:
        put(nulls, key, None)
    assert contents(render(chart, nulls)) == contents(render(chart, values))


@each_chart
def test_numbers_and_booleans_may_be_text(chart):
    typed, text = switched_on(chart), switched_on(chart)
    for key, value in all_cases(chart):
        if isinstance(value, bool | int):
            put(typed, key, value)
            put(text, key, ("yes" if value else "no") if isinstance(value, bool) else f" +0{value}.0")
    assert typed != text
    assert contents(render(chart, text)) == contents(render(chart, typed))


@each_chart
def test_text_may_be_a_number(chart):
    text, number = switched_on(chart), switched_on(chart)
    keys = [key for key, value in all_cases(chart) if isinstance(value, str) and takes_numbers(chart, key)]
    assert len(keys) >= 5
    for index, key in enumerate(keys):
        put(text, key, str(1000000 + index))
        put(number, key, 1000000 + index)
    assert contents(render(chart, number)) == contents(render(chart, text))


def takes_numbers(chart: Chart, key: str) -> bool:
    """Return whether the schema of a key accepts any text, and so any number in its place."""
    root = json.loads((chart.folder / "values.schema.json").read_text())
    schema = root
    for name in key.split("."):
        schema = schema["properties"][name]
        if "$ref" in schema:
            schema = root["$defs"][schema["$ref"].removeprefix("#/$defs/")]
    return "integer" in schema.get("type", ()) and "pattern" not in schema


@pytest.mark.parametrize("given", [False, "false", "no", "off", "0"])
def test_false_replaces_a_default_of_true(given):
    chart = next(chart for chart in CHARTS if chart.name == "finetune")
    values = {**chart.least, "nodes": 2, "networkPolicy": {"betweenNodes": given}}
    assert not [found for found in render(chart, values) if found["kind"] == "NetworkPolicy"]
    assert one(render(chart, {**values, "networkPolicy": {"betweenNodes": None}}), "NetworkPolicy")


def test_an_empty_list_replaces_a_default():
    chart = next(chart for chart in CHARTS if chart.name == "serve")
    policy = {"enabled": True, "egressPorts": []}
    egress = one(render(chart, {**chart.least, "networkPolicy": policy}), "NetworkPolicy")["spec"]["egress"]
    assert [rule for rule in egress if "ports" in rule] == [egress[1]], "only DNS"
