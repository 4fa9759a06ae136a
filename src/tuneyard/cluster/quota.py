"""Whether a ClusterQueue of Kueue, or a ResourceQuota, has capacity for a Job. Pure.

The arithmetic is Kueue's for a cohort without children: quota above the lending limit belongs to its ClusterQueue
alone, the rest of all members forms one pool (kueue.sigs.k8s.io/docs/concepts/cohort). Preemption is not predicted.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tuneyard.cluster.demand import FITS, Demand, Finding, Share, describe_worst, worst
from tuneyard.cluster.nodes import matches, tolerates
from tuneyard.cluster.quantities import parse_quantity
from tuneyard.cluster.reader import Document


@dataclass(frozen=True, slots=True)
class _Quota:
    """A ClusterQueue's quota of one resource in one flavor; `borrowing` and `lending` are None where unlimited."""

    nominal: float
    borrowing: float | None
    lending: float | None
    used: float

    @property
    def own(self) -> float:
        """The part that is not lent to others."""
        return 0.0 if self.lending is None else max(0.0, self.nominal - self.lending)


def cohort_of(queue: Document, queues: Iterable[Document]) -> list[Document]:
    """Return a ClusterQueue, followed by the others of its cohort.

    Args:
        queue: The ClusterQueue.
        queues: All ClusterQueues.
    """
    name = cohort_name(queue)
    others = [one for one in queues if name and cohort_name(one) == name and _name(one) != _name(queue)]
    return [queue, *others]


def cohort_name(queue: Document) -> str:
    """Return the name of a ClusterQueue's cohort, in either API version; empty for none."""
    return str(queue["spec"].get("cohortName") or queue["spec"].get("cohort") or "")


def queue_shares(
    cohort: Sequence[Document], requested: Mapping[str, float], excluded: Collection[str] = ()
) -> tuple[list[Share], list[str]]:
    """Compare requests with a ClusterQueue's quota, in the flavor that fits best.

    Args:
        cohort: The ClusterQueue, followed by the others of its cohort.
        requested: Requests of all pods together, by resource: Kueue admits a Job as a whole, within one flavor.
        excluded: Flavors that the pods can't use.

    Returns:
        A share per resource, and the names of the flavors.
    """
    found: dict[str, Share] = {}
    chosen: list[str] = []
    for group in cohort[0]["spec"].get("resourceGroups") or []:
        covered = [resource for resource in group["coveredResources"] if resource in requested]
        options = [
            (flavor["name"], [_share(cohort, flavor["name"], resource, requested[resource]) for resource in covered])
            for flavor in group["flavors"]
            if flavor["name"] not in excluded
        ]
        if not covered:
            continue
        no_quota = [Share(resource, requested[resource], 0.0, 0.0) for resource in covered]
        name, shares = min(
            options, key=lambda one: FITS.index(worst(share.fits for share in one[1])), default=("", no_quota)
        )
        chosen.append(name)
        found.update({share.resource: share for share in shares})
    return [found.get(resource, Share(resource, amount, None, 0.0)) for resource, amount in requested.items()], chosen


def check_queue(
    demand: Demand, local: Document, queue: Document, cohort: Sequence[Document], flavors: Iterable[Document]
) -> tuple[Finding, dict[str, str]]:
    """Check whether Kueue would admit a Job.

    Args:
        demand: The Job's demand.
        local: Its LocalQueue.
        queue: The LocalQueue's ClusterQueue.
        cohort: The ClusterQueue, followed by the others of its cohort.
        flavors: All ResourceFlavors.

    Returns:
        The finding, and the node labels that the flavor requires.
    """
    known = {_name(one): one.get("spec") or {} for one in flavors}
    excluded = [name for name, spec in known.items() if not _accepts(spec, demand.pod)]
    requested = demand.total_requests
    if any("pods" in group["coveredResources"] for group in queue["spec"].get("resourceGroups") or []):
        requested["pods"] = float(demand.pods)
    shares, chosen = queue_shares(cohort, requested, excluded)
    labels = {key: text for name in chosen for key, text in (known.get(name, {}).get("nodeLabels") or {}).items()}
    fits, details = worst(share.fits for share in shares), describe_worst(shares)
    name, waiting = f"LocalQueue '{_name(local)}'", int((queue.get("status") or {}).get("pendingWorkloads") or 0)
    if fits == "never":
        return Finding("queue", "never", f"{name} can never admit it: {details}"), labels
    behind = f"; {waiting} already waiting" if waiting else ""
    if closed := _closed(local, queue):
        return Finding("queue", "not now", f"it would wait in {name}: {closed}"), labels
    if fits == "yes" and waiting and queue["spec"].get("queueingStrategy") == "StrictFIFO":
        return Finding("queue", "not now", f"it would wait in {name}, which is strictly FIFO{behind}"), labels
    if fits == "not now":
        return Finding("queue", "not now", f"it would wait in {name}: {details}{behind}"), labels
    return Finding("queue", fits, f"{name} would admit it now{f': {details}' if details else ''}"), labels


