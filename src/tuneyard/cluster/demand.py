"""What a Job requests from a cluster, and the result of comparing it with what is available. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from tuneyard.cluster.quantities import format_quantity, parse_quantity
from tuneyard.cluster.reader import Document

QUEUE_LABEL = "kueue.x-k8s.io/queue-name"
Fit = Literal["yes", "unknown", "not now", "never"]
"""From best to worst."""
FITS: tuple[Fit, ...] = ("yes", "unknown", "not now", "never")


@dataclass(frozen=True, slots=True)
class Demand:
    """The resources that a Job requests.

    Attributes:
        pods: The number of pods that run at once.
        requests: The requests of one pod, by resource: bytes, cores or a count.
        limits: The limits of one pod.
        pod: The pod's spec.
        queue: Kueue's LocalQueue; empty for none.
    """

    pods: int
    requests: Mapping[str, float]
    limits: Mapping[str, float]
    pod: Document
    queue: str

    @property
    def total_requests(self) -> dict[str, float]:
        """The requests of all pods together."""
        return {resource: amount * self.pods for resource, amount in self.requests.items()}


@dataclass(frozen=True, slots=True)
class Share:
    """A request of one resource, compared with its availability.

    Attributes:
        resource: The resource's name.
        requested: The requested quantity.
        total: The most that can ever be available; None where the resource is not covered at all.
        free: What is available now.
    """

    resource: str
    requested: float
    total: float | None
    free: float

    @property
    def fits(self) -> Fit:
        """Whether the request can be satisfied."""
        if self.total is None or self.requested > self.total:
            return "never"
        return "not now" if self.requested > self.free else "yes"

    def __str__(self) -> str:
        if self.total is None:
            return f"{self.resource} is not covered"
        requested, total, free = (format_quantity(self.resource, n) for n in (self.requested, self.total, self.free))
        if self.fits == "never":
            return f"{self.resource}: requested {requested}, total {total}"
        if self.fits == "not now":
            return f"{self.resource}: requested {requested}, free {free} of {total}"
        return f"{self.resource}: requested {requested}, free {free}"


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of comparing a Job's demand with one constraint.

    Attributes:
        place: The constraint: `queue`, `quota`, `nodes` or `memory`.
        fits: Whether the demand fits.
        sentence: The result for people, without a full stop.
    """

    place: str
    fits: Fit
    sentence: str


def demand_of(job: Document) -> Demand:
    """Read the demand of a Job without init containers, such as one of finetuning.

    Args:
        job: The rendered Job. Defaults that a LimitRange would add are not included.
    """
    spec: Document = job["spec"]["template"]["spec"]
    requests, limits = Counter[str](), Counter[str]()
    for container in spec["containers"]:
        resources: dict[str, Any] = container.get("resources") or {}
        limited = resources.get("limits") or {}
        limits.update(_parse(limited))
        requests.update(_parse({**limited, **(resources.get("requests") or {})}))  # a limit implies a request
    queue = (job["metadata"].get("labels") or {}).get(QUEUE_LABEL, "")
    return Demand(job["spec"].get("parallelism") or 1, requests, limits, spec, queue)


def worst(fits: Iterable[Fit]) -> Fit:
    """Return the worst of several fits; `yes` for none."""
    return FITS[max(map(FITS.index, fits), default=0)]


def describe_worst(shares: Sequence[Share]) -> str:
    """Describe the shares that fit worst."""
    fits = worst(share.fits for share in shares)
    return "; ".join(str(share) for share in shares if share.fits == fits)


def _parse(texts: Mapping[str, Any]) -> dict[str, Any]:
    return {resource: parse_quantity(str(quantity)) for resource, quantity in texts.items()}
