"""The charts as this package carries them, and what helm renders from one for a run.

In an installed package they lie below `tuneyard/charts/<chart's name>`; in a checkout, below `workloads/`.
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
"""For each verb the chart's name, which is its folder in the package, and its folder below `workloads/`."""


def chart_folder(verb: Verb) -> Path:
    """Find the chart of a verb.

    Raises:
        NotFoundError: If this installation has none.
    """
    name, place = CHARTS[verb]
    package = Path(str(files("tuneyard")))
    for folder in (package / "charts" / name, package.parents[1] / "workloads" / place):
        if (folder / "Chart.yaml").is_file():
            return folder
    raise NotFoundError(f"This installation has no chart {name}.", hint="Install the package tuneyard again.")


def render(tools: Tools, verb: Verb, name: str, values: bytes) -> list[Document]:
    """Render the objects of a run.

    Args:
        tools: Where helm is, and for which namespace.
        verb: Whose chart.
        name: The release's name.
        values: The resolved values, as JSON.

    Returns:
        The objects with their namespace, those that others refer to first and what does the work last.

    Raises:
        TuneyardError: If the chart refuses the values.
        UnavailableError: If helm is missing or too old.
    """
    import yaml

    chart = str(chart_folder(verb))
    told = tools.helm("template", name, chart, "--namespace", tools.namespace, "--values", "-", given=values.decode())
    objects: list[Document] = [one for one in yaml.load_all(told, Loader=_loader()) if one]
    for one in objects:
        one["metadata"].setdefault("namespace", tools.namespace)
    return sorted(objects, key=lambda one: one["kind"] in WORKERS)


WORKERS = frozenset({"Job", "Deployment"})
"""The kinds whose pods do a run's work."""


def _loader() -> type:
    import yaml

    return getattr(yaml, "CSafeLoader", yaml.SafeLoader)