def check_resource_quota(demand: Demand, quota: Document) -> Finding | None:
    """Check whether a ResourceQuota admits a Job's pods; None where it does not constrain them.

    Args:
        demand: The Job's demand.
        quota: The ResourceQuota; one with scopes is ignored.
    """
    spec, status = quota["spec"], quota.get("status") or {}
    if spec.get("scopes") or spec.get("scopeSelector"):
        return None
    requested: dict[str, float] = {"pods": float(demand.pods)}
    for resource, amount in demand.total_requests.items():
        requested |= {f"requests.{resource}": amount, resource: amount}
    requested |= {f"limits.{resource}": amount * demand.pods for resource, amount in demand.limits.items()}
    hard = {key: parse_quantity(str(amount)) for key, amount in (spec.get("hard") or {}).items()}
    used = {key: parse_quantity(str(amount)) for key, amount in (status.get("used") or {}).items()}
    shares = [
        Share(key, amount, hard[key], hard[key] - used.get(key, 0)) for key, amount in requested.items() if key in hard
    ]
    if not shares:
        return None
    fits = worst(share.fits for share in shares)
    how = {"never": "can never admit it", "not now": "can't admit it now"}.get(fits, "would admit it now")
    return Finding("quota", fits, f"ResourceQuota '{_name(quota)}' {how}: {describe_worst(shares)}")


def selects(queue: Document, namespace_labels: Mapping[str, str]) -> bool:
    """Return whether a ClusterQueue accepts Workloads of a namespace with these labels.

    Args:
        queue: The ClusterQueue.
        namespace_labels: The namespace's labels.
    """
    selector = queue["spec"].get("namespaceSelector")
    if selector is None:  # then Kueue accepts none
        return False
    required = [
        {"key": key, "operator": "In", "values": [text]} for key, text in (selector.get("matchLabels") or {}).items()
    ]
    return matches([*required, *(selector.get("matchExpressions") or [])], namespace_labels)


def _closed(local: Document, queue: Document) -> str:
    for kind, one in (("LocalQueue", local), ("ClusterQueue", queue)):
        if (one["spec"].get("stopPolicy") or "None") != "None":
            return f"{kind} '{_name(one)}' is stopped"
    conditions: list[dict[str, Any]] = (queue.get("status") or {}).get("conditions") or []
    for condition in conditions:
        if condition["type"] == "Active" and condition["status"] != "True":
            return f"ClusterQueue '{_name(queue)}' is not active: {condition.get('message') or 'no reason given'}"
    return ""


def _accepts(flavor: Document, pod: Document) -> bool:
    """Whether a pod can use a flavor: Kueue adds its node labels to the pod's selector, and its tolerations."""
    selector: dict[str, str] = pod.get("nodeSelector") or {}
    labels: dict[str, str] = flavor.get("nodeLabels") or {}
    if any(selector.get(key, text) != text for key, text in labels.items()):
        return False
    tolerations = [*(pod.get("tolerations") or []), *(flavor.get("tolerations") or [])]
    return tolerates(flavor.get("nodeTaints") or [], tolerations)


def _share(cohort: Sequence[Document], flavor: str, resource: str, requested: float) -> Share:
    quotas = [one for queue in cohort if (one := _quota(queue, flavor, resource))]
    if not quotas:
        return Share(resource, requested, 0.0, 0.0)
    own_quota = quotas[0]
    pool = sum(one.nominal - one.own for one in quotas)
    free_in_pool = pool - sum(max(0.0, one.used - one.own) for one in quotas)
    if own_quota.borrowing is not None:
        share_of_pool = own_quota.nominal - own_quota.own + own_quota.borrowing
        pool = min(pool, share_of_pool)
        free_in_pool = min(free_in_pool, share_of_pool - max(0.0, own_quota.used - own_quota.own))
    free = max(0.0, own_quota.own - own_quota.used) + max(0.0, free_in_pool)
    return Share(resource, requested, own_quota.own + pool, free)


def _quota(queue: Document, flavor: str, resource: str) -> _Quota | None:
    def resource_in(groups: Iterable[Document], key: str = "flavors") -> Document | None:
        found = (one for group in groups for one in group.get(key) or [] if one["name"] == flavor)
        return next((part for one in found for part in one.get("resources") or [] if part["name"] == resource), None)

    quota = resource_in(queue["spec"].get("resourceGroups") or [])
    if quota is None:
        return None
    reserved = resource_in([queue.get("status") or {}], "flavorsReservation") or {}

    def limit(key: str) -> float | None:
        return None if quota.get(key) is None else parse_quantity(str(quota[key]))

    return _Quota(
        nominal=parse_quantity(str(quota["nominalQuota"])),
        borrowing=limit("borrowingLimit"),
        lending=limit("lendingLimit"),
        used=parse_quantity(str(reserved.get("total") or 0)),
    )


def _name(one: Document) -> str:
    return str(one["metadata"]["name"])
