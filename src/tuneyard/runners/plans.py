"""From values to a launch: what a verb will run, where and under which name.

Everything that can be known to be wrong with it is told here, before anything is started.

A plan reads values files and, where this machine reaches it, looks into the store; it starts nothing and writes
nothing. `Runner.launch` takes its `launch`. Verbs of the command line and of Python go through here alike, so
`--dry-run` shows exactly what would run.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from tuneyard.errors import NotFoundError, UsageError
from tuneyard.runners.base import Launch, Runner
from tuneyard.runners.info import RunInfo, RunKey, Verb
from tuneyard.runners.names import check_name, find_run, nearest_name

if TYPE_CHECKING:
    from tuneyard.store import Store
    from tuneyard.values import DeliverValues, FinetuneValues, InferenceValues

EXPERIMENTS = "default-bucket/experiments"
"""Where finetuning publishes when the values don't say: a folder of the run's name below this."""

_KEY_TO_COME = "to-come"
"""The Secret of a server's key before the server has a name: what values say of it is known, and wins."""

ValuesT = TypeVar("ValuesT", "DeliverValues", "FinetuneValues", "InferenceValues")


@dataclass(frozen=True, slots=True)
class Plan:
    """What will be run.

    Attributes:
        launch: What a runner takes.
        values: The resolved values.
        notes: What the user should know before it starts, each a sentence.
    """

    launch: Launch
    values: DeliverValues | FinetuneValues | InferenceValues
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Sources:
    """What the user gave: files, a mapping or model that wins over them, and `--set`s that win over both.

    Attributes:
        files: Values files, later ones winning.
        sets: `path=value` texts, as for Helm's `--set`.
        values: Values from a Python program.
        name: The run's name; None derives one.
        store: The store's URL or folder; None takes `TUNEYARD_STORE`, else the local store.
    """

    files: Sequence[str | os.PathLike[str]] = ()
    sets: Sequence[str] = ()
    values: Mapping[str, Any] | DeliverValues | FinetuneValues | InferenceValues | None = None
    name: str | None = None
    store: str | None = None


def plan_deliver(sources: Sources, runner: Runner | None = None) -> Plan:
    """Plan a delivery.

    Args:
        sources: What the user gave.
        runner: Where it will run; this machine where None.

    Raises:
        InvalidValuesError: If the values are not allowed, with every problem.
        NotFoundError: If a values file is not there.
        UsageError: If no name can be derived, or the one told is not allowed.
    """
    from tuneyard.values import DeliverValues

    notices: list[str] = []
    values = _load(DeliverValues, sources, notices)
    name = _name(sources, Path(values.bucketModelPath or "").name)
    if _is_elsewhere(runner):
        return _plan_elsewhere("deliver", name, values, sources, notices)
    return _plan("deliver", name, values, store_of(sources), notices)


def plan_finetune(sources: Sources, runner: Runner | None = None, *, dry_run: bool = False) -> Plan:
    """Plan a finetuning run, and look whether the base model and the data it names have been delivered.

    Where the store can't be reached from here, the run itself looks.

    Args:
        sources: What the user gave.
        runner: Where it will run; this machine where None.
        dry_run: Whether the plan is only to be looked at: then what is not delivered is a note, no error.

    Raises:
        InvalidValuesError: If the values are not allowed, with every problem.
        NotFoundError: If a values file is not there, or, for a plan to launch, the base model or a dataset.
        UsageError: If no name can be derived, or the one told is not allowed.
    """
    from tuneyard.values import FinetuneValues

    notices: list[str] = []
    values = _load(FinetuneValues, sources, notices)
    name = _name(sources, Path(values.checkpointsRemote or "").name)
    if not values.checkpointsRemote:
        values = values.model_copy(update={"checkpointsRemote": f"{EXPERIMENTS}/{name}"})
    if _is_elsewhere(runner):
        return _plan_elsewhere("finetune", name, values, sources, notices, experiment=values.checkpointsRemote)
    store = store_of(sources)
    try:
        _check_delivered(store, values)
    except NotFoundError as error:
        if not dry_run:
            raise
        notices.append(error.message)
    return _plan("finetune", name, values, store, notices, experiment=values.checkpointsRemote)


