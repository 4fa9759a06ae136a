"""Whether a ClusterQueue of Kueue, or a ResourceQuota, has room for a Job. Pure.

The arithmetic is Kueue's own for a cohort without children: what a ClusterQueue may not lend is its alone, the rest of
all members is one pool (kueue.sigs.k8s.io/docs/concepts/cohort). Preemption is not foretold.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tuneyard.cluster.amounts import amount_of
from tuneyard.cluster.demand import FITS, Demand, Finding, Share, told, worst
from tuneyard.cluster.nodes import matches, tolerates
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
        """What the others can't have."""
        return 0.0 if self.lending is None else max(0.0, self.nominal - self.lending)


def cohort_of(queue: Document, queues: Iterable[Document]) -> list[Document]:
    """Give the ClusterQueues that share quota with one, itself among them.

    Args:
        queue: The ClusterQueue.
        queues: Every ClusterQueue there is.
    """
    name = cohort_name(queue)
    others = [one for one in queues if name and cohort_name(one) == name and _name(one) != _name(queue)]
    return [queue, *others]


def cohort_name(queue: Document) -> str:
    """Name a ClusterQueue's cohort, by the key of either version; empty for none."""
    return str(queue["spec"].get("cohortName") or queue["spec"].get("cohort") or "")


def queue_shares(
    cohort: Sequence[Document], asked: Mapping[str, float], excluded: Collection[str] = ()
) -> tuple[list[Share], list[str]]:
    """Compare what is asked for with a ClusterQueue's quota, in the flavor that comes nearest.

    Args:
        cohort: The ClusterQueue, and after it the others of its cohort.
        asked: Amounts by resource, of all pods together: Kueue admits a Job whole, and within one flavor.
        excluded: Flavors that its pods can't take.

    Returns:
        A share for each resource, and the names of the flavors.
    """
    found: dict[str, Share] = {}
    chosen: list[str] = []
    for group in cohort[0]["spec"].get("resourceGroups") or []:
        covered = [resource for resource in group["coveredResources"] if resource in asked]
        options = [
            (flavor["name"], [_share(cohort, flavor["name"], resource, asked[resource]) for resource in covered])
            for flavor in group["flavors"]
            if flavor["name"] not in excluded
        ]
        if not covered:
            continue
        nothing = [Share(resource, asked[resource], 0.0, 0.0) for resource in covered]
        name, shares = min(
            options, key=lambda one: FITS.index(worst(share.fits for share in one[1])), default=("", nothing)
        )
        chosen.append(name)
        found.update({share.resource: share for share in shares})
    return [found.get(resource, Share(resource, amount, None, 0.0)) for resource, amount in asked.items()], chosen


def in_queue(
    demand: Demand, local: Document, queue: Document, cohort: Sequence[Document], flavors: Iterable[Document]
) -> tuple[Finding, dict[str, str]]:
    """Tell whether Kueue would admit a Job.

    Args:
        demand: What it asks for.
        local: Its LocalQueue.
        queue: The ClusterQueue behind that.
        cohort: The ClusterQueue, and after it the others of its cohort.
        flavors: Every ResourceFlavor there is.

    Returns:
        What was found, and the labels of nodes that the flavor keeps it to.
    """
    known = {_name(one): one.get("spec") or {} for one in flavors}
    excluded = [name for name, spec in known.items() if not _takes(spec, demand.pod)]
    asked = demand.in_all
    if any("pods" in group["coveredResources"] for group in queue["spec"].get("resourceGroups") or []):
        asked["pods"] = float(demand.pods)
    shares, chosen = queue_shares(cohort, asked, excluded)
    labels = {key: text for name in chosen for key, text in (known.get(name, {}).get("nodeLabels") or {}).items()}
    fits, words = worst(share.fits for share in shares), told(shares)
    name, waiting = _name(local), int((queue.get("status") or {}).get("pendingWorkloads") or 0)
    if fits == "never":
        return Finding("queue", "never", f"{name} never admits it: {words}"), labels
    behind = f"; {waiting} wait already" if waiting else ""
    if closed := _closed(local, queue):
        return Finding("queue", "not now", f"it would wait in {name}: {closed}"), labels
    if fits == "yes" and waiting and queue["spec"].get("queueingStrategy") == "StrictFIFO":
        return Finding("queue", "not now", f"it would wait in {name}, which is strictly in turn{behind}"), labels
    if fits == "not now":
        return Finding("queue", "not now", f"it would wait in {name}: {words}{behind}"), labels
    return Finding("queue", fits, f"{name} would admit it now{f': {words}' if words else ''}"), labels


