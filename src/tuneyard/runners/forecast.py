"""From values to a forecast: what a finetuning run would take on a target, and whether it would fit and start there.

Nothing is launched. Model and data are looked at where this machine reaches them, or by a short pod inside the cluster.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from tuneyard.errors import DeniedError, UnavailableError, UsageError
from tuneyard.runners.base import Launch, Runner
from tuneyard.runners.info import RunKey
from tuneyard.runners.names import check_name
from tuneyard.runners.plans import Sources, load_finetune_values, store_of

if TYPE_CHECKING:
    from tuneyard.cluster.demand import Finding
    from tuneyard.estimate import Estimate, Verdict
    from tuneyard.values import FinetuneValues


@dataclass(frozen=True, slots=True)
class Forecast:
    """What a run would take, and whether it fits.

    Attributes:
        estimate: Parameters, memory, steps, tokens, time and disk.
        verdict: Whether it fits and would start now.
        findings: What a cluster's queue, quotas and nodes say of it, and its memory; none on this machine.
    """

    estimate: Estimate
    verdict: Verdict
    findings: tuple[Finding, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON-ready data, under the names of its attributes."""
        findings = [asdict(one) for one in self.findings]
        return {"estimate": self.estimate.to_json(), "verdict": asdict(self.verdict), "findings": findings}


def forecast(sources: Sources, runner: Runner, *, inside: bool = False) -> Forecast:
    """Foretell a finetuning run.

    Args:
        sources: What the user gave.
        runner: Where it would run.
        inside: Whether to look at model and data from inside the cluster, for a store that this machine can't reach;
            done without being asked for where torch is not installed here (`looks_inside`).

    Raises:
        InvalidValuesError: If the values are not allowed, or ask for what is not trained, with every problem.
        InvalidDataError: If rows of the data can't be trained on.
        NotFoundError: If a values file, the base model, the namespace, its queue, or torch on this machine is missing.
        UnavailableError: If the store or the cluster can't be reached.
        UsageError: If `inside` is asked of this machine, or together with a store of this machine's.
    """
    from tuneyard.job.supported import refuse_unsupported
    from tuneyard.values import canonical_json

    values = load_finetune_values(sources)
    refuse_unsupported(values, lambda _: None, here=runner.store_is_here)  # `estimate` tells the equivalents
    launch = Launch(RunKey("finetune", check_name(sources.name or "plan")), canonical_json(values), "")
    if inside or looks_inside(sources, runner):
        told = _from_inside(sources, runner, values, launch)
    elif runner.store_is_here:
        told = _from_here(sources, values, here=True)
    else:
        told = _of_a_cluster(sources, runner, values)
    verdict, findings = runner.judge(launch, told)
    return Forecast(told, verdict, findings)


def looks_inside(sources: Sources, runner: Runner) -> bool:
    """Whether model and data are looked at inside the cluster without being asked to: torch is installed only there.

    Args:
        sources: What the user gave; a store for this machine is looked into from here.
        runner: Where it would run.
    """
    from tuneyard.models import library_is_here

    return not runner.store_is_here and sources.store is None and not library_is_here()


def _from_here(sources: Sources, values: FinetuneValues, *, here: bool) -> Estimate:
    from tuneyard.estimate import estimate

    return estimate(values, store_of(sources, None if here else values.bucketStorageHost), here=here)


def _from_inside(sources: Sources, runner: Runner, values: FinetuneValues, launch: Launch) -> Estimate:
    if sources.store is not None:
        raise UsageError("--store is for this machine, and --inside for the cluster.", hint="Leave one of them out.")
    return runner.estimate(replace(launch, store=values.bucketStorageHost))


def _of_a_cluster(sources: Sources, runner: Runner, values: FinetuneValues) -> Estimate:
    """Estimate from here what will run in a cluster, where this machine reaches the store with its own keys."""
    from tuneyard.store import configured_store

    if configured_store(sources.store, fallback=values.bucketStorageHost) is None:
        raise UsageError("The values name no store.", hint="Name it: --set bucketStorageHost=https://…")
    try:
        return _from_here(sources, values, here=False)
    except (UnavailableError, DeniedError) as error:
        words = f"Look from inside the cluster: tuneyard plan{runner.words} --inside, with the same values."
        raise type(error)(error.message, hint=f"{words} Or from here: {error.hint}", **error.details) from error