def plan_serve(
    sources: Sources, runner: Runner, *, run: str | None = None, merged: bool = False, port: int | None = None
) -> Plan:
    """Plan a server, of a finished run or of the model that the values name.

    Args:
        sources: What the user gave.
        runner: Where the run is looked up.
        run: A finetuning run's name; its `checkpoint-final` is served.
        merged: Whether to serve the run's `checkpoint-final-merged` instead.
        port: The port; None takes a free one.

    Raises:
        InvalidValuesError: If the values are not allowed, with every problem.
        NotFoundError: If the run, or what it should have published, is not there.
        UsageError: If neither a run nor values are given.
    """
    from tuneyard.values import InferenceValues

    notices: list[str] = []
    if run is None:
        if not (sources.files or sources.sets or sources.values):
            raise UsageError(
                "There is nothing to serve: neither a run nor values are named.",
                hint="Name a finished run (tuneyard serve NAME) or a values file (tuneyard serve -f FILE).",
            )
        below = {"apiKeySecret": {"name": _KEY_TO_COME}} if _is_elsewhere(runner) else None
        values = _load(InferenceValues, sources, notices, below=below)
        name = _name(sources, values.model.rstrip("/").rpartition("/")[2])
        if _is_elsewhere(runner):
            return _plan_elsewhere("serve", name, values, sources, notices, port=port)
        return _plan("serve", name, values, store_of(sources), notices, port=port)
    info = _finetuning_run(runner, run)
    if _is_elsewhere(runner):
        return _plan_serve_elsewhere(sources, runner, info, run, merged=merged, port=port)
    store = store_of(sources, info.store if info else None)
    name = check_name(sources.name or (info.name if info else run))
    experiment = (info.experiment if info else None) or f"{EXPERIMENTS}/{run}"
    final = f"{experiment}/{'checkpoint-final-merged' if merged else 'checkpoint-final'}"
    _check_final(store, final, run, info)
    told = _told_accelerator(runner, info)
    model = [f"model=s3://{final}", f"vllm_engine_args.served_model_name={name}", *told]
    # Before the user's own, so that anything of it can be told otherwise.
    values = _load(InferenceValues, Sources(sources.files, [*model, *sources.sets], sources.values), notices)
    return _plan("serve", name, values, store, notices, port=port, experiment=experiment)


def _plan(
    verb: Verb,
    name: str,
    values: DeliverValues | FinetuneValues | InferenceValues,
    store: Store,
    notices: Sequence[str],
    *,
    experiment: str | None = None,
    port: int | None = None,
) -> Plan:
    from tuneyard.values import canonical_json, cluster_only_keys

    launch = Launch(RunKey(verb, name), canonical_json(values), store.url, experiment=experiment, port=port)
    keys = cluster_only_keys(values)
    notes = [f"On this machine these keys don't apply: {', '.join(keys)}."] if keys else []
    return Plan(launch, values, (*notices, *notes))


def _is_elsewhere(runner: Runner | None) -> bool:
    return runner is not None and not runner.store_is_here


def _plan_elsewhere(
    verb: Verb,
    name: str,
    values: DeliverValues | FinetuneValues | InferenceValues,
    sources: Sources,
    notices: Sequence[str],
    *,
    experiment: str | None = None,
    port: int | None = None,
) -> Plan:
    """Plan for a cluster: the store is the values' own, and nothing is looked up in it from here."""
    from tuneyard.values import InferenceValues, canonical_json

    host = "bucket_storage.host" if verb == "serve" else "bucketStorageHost"
    if sources.store is not None:
        raise UsageError(
            "--store means nothing in a cluster.", hint=f"Name the store there: --set {host}={sources.store}"
        )
    if port is not None:
        raise UsageError(
            "--port means nothing in a cluster: tuneyard chat finds its own way.",
            hint="The container's port is the value port: --set port=8000",
        )
    if isinstance(values, InferenceValues):
        store = values.bucket_storage.host
        if values.apiKeySecret.name in ("", _KEY_TO_COME):
            secret = values.apiKeySecret.model_copy(update={"name": f"{name}-api-key"})
            values = values.model_copy(update={"apiKeySecret": secret})
    else:
        store = values.bucketStorageHost
    return Plan(
        Launch(RunKey(verb, name), canonical_json(values), store, experiment=experiment), values, tuple(notices)
    )


def _plan_serve_elsewhere(
    sources: Sources, runner: Runner, info: RunInfo | None, run: str, *, merged: bool, port: int | None
) -> Plan:
    from tuneyard.values import InferenceValues

    if info is None:
        raise NotFoundError(
            f"There is no finetuning run named {run!r} in this namespace.",
            hint=f"See which there are: tuneyard runs{runner.words}   Or name what is in the store: "
            f"--set model=s3://{EXPERIMENTS}/{run}/checkpoint-final",
        )
    trained = runner.values(info.key)
    final = "checkpoint-final-merged" if merged else "checkpoint-final"
    if info.status != "succeeded" or (merged and not trained.get("mergeAdapter")):
        hint = {
            "succeeded": "Finetune with --set mergeAdapter=true to get a merged model, or leave --merged out.",
            "failed": f"See why: tuneyard logs {info.key}{runner.words}   If only the merge failed: "
            f"tuneyard serve{runner.words} --set model=s3://{info.experiment}/checkpoint-final",
            "stopped": "Launch it again with tuneyard finetune and the same values.",
        }.get(info.status, f"Wait for it: tuneyard watch {info.key}{runner.words}")
        raise NotFoundError(f"The run {run!r} has published no {final}; it is {info.status}.", hint=hint)
    name = check_name(sources.name or info.name)
    notices: list[str] = []
    below = {
        **_inherited(trained),
        "apiKeySecret": {"name": _KEY_TO_COME},
        "model": f"s3://{info.experiment}/{final}",
        "vllm_engine_args": {"served_model_name": name},
    }
    values = _load(InferenceValues, sources, notices, below=below)
    return _plan_elsewhere("serve", name, values, sources, notices, experiment=info.experiment, port=port)


