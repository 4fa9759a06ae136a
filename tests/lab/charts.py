"""Render the charts with Helm, for tests with and without a cluster.

What a chart should render is up to the tests.
"""

from __future__ import annotations

import base64
import copy
import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from lab import missing_tools
from lab.small_values import FINETUNE
from tuneyard.values import DeliverValues, FinetuneValues, InferenceValues, NamespaceValues, Values

ROOT = Path(__file__).resolve().parents[2]
NOT_IN_YAML = re.compile("[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]")


@dataclass(frozen=True, eq=False)
class Chart:
    """A chart, the model of its values, and its minimal values."""

    name: str
    folder: Path
    model: type[Values]
    least: dict[str, Any]


WORKLOADS = ROOT / "workloads"
NAMESPACE = Chart("namespace", WORKLOADS / "k8s-namespace-setup/helm", NamespaceValues, {})
DELIVER = Chart(
    "deliver",
    WORKLOADS / "deliver-huggingface-example-resources/helm/chart",
    DeliverValues,
    {"modelID": "a/b", "bucketModelPath": "c/d"},
)
TRAIN = Chart("finetune", WORKLOADS / "LLM-finetune-silogen-engine/helm/chart", FinetuneValues, FINETUNE)
SERVE = Chart("serve", WORKLOADS / "llm-inference-vllm/helm", InferenceValues, {"model": "a/b"})
CHARTS = (NAMESPACE, DELIVER, TRAIN, SERVE)
each_chart = pytest.mark.parametrize("chart", CHARTS, ids=lambda chart: chart.name)


class RefusedError(Exception):
    """Raised when Helm refuses values; the text is Helm's message."""


class _Loader(yaml.CSafeLoader):
    """YAML 1.1 as Helm and kubectl read it, without duplicate keys."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        assert len(keys) == len(set(keys)), f"duplicate key: {keys}"
        return super().construct_mapping(node, deep=deep)


def helm_or_skip() -> None:
    """Skip a test if Helm isn't on PATH, unless TUNEYARD_REQUIRE_HELM is 1."""
    if shutil.which("helm") is None and os.environ.get("TUNEYARD_REQUIRE_HELM") != "1":
        pytest.skip(missing_tools.reason("helm"))


def write_values(path: Path, values: Mapping[str, Any]) -> Path:
    """Write values as JSON that is also YAML with the same meaning."""
    text = json.dumps(values, ensure_ascii=False)
    path.write_text(NOT_IN_YAML.sub(lambda match: f"\\u{ord(match[0]):04x}", text), encoding="utf-8")
    return path


def helm(*arguments: str | Path, cwd: Path | None = None) -> str:
    """Run Helm with a temporary home and return its standard output."""
    with tempfile.TemporaryDirectory() as home:
        environment = {**os.environ, "HELM_CACHE_HOME": home, "HELM_CONFIG_HOME": home, "HELM_DATA_HOME": home}
        done = subprocess.run(["helm", *map(str, arguments)], capture_output=True, cwd=cwd, env=environment)
    if done.returncode:
        raise RefusedError(done.stderr.decode())
    return done.stdout.decode()


def render_text(
    chart: Chart,
    values: Mapping[str, Any] | None = None,
    *,
    files: Sequence[Path] = (),
    sets: Sequence[str] = (),
    release: str = "run",
    namespace: str = "silo",
    folder: Path | None = None,
    cwd: Path | None = None,
) -> str:
    """Render a chart as the walkthrough does.

    Args:
        chart: The chart.
        values: Values that are merged over the files.
        files: Values files.
        sets: Arguments of `--set`.
        release: The release's name.
        namespace: The release's namespace.
        folder: The chart's folder; by default the one in `workloads`.
        cwd: Helm's working directory.

    Returns:
        The manifests.

    Raises:
        RefusedError: If Helm refuses the values.
    """
    arguments: list[str | Path] = ["template", folder or chart.folder, "--name-template", release]
    arguments += ["--namespace", namespace]
    with tempfile.TemporaryDirectory() as scratch:
        given = [*files, write_values(Path(scratch) / "values.json", values)] if values is not None else files
        for file in given:
            arguments += ["--values", file]
        for text in sets:
            arguments += ["--set", text]
        return helm(*arguments, cwd=cwd)


def objects_of(text: str) -> list[dict[str, Any]]:
    """Parse manifests as kubectl does."""
    return [found for found in yaml.load_all(text, Loader=_Loader) if found]


def render(chart: Chart, values: Mapping[str, Any] | None = None, **options: Any) -> list[dict[str, Any]]:
    """Render a chart and parse its objects; see `render_text`."""
    return objects_of(render_text(chart, values, **options))


def least(chart: Chart, **more: Any) -> dict[str, Any]:
    """Return the minimal values of a chart together with others."""
    return {**chart.least, **more}


def one(objects: Sequence[dict[str, Any]], kind: str) -> dict[str, Any]:
    """Return the only object of a kind."""
    (found,) = [found for found in objects if found["kind"] == kind]
    return found


def pod(objects: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the pod spec of a rendered workload."""
    (found,) = [found for found in objects if found["kind"] in {"Job", "Deployment"}]
    return found["spec"]["template"]["spec"]


def env_of(container: Mapping[str, Any]) -> dict[str, Any]:
    """Return a container's variables by name, without duplicates."""
    names = [entry["name"] for entry in container["env"]]
    assert len(names) == len(set(names))
    return {entry["name"]: entry.get("value", entry.get("valueFrom")) for entry in container["env"]}


def opened(objects: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return objects without the chart's own Secret, with its texts in place of the references to it."""
    texts = {
        found["metadata"]["name"]: {key: base64.b64decode(text).decode() for key, text in found["data"].items()}
        for found in objects
        if found["kind"] == "Secret"
    }

    def inlined(node: Any) -> Any:
        if isinstance(node, list):
            return [inlined(item) for item in node]
        if not isinstance(node, dict):
            return node
        if set(node) == {"name", "key"} and node["name"] in texts:
            return texts[node["name"]][node["key"]]
        whole = {key: inlined(value) for key, value in node.items()}
        text = whole.get("valueFrom", {}).get("secretKeyRef") if isinstance(whole.get("valueFrom"), dict) else None
        # Kubernetes reads $$ in a variable as $
        return {"name": whole["name"], "value": text.replace("$", "$$")} if isinstance(text, str) else whole

    kept = copy.deepcopy([found for found in objects if found["kind"] != "Secret"])
    for found in kept:
        if "values.json" in found.get("data", {}):
            document = inlined(json.loads(found["data"]["values.json"]))
            found["data"]["values.json"] = json.dumps(document, ensure_ascii=False)
    return inlined(kept)


def values_text(objects: Sequence[dict[str, Any]]) -> str:
    """Return the values file in the ConfigMap."""
    (found,) = [found for found in objects if "values.json" in found.get("data", {})]
    return found["data"]["values.json"]
