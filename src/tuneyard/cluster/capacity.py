"""Check a cluster's capacity for a Job: its queue, the namespace's quotas and the nodes. It only reads.

What the credentials can't read is reported as unknown: a run does not read it either.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tuneyard.cluster.demand import Demand, Finding
from tuneyard.cluster.nodes import check_nodes, eligible, largest_allocatable, pod_capacity
from tuneyard.cluster.quantities import parse_quantity
from tuneyard.cluster.quota import check_queue, check_resource_quota, cohort_name, cohort_of, selects
from tuneyard.cluster.reader import Document, Reader
from tuneyard.errors import DeniedError, NotFoundError

_NVIDIA_MIB, _AMD = "nvidia.com/gpu.memory", "amd.com/gpu.vram"


@dataclass(frozen=True, slots=True)
class Capacity:
    """A cluster's capacity for a Job.

    Attributes:
        findings: The findings for its queue, the namespace's quotas and the nodes.
        memory_bytes: The most memory that one of its pods can use: its limit, else that of the largest suitable node;
            None where unknown.
        accelerator_bytes: The memory of the largest accelerator, by the nodes' labels; None where unknown.
    """

    findings: tuple[Finding, ...]
    memory_bytes: float | None
    accelerator_bytes: float | None


def check_capacity(reader: Reader, demand: Demand) -> Capacity:
    """Check the capacity for a Job.

    Args:
        reader: The cluster and namespace.
        demand: The Job's demand.

    Raises:
        NotFoundError: If the namespace or the Job's queue does not exist.
        UnavailableError: If the API server does not respond.
    """
    reader.check_namespace()
    findings: list[Finding] = []
    labels: dict[str, str] = {}
    if demand.queue:
        found, labels = _queue(reader, demand)
        findings.append(found)
    quotas = _read("quota", findings, lambda: reader.list("ResourceQuota"))
    findings += [one for quota in quotas or [] if (one := check_resource_quota(demand, quota))]
    nodes = _read("nodes", findings, lambda: eligible(reader.list("Node"), demand.pod, labels))
    if nodes is not None:
        findings.append(check_nodes(demand, nodes))
    suitable = [node for node in nodes or [] if pod_capacity(node, demand.requests)]
    memory = demand.limits.get("memory") or largest_allocatable(suitable, "memory") or None
    return Capacity(tuple(findings), memory, accelerator_bytes(suitable))


def accelerator_bytes(nodes: list[Document]) -> float | None:
    """Return the memory of the largest accelerator, by the labels of the vendors' node labellers; None without them.

    Args:
        nodes: The nodes.
    """
    labels = [node["metadata"].get("labels") or {} for node in nodes]
    sizes = [int(one[_NVIDIA_MIB]) * 2.0**20 for one in labels if str(one.get(_NVIDIA_MIB)).isdigit()]
    sizes += [parse_quantity(f"{one[_AMD].removesuffix('i').removesuffix('B')}i") for one in labels if one.get(_AMD)]
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
                f"The ClusterQueue '{name}' of LocalQueue '{demand.queue}' does not exist.",
                hint=f"Ask the cluster's administrator to create ClusterQueue {name}.",
            )
        queue = queues[name]
        cohort = cohort_of(queue, queues.values())
        found, labels = check_queue(demand, local, queue, cohort, reader.kueue("ResourceFlavor"))
        if found.fits in ("never", "not now") and _cohort_has_more(reader, cohort_name(queue)):
            sentence = f"{found.sentence}; the quota of Cohort '{cohort_name(queue)}' itself is not included"
            return Finding("queue", "unknown", sentence), labels
    except DeniedError as error:
        return Finding("queue", "unknown", error.message.rstrip(".")), {}
    if not _selected(reader, queue):
        sentence = f"ClusterQueue '{name}' does not accept Workloads of namespace '{reader.namespace}'"
        return Finding("queue", "never", sentence), labels
    return found, labels


def _local_queue(reader: Reader, name: str) -> Document:
    available = {str(one["metadata"]["name"]): one for one in reader.kueue("LocalQueue")}
    if name in available:
        return available[name]
    raise NotFoundError(
        f"The LocalQueue '{name}' does not exist in namespace '{reader.namespace}'; "
        f"available: {', '.join(available) or 'none'}.",
        hint=f"--set queueName={min(available)}" if available else "Create it with workloads/k8s-namespace-setup.",
    )


def _cohort_has_more(reader: Reader, name: str) -> bool:
    """Whether a Cohort has quota of its own, or of a parent."""
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
