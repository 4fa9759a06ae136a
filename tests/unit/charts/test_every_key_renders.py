"""Each key that applies to clusters changes what Helm renders, apart from the ConfigMap with the values.

`tests/integration/values` covers the other keys; a key in neither table fails there.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from typing import Any

import pytest

from lab.chart_keys import CASES
from lab.charts import CHARTS, NAMESPACE, Chart, helm_or_skip, render
from lab.value_keys import keys_of

ALL = [(chart, key) for chart in CHARTS for key in CASES[chart.name]]


@pytest.fixture(scope="module")
def helm():
    helm_or_skip()


def nested(chart: Chart, dotted: Mapping[str, Any]) -> dict[str, Any]:
    values = json.loads(json.dumps(chart.least))
    for path, value in dotted.items():
        *above, last = path.split(".")
        place = values
        for name in above:
            place = place.setdefault(name, {})
        place[last] = value
    return values


@functools.cache
def rendered(chart: Chart, text: str) -> list[dict[str, Any]]:
    """Return what Helm renders, without the values themselves and the names and checksums derived from them."""
    objects = render(chart, nested(chart, json.loads(text)))
    repeated = [found["metadata"]["name"] for found in objects if "values.json" in found.get("data", {})]
    kept = json.dumps([found for found in objects if found["metadata"]["name"] not in repeated])
    for name in repeated:
        kept = kept.replace(name, "the-values")
    without: list[dict[str, Any]] = json.loads(kept)
    for found in without:
        if found["kind"] in ("Job", "Deployment"):
            found["spec"]["template"]["metadata"].get("annotations", {}).pop("checksum/values", None)
    return without


def test_every_cluster_key_has_a_case():
    for chart in CHARTS:
        wanted = {key for key, cluster in keys_of(chart.model) if cluster or chart is NAMESPACE}
        assert not wanted - CASES[chart.name].keys(), chart.name
        assert not CASES[chart.name].keys() - {key for key, _ in keys_of(chart.model)}, chart.name
    assert len(ALL) >= 130


@pytest.mark.parametrize(("chart", "key"), ALL, ids=[f"{chart.name}-{key}" for chart, key in ALL])
def test_key_changes_what_is_rendered(helm, chart, key):
    beside, change = CASES[chart.name][key]
    before = rendered(chart, json.dumps(beside, sort_keys=True))
    assert rendered(chart, json.dumps({**beside, **change}, sort_keys=True)) != before
