"""What a Job asks of a cluster, and what is found about one place that has to have it. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from tuneyard.cluster.amounts import amount_of, number, written
from tuneyard.cluster.reader import Document

QUEUE_LABEL = "kueue.x-k8s.io/queue-name"
Fit = Literal["yes", "unknown", "not now", "never"]
"""From best to worst."""
FITS: tuple[Fit, ...] = ("yes", "unknown", "not now", "never")


@dataclass(frozen=True, slots=True)
class Demand:
    """What a Job asks for.

    Attributes:
        pods: How many pods run at once.
        requests: What one of them asks for, by resource: bytes, cores or a count.
        limits: What one of them may use.
        pod: Its spec.
        queue: The LocalQueue of Kueue; empty for none.
    """

    pods: int
    requests: Mapping[str, float]
    limits: Mapping[str, float]
    pod: Document
    queue: str

    @property
    def in_all(self) -> dict[str, float]:
        """What all pods ask for together."""
        return {resource: amount * self.pods for resource, amount in self.requests.items()}


@dataclass(frozen=True, slots=True)
class Share:
    """What is asked of one resource, and what there is of it.

    Attributes:
        resource: Its name.
        asked: How much is asked for.
        whole: The most that can ever be had; None where the place does not give it at all.
        free: What can be had now.
    """

    resource: str
    asked: float
    whole: float | None
    free: float

    @property
    def fits(self) -> Fit:
        """Whether it can be had."""
        if self.whole is None or self.asked > self.whole:
            return "never"
        return "not now" if self.asked > self.free else "yes"

    def __str__(self) -> str:
        if self.whole is None:
            return f"{self.resource} is not covered"
        asked, whole = number(self.resource, self.asked), number(self.resource, self.whole)
        if self.fits == "never":
            return f"{self.resource}: {asked} asked for, {whole} is all there is"
        if self.fits == "not now":
            return f"{self.resource}: {asked} asked for, {number(self.resource, self.free)} of {whole} free"
        return f"{written(self.resource, self.asked)} of {number(self.resource, self.free)} free"


@dataclass(frozen=True, slots=True)
class Finding:
    """Whether one place has room for a Job.

    Attributes:
        place: `queue`, `quota`, `nodes` or `memory`.
        fits: Whether it has.
        sentence: The same in words, without a stop.
    """

    place: str
    fits: Fit
    sentence: str


def demand_of(job: Document) -> Demand:
    """Read what a Job asks for; its pods have no init containers, as those of finetuning have none.

    Args:
        job: The Job as it is rendered. Defaults that a LimitRange would add are not in it.
    """
    spec: Document = job["spec"]["template"]["spec"]
    requests, limits = Counter[str](), Counter[str]()
    for container in spec["containers"]:
        resources: dict[str, Any] = container.get("resources") or {}
        most = resources.get("limits") or {}
        limits.update(_amounts(most))
        requests.update(_amounts({**most, **(resources.get("requests") or {})}))  # a limit alone is a request too
    queue = (job["metadata"].get("labels") or {}).get(QUEUE_LABEL, "")
    return Demand(job["spec"].get("parallelism") or 1, requests, limits, spec, queue)


def worst(fits: Iterable[Fit]) -> Fit:
    """Give the worst of several."""
    return FITS[max(map(FITS.index, fits), default=0)]


def told(shares: Iterable[Share]) -> str:
    """Say of shares what is worst about them: all of them where each can be had."""
    listed = list(shares)
    kind = worst(share.fits for share in listed)
    return "; ".join(str(share) for share in listed if share.fits == kind)


def _amounts(texts: Mapping[str, Any]) -> dict[str, Any]:
    return {resource: amount_of(str(amount)) for resource, amount in texts.items()}
