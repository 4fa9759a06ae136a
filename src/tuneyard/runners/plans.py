"""From values to a launch: what a verb will run, where and under which name.

A plan reads values files and, if this machine reaches it, the store; it starts and writes nothing.
`Runner.launch` takes its `launch`. The command line and the Python API both go through here, so `--dry-run` shows
exactly what would run. What depends on the target is a method of the runner.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from tuneyard.errors import NotFoundError, UsageError
from tuneyard.runners.base import Draft, Launch, Runner
from tuneyard.runners.info import RunKey
from tuneyard.runners.names import check_name, nearest_name

if TYPE_CHECKING:
    from tuneyard.runners.base import VerbValues
    from tuneyard.values import DeliverValues, FinetuneValues, InferenceValues

EXPERIMENTS = "default-bucket/experiments"
"""Where finetuning publishes if `checkpointsRemote` is not set: a folder of the run's name below this."""

ValuesT = TypeVar("ValuesT", "DeliverValues", "FinetuneValues", "InferenceValues")


@dataclass(frozen=True, slots=True)
class Plan:
    """What will be run.

    Attributes:
        launch: What a runner launches.
        notes: Notices for the user before it starts, each a sentence.
    """

    launch: Launch
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Preview:
    """What a launch would run, for people: secrets are replaced.

    Attributes:
        verb: The verb.
        name: The run's name.
        store: The store's URL.
        values: The resolved values.
        manifests: The objects that would be applied to a cluster; none for this machine.
        notes: Notices for the user, each a sentence.
    """

    verb: str
    name: str
    store: str
    values: Mapping[str, Any]
    manifests: tuple[Mapping[str, Any], ...] = ()
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return the document that `--dry-run --json` prints."""
        document = {"verb": self.verb, "name": self.name, "store": self.store, "values": self.values}
        return {**document, "manifests": list(self.manifests)} if self.manifests else document


def preview(plan: Plan, runner: Runner) -> Preview:
    """Return what a plan would run.

    Args:
        plan: The plan.
        runner: Where it would run.
    """
    from tuneyard.values import NOT_SHOWN, public_values

    launch = plan.launch
    objects = runner.preview(launch)
    for secret in (one for one in objects if one["kind"] == "Secret"):
        secret["data"] = dict.fromkeys(secret["data"], NOT_SHOWN)
    values = public_values(launch.values.model_dump(mode="json"))
    return Preview(launch.key.verb, launch.key.name, launch.store, values, tuple(objects), plan.notes)


@dataclass(frozen=True, slots=True)
class Sources:
    """What the user gave: files, a mapping or model that wins over them, and `--set` texts that win over both.

    Attributes:
        files: Values files, later ones winning.
        sets: `path=value` texts, as for Helm's `--set`.
        values: Values from a Python program.
        name: The run's name; None derives one.
        store: The store's URL or folder; None uses the target's.
    """

    files: Sequence[str | os.PathLike[str]] = ()
    sets: Sequence[str] = ()
    values: Mapping[str, Any] | VerbValues | None = None
    name: str | None = None
    store: str | None = None


def plan_deliver(sources: Sources, runner: Runner) -> Plan:
    """Plan a delivery.

    Args:
        sources: What the user gave.
        runner: Where it will run.

    Raises:
        InvalidValuesError: If the values are not allowed, with every problem.
        NotFoundError: If a values file is not there.
        UsageError: If no name can be derived, or the given one is not allowed.
    """
    from tuneyard.values import DeliverValues

    notices: list[str] = []
    values = _load(DeliverValues, sources, notices, below=runner.defaults("deliver"))
    key = RunKey("deliver", _name(sources, Path(values.bucketModelPath or "").name))
    launch, notes = runner.prepare(Draft(key, values, sources.store))
    return Plan(launch, (*notices, *notes))


def plan_finetune(sources: Sources, runner: Runner, *, dry_run: bool = False) -> Plan:
    """Plan a finetuning run, and check that the base model and the data it names have been delivered.

    If this machine does not reach the store, the run itself checks.

    Args:
        sources: What the user gave.
        runner: Where it will run.
        dry_run: Whether the plan will only be shown: then a missing delivery is a notice, not an error.

    Raises:
        InvalidValuesError: If the values are not allowed, with every problem.
        NotFoundError: If a values file is not there, or, for a plan to launch, the base model or a dataset.
        UsageError: If no name can be derived, or the given one is not allowed.
    """
    from tuneyard.values import FinetuneValues

    notices: list[str] = []
    values = _load(FinetuneValues, sources, notices, below=runner.defaults("finetune"))
    name = _name(sources, Path(values.checkpointsRemote or "").name)
    experiment = values.checkpointsRemote or f"{EXPERIMENTS}/{name}"
    values = values.model_copy(update={"checkpointsRemote": experiment})
    launch, notes = runner.prepare(Draft(RunKey("finetune", name), values, sources.store, experiment=experiment))
    try:
        runner.check_inputs(launch)
    except NotFoundError as error:
        if not dry_run:
            raise
        notices.append(error.message)
    return Plan(launch, (*notices, *notes))


def plan_serve(
    sources: Sources, runner: Runner, *, run: str | None = None, merged: bool = False, port: int | None = None
) -> Plan:
    """Plan a server, of a finished run or of the model that the values name.

    Args:
        sources: What the user gave.
        runner: Where it will run, and where the run is looked up.
        run: A finetuning run's name; its `checkpoint-final` is served.
        merged: Whether to serve the run's `checkpoint-final-merged` instead.
        port: The port; None chooses a free one.

    Raises:
        InvalidValuesError: If the values are not allowed, with every problem.
        NotFoundError: If the run, or the model it should have published, is not there.
        UsageError: If neither a run nor values are given.
    """
    from tuneyard.values import InferenceValues

    if run is None and not (sources.files or sources.sets or sources.values):
        raise UsageError(
            "There is nothing to serve: neither a run nor values are named.",
            hint="Name a finished run (tuneyard serve NAME) or a values file (tuneyard serve -f FILE).",
        )
    trained = runner.find_trained(run, merged=merged, store=sources.store) if run is not None else None
    below, name = dict(runner.defaults("serve")), None
    if trained is not None:
        name = check_name(sources.name or trained.name)
        below |= trained.below
        own = (f"model=s3://{trained.model}", f"vllm_engine_args.served_model_name={name}", *trained.sets)
        sources = replace(sources, sets=[*own, *sources.sets])
    notices: list[str] = []
    values = _load(InferenceValues, sources, notices, below=below)
    draft = Draft(
        RunKey("serve", name or _name(sources, values.model.rstrip("/").rpartition("/")[2])),
        values,
        sources.store,
        fallback=trained.store if trained else None,
        experiment=trained.experiment if trained else None,
        port=port,
    )
    launch, notes = runner.prepare(draft)
    return Plan(launch, (*notices, *notes))


def load_finetune_values(sources: Sources, *, below: Mapping[str, Any] | None = None) -> FinetuneValues:
    """Resolve finetuning values without looking into any store.

    Args:
        sources: What the user gave.
        below: Values that everything else wins over.

    Raises:
        InvalidValuesError: If they are not allowed, with every problem.
        NotFoundError: If a values file is not there.
    """
    from tuneyard.values import FinetuneValues

    return _load(FinetuneValues, sources, [], below=below)


def _load(
    model: type[ValuesT], sources: Sources, notices: list[str], *, below: Mapping[str, Any] | None = None
) -> ValuesT:
    from tuneyard.values import load_values

    files = [Path(file) for file in sources.files]
    own = sources.values
    above = own if own is None or isinstance(own, Mapping) else own.model_dump(mode="json")
    return load_values(model, files, sources.sets, below=below, above=above, notice=notices.append)


def _name(sources: Sources, derived: str) -> str:
    if sources.name is not None:
        return check_name(sources.name)
    stem = Path(sources.files[-1]).stem if sources.files else ""
    name = nearest_name(derived) or nearest_name(stem)
    if not name:
        raise UsageError("The run needs a name.", hint="Give it one with --name.")
    return name
