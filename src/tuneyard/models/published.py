"""Models in a store: those delivered, and those that a run has published. Each consists of what its manifest names."""

from __future__ import annotations

from tuneyard.errors import InvalidValuesError, NotFoundError, Problem
from tuneyard.store import Kind, Manifest, Store, find_model_manifest
from tuneyard.whereabouts import command

ADAPTER_CONFIG = "adapter_config.json"

_MERGED = "checkpoint-final-merged"
_NO_MODELS: dict[Kind, str] = {"checkpoint": "a checkpoint to resume training from", "dataset": "a dataset"}


def find_manifest(store: Store, key: str) -> Manifest:
    """Read the manifest of the model at a key.

    Args:
        store: The store.
        key: Its key, with or without a trailing `/`.

    Raises:
        NotFoundError: There is none.
        IntegrityError: It is damaged.
    """
    key = key.rstrip("/")
    if manifest := find_model_manifest(store, key):
        return manifest
    raise NotFoundError(
        f"There is no model at '{key}' in '{store.url}', or it is incomplete: it has no manifest.",
        hint=_how_to_get(key),
        key=key,
        store=store.url,
    )


def find_base(store: Store, key: str) -> Manifest:
    """Read the manifest of a base model: a delivered one, or a full model that a run has published.

    Args:
        store: The store.
        key: The values' `basemodel`.

    Raises:
        NotFoundError: There is none.
        IntegrityError: Its manifest is damaged.
        InvalidValuesError: There is an adapter, a checkpoint or a dataset instead of a full model.
    """
    key = key.rstrip("/")
    manifest = find_manifest(store, key)
    if other := kind_in_words(manifest.kind):
        raise _no_base(key, other, f"Name a delivered model, or a run's {_MERGED}.")
    if is_adapter(manifest):
        raise _no_base(key, "an adapter, not a full model", _merged_of(store, key, manifest))
    return manifest


def is_adapter(manifest: Manifest) -> bool:
    """Whether a manifest is that of an adapter, which needs its base model."""
    return any(entry.path == ADAPTER_CONFIG for entry in manifest.files)


def kind_in_words(kind: Kind) -> str:
    """Describe a manifest's files where they are not a model; empty where they are."""
    return _NO_MODELS.get(kind, "")


def _how_to_get(key: str) -> str:
    if key.rpartition("/")[2].startswith("checkpoint-"):
        return f"Wait for the run that publishes it, or check what it has published: {command('tuneyard runs')}"
    return f"Deliver it first: tuneyard deliver --set modelID=… --set bucketModelPath={key}"


def _merged_of(store: Store, key: str, manifest: Manifest) -> str:
    """Return the hint how to get the adapter's merged model, which lies beside it or has still to be published."""
    experiment, _, name = key.rpartition("/")
    if manifest.kind != "final" or name != "checkpoint-final":
        return "Name the model that it was trained on; adapters of one base can be served together."
    merged = f"{experiment}/{_MERGED}"
    try:
        find_manifest(store, merged)
    except NotFoundError:
        return f"Launch its run again with --set mergeAdapter=true, and then name {merged}."
    return f"Name its merged model: --set basemodel={merged}"


def _no_base(key: str, what: str, hint: str) -> InvalidValuesError:
    problem = Problem("basemodel", f"is {what}", key, f"a delivered model, or a run's {_MERGED}")
    return InvalidValuesError(f"The base model '{key}' is {what}.", hint=hint, problems=[problem])
