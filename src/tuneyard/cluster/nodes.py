"""Which nodes can hold a Job's pods, by labels, taints and what they can give. Pure.

What other pods take of a node now is not counted: who may not look into other namespaces can't know it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tuneyard.cluster.amounts import amount_of, number
from tuneyard.cluster.demand import Demand, Finding
from tuneyard.cluster.reader import Document

_OF_THE_MOMENT = "node.kubernetes.io/"
"""Taints by which a node says that it is cordoned, not ready or short of something."""


def matches(expressions: Iterable[Document], labels: Mapping[str, str]) -> bool:
    """Tell whether labels satisfy every expression of a selector.

    Args:
        expressions: `{key, operator, values}` with In, NotIn, Exists, DoesNotExist, Gt or Lt.
        labels: The labels.
    """
    return all(_holds(one, labels.get(one["key"])) for one in expressions)


def tolerates(taints: Iterable[Document], tolerations: Sequence[Document]) -> bool:
    """Tell whether every taint that keeps pods off is tolerated.

    Args:
        taints: A node's or a flavor's.
        tolerations: A pod's.
    """
    keeping = [taint for taint in taints if taint.get("effect") in ("NoSchedule", "NoExecute")]
    return all(any(_tolerated(taint, one) for one in tolerations) for taint in keeping)


def eligible(nodes: Iterable[Document], pod: Document, labels: Mapping[str, str]) -> list[Document]:
    """Give the nodes that a pod may be put on once they are ready.

    Args:
        nodes: Every node.
        pod: The pod's spec.
        labels: Labels that the nodes have to have besides those of its `nodeSelector`.
    """
    return [node for node in nodes if _may_be_on(node, pod, {**(pod.get("nodeSelector") or {}), **labels})]


def on_nodes(demand: Demand, nodes: Sequence[Document]) -> Finding:
    """Tell whether nodes can hold a Job's pods.

    Args:
        demand: What it asks for.
        nodes: Those that its pods may be put on.
    """
    if not nodes:
        return Finding("nodes", "never", "no node has what its nodeSelector, affinity, tolerations and queue ask for")
    holding = {node["metadata"]["name"]: pods_held(node, demand.requests) for node in nodes}
    if not any(holding.values()):
        return Finding("nodes", "never", f"no node can hold a pod of it: {_lacking(demand.requests, nodes)}")
    if sum(holding.values()) < demand.pods:
        return Finding(
            "nodes", "never", f"it has {demand.pods} pods, and all nodes hold {sum(holding.values())} of them"
        )
    away = [node["metadata"]["name"] for node in nodes if not _is_ready(node)]
    if sum(many for name, many in holding.items() if name not in away) < demand.pods:
        return Finding("nodes", "not now", f"nodes that could hold it are not ready or cordoned: {', '.join(away)}")
    able = sum(many > 0 for many in holding.values())
    pods = "its pod" if demand.pods == 1 else f"its {demand.pods} pods"
    return Finding(
        "nodes", "yes", f"{able} of {len(nodes)} node{'s'[: len(nodes) > 1]} can hold {pods}, where nothing else runs"
    )


def pods_held(node: Document, requests: Mapping[str, float]) -> int:
    """Count how many pods a node can hold where nothing else runs.

    Args:
        node: The node.
        requests: What a pod asks for.
    """
    counts = [int(_allocatable(node, resource) / amount) for resource, amount in requests.items() if amount]
    return min([*counts, int(_allocatable(node, "pods"))])


def most_on_one(nodes: Iterable[Document], resource: str) -> float:
    """Give the most of a resource that one node can give; 0 where none can.

    Args:
        nodes: The nodes.
        resource: The resource's name.
    """
    return max((_allocatable(node, resource) for node in nodes), default=0.0)


def _lacking(requests: Mapping[str, float], nodes: Sequence[Document]) -> str:
    most = {resource: most_on_one(nodes, resource) for resource in requests}
    over = [
        f"{resource}: {number(resource, amount)} asked for, {number(resource, most[resource])} is the most on one node"
        for resource, amount in requests.items()
        if amount > most[resource]
    ]
    return "; ".join(over) or f"none has enough {' and '.join(requests)} at once"


def _allocatable(node: Document, resource: str) -> float:
    return amount_of(str((node["status"].get("allocatable") or {}).get(resource, 0)))


def _is_ready(node: Document) -> bool:
    conditions: list[dict[str, Any]] = node["status"].get("conditions") or []
    ready = any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)
    return ready and not (node.get("spec") or {}).get("unschedulable")


def _may_be_on(node: Document, pod: Document, selector: Mapping[str, str]) -> bool:
    labels: dict[str, str] = node["metadata"].get("labels") or {}
    if any(labels.get(key) != text for key, text in selector.items()):
        return False
    taints: list[Document] = (node.get("spec") or {}).get("taints") or []
    lasting = [taint for taint in taints if not taint["key"].startswith(_OF_THE_MOMENT)]
    if not tolerates(lasting, pod.get("tolerations") or []):
        return False
    affinity: Document = (pod.get("affinity") or {}).get("nodeAffinity") or {}
    required = affinity.get("requiredDuringSchedulingIgnoredDuringExecution")
    fields = {"metadata.name": str(node["metadata"]["name"])}
    return required is None or any(
        matches(term.get("matchExpressions") or [], labels) and matches(term.get("matchFields") or [], fields)
        for term in required.get("nodeSelectorTerms") or []
    )


def _holds(expression: Document, found: str | None) -> bool:
    operator, values = expression["operator"], expression.get("values") or []
    if operator in ("Exists", "DoesNotExist"):
        return (found is not None) == (operator == "Exists")
    if operator in ("In", "NotIn"):
        return (found in values) == (operator == "In")
    if found is None or not found.lstrip("-").isdigit():
        return False
    return int(found) > int(values[0]) if operator == "Gt" else int(found) < int(values[0])


def _tolerated(taint: Document, toleration: Document) -> bool:
    if toleration.get("effect") not in (None, "", taint["effect"]):
        return False
    if toleration.get("operator") == "Exists":
        return toleration.get("key") in (None, "", taint["key"])
    return toleration.get("key") == taint["key"] and (toleration.get("value") or "") == (taint.get("value") or "")