def _inherited(trained: Mapping[str, Any]) -> dict[str, Any]:
    """Take from a run's values what holds for the place it ran in: store, keys, authorities, accelerators, images."""
    credentials = trained.get("bucketCredentialsSecret") or {}
    same = ("bucketCABundle", "gpuResource", "imagePullPolicy", "imagePullSecrets", "podSecurityContext", "tolerations")
    return {
        **{key: trained[key] for key in same if key in trained},
        "bucket_storage": {
            "host": trained.get("bucketStorageHost") or "",
            "credentials": {
                "secret_name": credentials.get("name"),
                "access_key_key": credentials.get("accessKeyKey"),
                "secret_key_key": credentials.get("secretKeyKey"),
            },
        },
        "storage": {"storageClassName": trained.get("storageClass") or ""},
    }


def _load(
    model: type[ValuesT], sources: Sources, notices: list[str], *, below: Mapping[str, Any] | None = None
) -> ValuesT:
    from tuneyard.values import canonical_json, load_values

    files = [Path(file) for file in sources.files]
    if sources.values is None and below is None:
        return load_values(model, files, sources.sets, notice=notices.append)
    # As files, so that a Python program's values are resolved by the same rules as everything else.
    with tempfile.TemporaryDirectory(prefix="tuneyard-values-") as folder:
        if below is not None:
            lowest = Path(folder) / "lowest.json"
            lowest.write_bytes(json.dumps(below).encode())
            files.insert(0, lowest)
        if (own := sources.values) is not None:
            files.append(Path(folder) / "values.yaml")
            files[-1].write_bytes(json.dumps(dict(own)).encode() if isinstance(own, Mapping) else canonical_json(own))
        return load_values(model, files, sources.sets, notice=notices.append)


def _name(sources: Sources, derived: str) -> str:
    if sources.name is not None:
        return check_name(sources.name)
    stem = Path(sources.files[-1]).stem if sources.files else ""
    name = nearest_name(derived) or nearest_name(stem)
    if not name:
        raise UsageError("The run needs a name.", hint="Give it one with --name.")
    return name


def load_finetune_values(sources: Sources) -> FinetuneValues:
    """Resolve finetuning values without looking into any store.

    Raises:
        InvalidValuesError: If they are not allowed, with every problem.
        NotFoundError: If a values file is not there.
    """
    from tuneyard.values import FinetuneValues

    return _load(FinetuneValues, sources, [])


def store_of(sources: Sources, fallback: str | None = None) -> Store:
    """Open the configured store: `--store`, `TUNEYARD_STORE`, the fallback, or the local one, in this order.

    Args:
        sources: What the user gave.
        fallback: The store that is preferred to the local one.

    Raises:
        InvalidValuesError: If what names it is neither a URL nor clearly a path.
    """
    from tuneyard.store import find_store

    return find_store(sources.store, fallback=fallback)


def _check_delivered(store: Store, values: FinetuneValues) -> None:
    from tuneyard.delivery import find_dataset
    from tuneyard.models import find_base

    find_base(store, values.basemodel)
    for path in _datasets(values):
        find_dataset(store, path)


def _datasets(values: FinetuneValues) -> Iterable[str]:
    data = values.finetuning_config.data_conf
    for part in (data.training_data, data.validation_data):
        for dataset in getattr(part, "datasets", None) or ():
            yield dataset.path


def _finetuning_run(runner: Runner, run: str) -> RunInfo | None:
    try:
        return find_run(runner.list("finetune"), run, verbs=("finetune",), words="tuneyard serve", target=runner.words)
    except NotFoundError:
        return None  # one of another machine, whose experiment may still be in the store


def _check_final(store: Store, final: str, run: str, info: RunInfo | None) -> None:
    from tuneyard.store import place_of_result

    if info is None:
        sentence = f"There is no finetuning run named {run!r}, and nothing at {final} in {store.url}."
        hint = "See which there are: tuneyard runs"
    else:
        sentence = f"The run {run!r} has published no {final.rpartition('/')[2]}; it is {info.status}."
        hint = {
            "running": f"Wait for it: tuneyard watch {run}",
            "succeeded": "Finetune with --set mergeAdapter=true to get a merged model, or leave --merged out.",
        }.get(info.status, f"See why: tuneyard logs {run}")
    manifest = place_of_result(final).manifest_key
    try:
        store.head(manifest)
    except NotFoundError as error:
        raise NotFoundError(sentence, hint=hint, key=manifest, store=store.url) from error


def _told_accelerator(runner: Runner, info: RunInfo | None) -> list[str]:
    """A model that was trained without an accelerator here is served without one, unless told otherwise."""
    if info is None:
        return []
    values = runner.values(info.key)
    return ["gpuResource="] if values.get("gpuResource") == "" else []
