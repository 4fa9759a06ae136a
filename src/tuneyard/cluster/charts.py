"""Locate the charts of this package, and render one for a run.

An installed package has them in `tuneyard/charts/<chart name>`, a checkout in `workloads/`.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Literal

from tuneyard.cluster.reader import Document
from tuneyard.cluster.tools import Tools
from tuneyard.errors import NotFoundError

Verb = Literal["namespace", "deliver", "finetune", "serve"]

CHARTS: Mapping[Verb, tuple[str, str]] = {
    "namespace": ("k8s-namespace-setup", "k8s-namespace-setup/helm"),
    "deliver": ("deliver-huggingface-example-resources", "deliver-huggingface-example-resources/helm/chart"),
    "finetune": ("llm-finetune-silogen-engine", "LLM-finetune-silogen-engine/helm/chart"),
    "serve": ("llm-inference-vllm", "llm-inference-vllm/helm"),
}
"""By verb: the chart's name, which is also its folder in the package, and its folder below `workloads/`."""


def chart_folder(verb: Verb) -> Path:
    """Locate the chart of a verb.

    Raises:
        NotFoundError: If this installation lacks it.
    """
    name, source = CHARTS[verb]
    package = Path(str(files("tuneyard")))
    for folder in (package / "charts" / name, package.parents[1] / "workloads" / source):
        if (folder / "Chart.yaml").is_file():
            return folder
    raise NotFoundError(f"This installation lacks the chart '{name}'.", hint="pip install --force-reinstall tuneyard")


def render(tools: Tools, verb: Verb, name: str, values: bytes) -> list[Document]:
    """Render the objects of a run.

    Args:
        tools: helm, for a namespace.
        verb: Selects the chart.
        name: The release's name.
        values: The resolved values, as JSON.

    Returns:
        The objects with their namespace; those that run pods come last.

    Raises:
        TuneyardError: If the chart rejects the values.
        UnavailableError: If helm is missing or too old.
    """
    import yaml

    chart = str(chart_folder(verb))
    args = ("template", name, chart, "--namespace", tools.namespace, "--values", "-")
    manifests = tools.helm(*args, stdin=values.decode())
    objects: list[Document] = [one for one in yaml.load_all(manifests, Loader=_loader()) if one]
    for one in objects:
        one["metadata"].setdefault("namespace", tools.namespace)
    return sorted(objects, key=lambda one: one["kind"] in WORKERS)


WORKERS = frozenset({"Job", "Deployment"})
"""The kinds that run pods."""


def _loader() -> type:
    import yaml

    return getattr(yaml, "CSafeLoader", yaml.SafeLoader)
