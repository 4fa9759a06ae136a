"""What a cluster decides about a launch before it is made: its store, a server's key, and a trained model's place.

The store is the one that the values configure, as pods reach it; nothing is read from it here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from tuneyard.errors import NotFoundError, UsageError
from tuneyard.runners.base import Draft, Launch, Runner, Trained
from tuneyard.runners.info import Verb
from tuneyard.runners.names import find_run
from tuneyard.runners.plans import EXPERIMENTS

if TYPE_CHECKING:
    pass

_PLACEHOLDER = "to-come"
"""Placeholder for the Secret of a server's API key until the server has a name; a name in the values wins."""
_SAME_PLACE = (
    "bucketCABundle",
    "gpuResource",
    "imagePullPolicy",
    "imagePullSecrets",
    "podSecurityContext",
    "tolerations",
)


def defaults(verb: Verb) -> Mapping[str, Any]:
    """Return the values that a cluster sets below the user's files: a server's API key, unless its values name one.

    Args:
        verb: Whose values.
    """
    return {"apiKeySecret": {"name": _PLACEHOLDER}} if verb == "serve" else {}


def prepare(draft: Draft) -> Launch:
    """Make a launch with the store that its values configure; see `Runner.prepare`."""
    from tuneyard.values import InferenceValues

    values = draft.values
    serves = isinstance(values, InferenceValues)
    if draft.store is not None:
        host = "bucket_storage.host" if serves else "bucketStorageHost"
        raise UsageError("--store is for this machine.", hint=f"Set the cluster's store: --set {host}={draft.store}")
    if draft.port is not None:
        raise UsageError(
            "--port is for this machine: in a cluster, tuneyard chat forwards a port itself.",
            hint="Set the container's port: --set port=8000",
        )
    if not serves:
        return Launch(draft.key, values, values.bucketStorageHost, experiment=draft.experiment)
    if values.apiKeySecret.name in ("", _PLACEHOLDER):
        secret = values.apiKeySecret.model_copy(update={"name": api_key_secret(draft.key.name)})
        values = values.model_copy(update={"apiKeySecret": secret})
    return Launch(draft.key, values, values.bucket_storage.host, experiment=draft.experiment)


def api_key_secret(name: str) -> str:
    """Return the name of the Secret that is created for a server's key.

    Args:
        name: The server's name.
    """
    return f"{name}-api-key"


def find_trained(runner: Runner, run: str, *, merged: bool) -> Trained:
    """Find the model of a run in the namespace; see `Runner.find_trained`."""
    final = "checkpoint-final-merged" if merged else "checkpoint-final"
    try:
        runs = runner.list("finetune")
        info = find_run(runs, run, verbs=("finetune",), command="tuneyard serve", options=runner.options)
    except NotFoundError as error:
        raise NotFoundError(
            f"There is no finetuning run named {run!r} in this namespace.",
            hint=f"List the runs: tuneyard runs{runner.options}   Or name a model in the store: "
            f"--set model=s3://{EXPERIMENTS}/{run}/checkpoint-final",
        ) from error
    trained = runner.values(info.key)
    if info.status != "succeeded" or (merged and not trained.get("mergeAdapter")):
        hint = {
            "succeeded": "Finetune with --set mergeAdapter=true to get a merged model, or omit --merged.",
            "failed": f"See why: tuneyard logs {info.key}{runner.options}   If only the merge failed: "
            f"tuneyard serve{runner.options} --set model=s3://{info.experiment}/checkpoint-final",
            "stopped": "Launch it again with tuneyard finetune and the same values.",
        }.get(info.status, f"Wait for it: tuneyard watch {info.key}{runner.options}")
        raise NotFoundError(f"The run {run!r} has not published {final}; it is {info.status}.", hint=hint)
    assert info.experiment, "a run in a cluster is launched with checkpointsRemote"
    return Trained(info.name, info.experiment, f"{info.experiment}/{final}", below=_same_place(trained))


def _same_place(trained: Mapping[str, Any]) -> dict[str, Any]:
    """Return the part of a run's values about its cluster: store, keys, authorities, accelerators and images."""
    credentials = trained.get("bucketCredentialsSecret") or {}
    return {
        **{key: trained[key] for key in _SAME_PLACE if key in trained},
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