def in_resource_quota(demand: Demand, quota: Document) -> Finding | None:
    """Tell whether a ResourceQuota of the namespace lets a Job's pods in; None where it says nothing about them.

    Args:
        demand: What the Job asks for.
        quota: The ResourceQuota; one with scopes is passed over.
    """
    spec, status = quota["spec"], quota.get("status") or {}
    if spec.get("scopes") or spec.get("scopeSelector"):
        return None
    asked: dict[str, float] = {"pods": float(demand.pods)}
    for resource, amount in demand.in_all.items():
        asked |= {f"requests.{resource}": amount, resource: amount}
    asked |= {f"limits.{resource}": amount * demand.pods for resource, amount in demand.limits.items()}
    hard = {key: amount_of(str(amount)) for key, amount in (spec.get("hard") or {}).items()}
    used = {key: amount_of(str(amount)) for key, amount in (status.get("used") or {}).items()}
    shares = [
        Share(key, amount, hard[key], hard[key] - used.get(key, 0)) for key, amount in asked.items() if key in hard
    ]
    if not shares:
        return None
    fits = worst(share.fits for share in shares)
    how = {"never": "never lets it in", "not now": "does not let it in now"}.get(fits, "lets it in now")
    return Finding("quota", fits, f"the namespace's quota {_name(quota)} {how}: {told(shares)}")


def selects(queue: Document, namespace_labels: Mapping[str, str]) -> bool:
    """Tell whether a ClusterQueue takes workloads of a namespace with these labels.

    Args:
        queue: The ClusterQueue.
        namespace_labels: The namespace's labels.
    """
    selector = queue["spec"].get("namespaceSelector")
    if selector is None:  # Kueue takes nothing then
        return False
    wanted = [
        {"key": key, "operator": "In", "values": [text]} for key, text in (selector.get("matchLabels") or {}).items()
    ]
    return matches([*wanted, *(selector.get("matchExpressions") or [])], namespace_labels)


def _closed(local: Document, queue: Document) -> str:
    for kind, one in (("LocalQueue", local), ("ClusterQueue", queue)):
        if (one["spec"].get("stopPolicy") or "None") != "None":
            return f"the {kind} {_name(one)} is stopped"
    conditions: list[dict[str, Any]] = (queue.get("status") or {}).get("conditions") or []
    for condition in conditions:
        if condition["type"] == "Active" and condition["status"] != "True":
            return f"the ClusterQueue {_name(queue)} is not active: {condition.get('message') or 'no reason told'}"
    return ""


def _takes(flavor: Document, pod: Document) -> bool:
    """Whether a pod can take a flavor: Kueue adds its labels to the pod's selector, and tolerates its own taints."""
    selector: dict[str, str] = pod.get("nodeSelector") or {}
    labels: dict[str, str] = flavor.get("nodeLabels") or {}
    if any(selector.get(key, text) != text for key, text in labels.items()):
        return False
    tolerations = [*(pod.get("tolerations") or []), *(flavor.get("tolerations") or [])]
    return tolerates(flavor.get("nodeTaints") or [], tolerations)


def _share(cohort: Sequence[Document], flavor: str, resource: str, asked: float) -> Share:
    quotas = [one for queue in cohort if (one := _quota(queue, flavor, resource))]
    if not quotas:
        return Share(resource, asked, 0.0, 0.0)
    mine = quotas[0]
    pool = sum(one.nominal - one.own for one in quotas)
    free_of_pool = pool - sum(max(0.0, one.used - one.own) for one in quotas)
    if mine.borrowing is not None:
        mine_of_pool = mine.nominal - mine.own + mine.borrowing
        pool = min(pool, mine_of_pool)
        free_of_pool = min(free_of_pool, mine_of_pool - max(0.0, mine.used - mine.own))
    free = max(0.0, mine.own - mine.used) + max(0.0, free_of_pool)
    return Share(resource, asked, mine.own + pool, free)


def _quota(queue: Document, flavor: str, resource: str) -> _Quota | None:
    def of(groups: Iterable[Document], key: str = "flavors") -> Document | None:
        every = (one for group in groups for one in group.get(key) or [] if one["name"] == flavor)
        return next((part for one in every for part in one.get("resources") or [] if part["name"] == resource), None)

    given = of(queue["spec"].get("resourceGroups") or [])
    if given is None:
        return None
    reserved = of([queue.get("status") or {}], "flavorsReservation") or {}

    def limit(key: str) -> float | None:
        return None if given.get(key) is None else amount_of(str(given[key]))

    return _Quota(
        nominal=amount_of(str(given["nominalQuota"])),
        borrowing=limit("borrowingLimit"),
        lending=limit("lendingLimit"),
        used=amount_of(str(reserved.get("total") or 0)),
    )


def _name(one: Document) -> str:
    return str(one["metadata"]["name"])
