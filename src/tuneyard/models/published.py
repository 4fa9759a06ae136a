"""Models in a store: what a delivery brought, and what a finetuning has published. Each is what its manifest names."""

from __future__ import annotations

from tuneyard.errors import InvalidValuesError, NotFoundError, Problem
from tuneyard.store import Kind, Manifest, Store, read_manifest
from tuneyard.whereabouts import command

MANIFESTS = (".tuneyard/manifest.json", "manifest.json")
"""Where a model's manifest lies below its key: of a delivered one, and of one that a finetuning has published."""

ADAPTER_CONFIG = "adapter_config.json"

_MERGED = "checkpoint-final-merged"
_NO_MODELS: dict[Kind, str] = {"checkpoint": "a checkpoint to go on training from", "dataset": "a dataset"}


def find_manifest(store: Store, key: str) -> Manifest:
    """Read the manifest of what lies at a key.

    Args:
        store: Where it lies.
        key: Its key, with or without a `/` at its end.

    Raises:
        NotFoundError: There is none.
        IntegrityError: It is damaged.
    """
    key = key.rstrip("/")
    for name in MANIFESTS:
        try:
            return read_manifest(store, f"{key}/{name}")
        except NotFoundError:
            continue
    raise NotFoundError(
        f"There is no model at {key} in {store.url}, or it is not finished: it has no manifest.",
        hint=_how_it_comes(key),
        key=key,
        store=store.url,
    )


def find_base(store: Store, key: str) -> Manifest:
    """Read the manifest of a base model: one that was delivered, or the whole model that a finetuning has published.

    Args:
        store: Where it lies.
        key: The values' `basemodel`.

    Raises:
        NotFoundError: There is none.
        IntegrityError: Its manifest is damaged.
        InvalidValuesError: What lies there is no whole model: an adapter, a checkpoint or a dataset.
    """
    key = key.rstrip("/")
    manifest = find_manifest(store, key)
    if no_model := kind_in_words(manifest.kind):
        raise _no_base(key, no_model, f"Name a delivered model, or a run's {_MERGED}.")
    if is_adapter(manifest):
        raise _no_base(key, "an adapter, and no whole model", _merged_of(store, key, manifest))
    return manifest


def is_adapter(manifest: Manifest) -> bool:
    """Whether a manifest is that of an adapter, which needs its base model."""
    return any(entry.path == ADAPTER_CONFIG for entry in manifest.files)


def kind_in_words(kind: Kind) -> str:
    """Say what a manifest's files are where they are no model; an empty text where they are one."""
    return _NO_MODELS.get(kind, "")


def _how_it_comes(key: str) -> str:
    if key.rpartition("/")[2].startswith("checkpoint-"):
        return f"Wait for the run that publishes it, or look at what it published: {command('tuneyard runs')}"
    return f"Deliver it first: tuneyard deliver --set modelID=… --set bucketModelPath={key}"


def _merged_of(store: Store, key: str, manifest: Manifest) -> str:
    """Say how the adapter's whole model is had: the merged one, which lies beside it or is still to be made."""
    experiment, _, name = key.rpartition("/")
    if manifest.kind != "final" or name != "checkpoint-final":
        return "Name the model that it was trained on; what is trained on that can be served beside this adapter."
    merged = f"{experiment}/{_MERGED}"
    try:
        find_manifest(store, merged)
    except NotFoundError:
        return f"Launch its run again with --set mergeAdapter=true, and then name {merged}."
    return f"Name its merged model: --set basemodel={merged}"


def _no_base(key: str, what: str, hint: str) -> InvalidValuesError:
    problem = Problem("basemodel", f"is {what}", key, f"a delivered model, or a run's {_MERGED}")
    return InvalidValuesError(f"The base model {key} is {what}.", hint=hint, problems=[problem])
