"""From values to a forecast: what a finetuning run would use on a target, and whether it would fit and start there."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from tuneyard.runners.base import Launch, Runner
from tuneyard.runners.info import RunKey
from tuneyard.runners.names import check_name
from tuneyard.runners.plans import Sources, load_finetune_values

if TYPE_CHECKING:
    from tuneyard.cluster import Finding
    from tuneyard.estimate import Estimate, Verdict


@dataclass(frozen=True, slots=True)
class Forecast:
    """What a run would use, and whether it fits.

    Attributes:
        estimate: Parameters, memory, steps, tokens, time and disk.
        verdict: Whether it fits and would start now.
        findings: What the verdict on a cluster is based on: its queue, quotas, nodes and memory; none on this machine.
    """

    estimate: Estimate
    verdict: Verdict
    findings: tuple[Finding, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON-ready data, under the names of its attributes."""
        findings = [asdict(one) for one in self.findings]
        return {"estimate": self.estimate.to_json(), "verdict": asdict(self.verdict), "findings": findings}


def forecast(sources: Sources, runner: Runner, *, inside: bool = False) -> Forecast:
    """Forecast a finetuning run. Nothing is launched.

    Args:
        sources: What the user gave.
        runner: Where it would run.
        inside: Whether to read model and data in a short-lived pod in the cluster, for a store that this machine can't
            reach; automatic if torch is not installed here.

    Raises:
        InvalidValuesError: If the values are not allowed, or request what is not trained, with every problem.
        InvalidDataError: If rows of the data can't be trained on.
        NotFoundError: If a values file, the base model, the namespace, its queue, or torch on this machine is missing.
        UnavailableError: If the store or the cluster can't be reached.
        UsageError: If `inside` is set for this machine, or together with a store of this machine.
    """
    values = load_finetune_values(sources)
    launch = Launch(RunKey("finetune", check_name(sources.name or "plan")), values, values.bucketStorageHost)
    estimate = runner.estimate(launch, store=sources.store, inside=inside)
    verdict, findings = runner.judge(launch, estimate)
    return Forecast(estimate, verdict, findings)
