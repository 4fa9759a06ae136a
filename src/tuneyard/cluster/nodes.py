"""Whether nodes fit a Job's pods, by their labels, taints and allocatable resources. Pure.

Usage by other pods is not counted: it is unknown without permission to read other namespaces.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tuneyard.cluster.demand import Demand, Finding
from tuneyard.cluster.quantities import format_quantity, parse_quantity
from tuneyard.cluster.reader import Document

_TRANSIENT_TAINTS = "node.kubernetes.io/"
"""The prefix of taints of a cordoned node, one that is not ready, or one under pressure."""


def matches(expressions: Iterable[Document], labels: Mapping[str, str]) -> bool:
    """Return whether labels satisfy every expression of a selector.

    Args:
        expressions: `{key, operator, values}` with In, NotIn, Exists, DoesNotExist, Gt or Lt.
        labels: The labels.
    """
    return all(_matches(one, labels.get(one["key"])) for one in expressions)


def tolerates(taints: Iterable[Document], tolerations: Sequence[Document]) -> bool:
    """Return whether tolerations cover every taint that prevents scheduling.

    Args:
        taints: The taints of a node or a flavor.
        tolerations: The tolerations of a pod.
    """
    blocking = [taint for taint in taints if taint.get("effect") in ("NoSchedule", "NoExecute")]
    return all(any(_tolerates(taint, one) for one in tolerations) for taint in blocking)


def eligible(nodes: Iterable[Document], pod: Document, labels: Mapping[str, str]) -> list[Document]:
    """Return the nodes that a pod can be scheduled on once they are ready.

    Args:
        nodes: All nodes.
        pod: The pod's spec.
        labels: Labels required in addition to those of its `nodeSelector`.
    """
    return [node for node in nodes if _is_eligible(node, pod, {**(pod.get("nodeSelector") or {}), **labels})]


def check_nodes(demand: Demand, nodes: Sequence[Document]) -> Finding:
    """Check whether nodes fit a Job's pods.

    Args:
        demand: The Job's demand.
        nodes: The eligible nodes.
    """
    if not nodes:
        return Finding("nodes", "never", "no node matches its nodeSelector, affinity, tolerations and queue")
    fitting = {node["metadata"]["name"]: pod_capacity(node, demand.requests) for node in nodes}
    if not any(fitting.values()):
        return Finding("nodes", "never", f"no node fits one of its pods: {_lacking(demand.requests, nodes)}")
    if (total := sum(fitting.values())) < demand.pods:
        return Finding("nodes", "never", f"all nodes together fit {total} of its {demand.pods} pods")
    unready = [node["metadata"]["name"] for node in nodes if not _is_ready(node)]
    if sum(count for name, count in fitting.items() if name not in unready) < demand.pods:
        return Finding("nodes", "not now", f"eligible nodes are not ready or cordoned: {', '.join(unready)}")
    suitable = sum(count > 0 for count in fitting.values())
    pods = "its pod" if demand.pods == 1 else f"its {demand.pods} pods"
    noun = "node" if len(nodes) == 1 else "nodes"
    return Finding("nodes", "yes", f"{suitable} of {len(nodes)} {noun} can fit {pods}, not counting other pods")


def pod_capacity(node: Document, requests: Mapping[str, float]) -> int:
    """Count the pods that fit on an empty node.

    Args:
        node: The node.
        requests: The requests of one pod.
    """
    counts = [int(_allocatable(node, resource) / amount) for resource, amount in requests.items() if amount]
    return min([*counts, int(_allocatable(node, "pods"))])


def largest_allocatable(nodes: Iterable[Document], resource: str) -> float:
    """Return the most of a resource that a single node can allocate; 0 without nodes.

    Args:
        nodes: The nodes.
        resource: The resource's name.
    """
    return max((_allocatable(node, resource) for node in nodes), default=0.0)


def _lacking(requests: Mapping[str, float], nodes: Sequence[Document]) -> str:
    lacking: list[str] = []
    for resource, amount in requests.items():
        if amount > (largest := largest_allocatable(nodes, resource)):
            requested, most = format_quantity(resource, amount), format_quantity(resource, largest)
            lacking.append(f"{resource}: requested {requested}, at most {most} on one node")
    return "; ".join(lacking) or f"no node has enough {' and '.join(requests)} together"


def _allocatable(node: Document, resource: str) -> float:
    return parse_quantity(str((node["status"].get("allocatable") or {}).get(resource, 0)))


def _is_ready(node: Document) -> bool:
    conditions: list[dict[str, Any]] = node["status"].get("conditions") or []
    ready = any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)
    return ready and not (node.get("spec") or {}).get("unschedulable")


def _is_eligible(node: Document, pod: Document, selector: Mapping[str, str]) -> bool:
    labels: dict[str, str] = node["metadata"].get("labels") or {}
    if any(labels.get(key) != text for key, text in selector.items()):
        return False
    taints: list[Document] = (node.get("spec") or {}).get("taints") or []
    permanent = [taint for taint in taints if not taint["key"].startswith(_TRANSIENT_TAINTS)]
    if not tolerates(permanent, pod.get("tolerations") or []):
        return False
    affinity: Document = (pod.get("affinity") or {}).get("nodeAffinity") or {}
    required = affinity.get("requiredDuringSchedulingIgnoredDuringExecution")
    fields = {"metadata.name": str(node["metadata"]["name"])}
    return required is None or any(
        matches(term.get("matchExpressions") or [], labels) and matches(term.get("matchFields") or [], fields)
        for term in required.get("nodeSelectorTerms") or []
    )


def _matches(expression: Document, label: str | None) -> bool:
    operator, values = expression["operator"], expression.get("values") or []
    if operator in ("Exists", "DoesNotExist"):
        return (label is not None) == (operator == "Exists")
    if operator in ("In", "NotIn"):
        return (label in values) == (operator == "In")
    if label is None or not label.lstrip("-").isdigit():
        return False
    return int(label) > int(values[0]) if operator == "Gt" else int(label) < int(values[0])


def _tolerates(taint: Document, toleration: Document) -> bool:
    if toleration.get("effect") not in (None, "", taint["effect"]):
        return False
    if toleration.get("operator") == "Exists":
        return toleration.get("key") in (None, "", taint["key"])
    return toleration.get("key") == taint["key"] and (toleration.get("value") or "") == (taint.get("value") or "")
