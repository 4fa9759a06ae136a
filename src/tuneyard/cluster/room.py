"""Whether a cluster has room for a Job: its queue, the namespace's quotas and the nodes are looked at, none is changed.

What may not be read is told as unknown: a run does not read it either.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tuneyard.cluster.amounts import amount_of
from tuneyard.cluster.demand import Demand, Finding
from tuneyard.cluster.nodes import eligible, most_on_one, on_nodes, pods_held
from tuneyard.cluster.quota import cohort_name, cohort_of, in_queue, in_resource_quota, selects
from tuneyard.cluster.reader import Document, Reader
from tuneyard.errors import DeniedError, NotFoundError

_NVIDIA_MIB, _AMD = "nvidia.com/gpu.memory", "amd.com/gpu.vram"


@dataclass(frozen=True, slots=True)
class Room:
    """What a cluster has for a Job.

    Attributes:
        findings: Of its queue, the namespace's quotas and the nodes.
        memory_bytes: What one of its pods may use at most: its limit, else the largest node's that can hold it; None
            where that is not known.
        accelerator_bytes: What an accelerator holds, of the largest that nodes are labelled with; None where not known.
    """

    findings: tuple[Finding, ...]
    memory_bytes: float | None
    accelerator_bytes: float | None


def look(reader: Reader, demand: Demand) -> Room:
    """Look for room.

    Args:
        reader: The cluster and namespace.
        demand: What the Job asks for.

    Raises:
        NotFoundError: If the namespace, or its queue, is not there.
        UnavailableError: If the API server does not answer.
    """
    reader.check_namespace()
    findings: list[Finding] = []
    labels: dict[str, str] = {}
    if demand.queue:
        found, labels = _queue(reader, demand)
        findings.append(found)
    quotas = _read("quota", findings, lambda: reader.list("ResourceQuota"))
    findings += [one for quota in quotas or [] if (one := in_resource_quota(demand, quota))]
    nodes = _read("nodes", findings, lambda: eligible(reader.list("Node"), demand.pod, labels))
    if nodes is not None:
        findings.append(on_nodes(demand, nodes))
    able = [node for node in nodes or [] if pods_held(node, demand.requests)]
    memory = demand.limits.get("memory") or most_on_one(able, "memory") or None
    return Room(tuple(findings), memory, accelerator_bytes(able))


def accelerator_bytes(nodes: list[Document]) -> float | None:
    """Tell what the largest accelerator holds, by the labels of the vendors' node labellers; None without them.

    Args:
        nodes: The nodes.
    """
    labels = [node["metadata"].get("labels") or {} for node in nodes]
    sizes = [int(one[_NVIDIA_MIB]) * 2.0**20 for one in labels if str(one.get(_NVIDIA_MIB)).isdigit()]
    sizes += [amount_of(f"{one[_AMD].removesuffix('i').removesuffix('B')}i") for one in labels if one.get(_AMD)]
    return max(sizes, default=None)


def _read(place: str, findings: list[Finding], read: Callable[[], list[Document]]) -> list[Document] | None:
    try:
        return read()
    except DeniedError as error:
        findings.append(Finding(place, "unknown", error.message.rstrip(".")))
        return None


def _queue(reader: Reader, demand: Demand) -> tuple[Finding, dict[str, str]]:
    local = _local_queue(reader, demand.queue)
    name = str(local["spec"]["clusterQueue"])
    try:
        queues = {str(one["metadata"]["name"]): one for one in reader.kueue("ClusterQueue")}
        if name not in queues:
            raise NotFoundError(
                f"There is no ClusterQueue {name}, which the LocalQueue {demand.queue} leads to.",
                hint=f"kubectl get clusterqueues; ask the administrator for {name}.",
            )
        queue = queues[name]
        cohort = cohort_of(queue, queues.values())
        found, labels = in_queue(demand, local, queue, cohort, reader.kueue("ResourceFlavor"))
        if found.fits in ("never", "not now") and _cohort_has_more(reader, cohort_name(queue)):
            words = f"{found.sentence}; what the cohort {cohort_name(queue)} has besides its queues is not counted"
            return Finding("queue", "unknown", words), labels
    except DeniedError as error:
        return Finding("queue", "unknown", error.message.rstrip(".")), {}
    if not _selected(reader, queue):
        return Finding("queue", "never", f"the ClusterQueue {name} takes nothing from {reader.namespace}"), labels
    return found, labels


def _local_queue(reader: Reader, name: str) -> Document:
    there = {str(one["metadata"]["name"]): one for one in reader.kueue("LocalQueue")}
    if name in there:
        return there[name]
    raise NotFoundError(
        f"There is no LocalQueue {name} in {reader.namespace}; there is {', '.join(there) or 'none'}.",
        hint=f"--set queueName={min(there)}" if there else "Make it with workloads/k8s-namespace-setup.",
    )


def _cohort_has_more(reader: Reader, name: str) -> bool:
    """Whether a Cohort object brings quota of its own, or that of a parent."""
    if not name:
        return False
    try:
        cohorts = {one["metadata"]["name"]: one.get("spec") or {} for one in reader.kueue("Cohort")}
    except NotFoundError:
        return False
    spec = cohorts.get(name, {})
    return any(spec.get(key) for key in ("parentName", "parent", "resourceGroups"))


def _selected(reader: Reader, queue: Document) -> bool:
    try:
        namespace = reader.find("Namespace", reader.namespace)
    except DeniedError:
        return True
    return namespace is None or selects(queue, namespace["metadata"].get("labels") or {})
