"""Delivers a model: pins its source, chooses its files, and brings them to the store."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from typing import Any, cast

from tuneyard.delivery.report import Delivered, tell
from tuneyard.delivery.selection import select_model
from tuneyard.delivery.sources import open_source
from tuneyard.delivery.tree import Target, deliver_tree, object_sizes
from tuneyard.delivery.weights import check_weights
from tuneyard.errors import ConflictError, IntegrityError, InvalidValuesError, NotFoundError, Problem, UnavailableError
from tuneyard.hub import Hub
from tuneyard.store import Manifest, Store, read_manifest

_OWN = ".tuneyard"
_COMMIT = re.compile(r"[0-9a-f]{40}")


def model_target(store: Store, path: str) -> Target:
    """Say where a model, its manifest and its journal lie.

    Args:
        store: The store.
        path: The `bucketModelPath`, without a `/` at its end.
    """
    return Target(
        store=store,
        prefix=f"{path}/",
        manifest_key=f"{path}/{_OWN}/manifest.json",
        journal_key=f"{path}/{_OWN}/delivering.json",
        kind="model",
        key=path,
        setting="bucketModelPath",
    )


def deliver_model(
    store: Store,
    path: str,
    model_id: str,
    *,
    revision: str,
    exclude: tuple[str, ...],
    allow_overwrite: bool,
    hub: Callable[[], Hub],
    stop: threading.Event,
) -> Delivered:
    """Bring a model to the store.

    A model that is pinned to a commit and is there, from that commit and with the same excludes, is not even asked for.

    Args:
        store: Where to.
        path: The `bucketModelPath`, without a `/` at its end.
        model_id: Which model; `sources.open_source` says in which forms.
        revision: A branch, a tag or a commit of the Hub's.
        exclude: Globs of files to leave out.
        allow_overwrite: Replace another model that is there.
        hub: Opens the Hub, where one is needed.
        stop: As for `deliver_tree`.

    Returns:
        What was done.

    Raises:
        InvalidValuesError: The id names no source, or the very place that is delivered to.
        InvalidDataError: Nothing of it may be delivered, or it is not whole.
        ConflictError: Another model is there, and `allow_overwrite` is false; or a finetuning's result is.
        IntegrityError: A file is not what its source declares.
        NotFoundError, DeniedError, UnavailableError: The source or the store is not there or can't be had.
    """
    target = model_target(store, path)
    if model_id.removeprefix("s3://").strip("/") == path and model_id.startswith("s3://"):
        raise InvalidValuesError(
            f"The model {model_id} would be delivered onto itself.",
            hint="Choose another bucketModelPath.",
            problems=[Problem(where="bucketModelPath", what="is where the model comes from", value=path)],
        )
    _check_no_result(target)
    there = _pinned_and_there(target, model_id, revision, exclude)
    if there is not None:
        return there
    try:
        source = open_source(model_id, revision, store=store, hub=hub)
    except UnavailableError as error:
        raise _with_pin(error, target, model_id) from error
    selection = select_model(source.files, exclude=exclude, name=source.name)
    for notice in selection.notices:
        tell(notice)
    sizes = {file.path: file.size for file in selection.files}
    by_path = {file.path: file for file in selection.files}
    from_hub = source.about["kind"] == "hub"
    if not from_hub:
        check_weights(source.name, sizes, lambda path: source.read(by_path[path]))
    return deliver_tree(
        target,
        source,
        selection,
        about={"exclude": list(exclude)},
        allow_overwrite=allow_overwrite,
        stop=stop,
        # What a hub sends is looked into once it is verified and here, so that nothing is asked for twice.
        check=lambda: (
            check_weights(source.name, sizes, lambda path: store.read(target.prefix + path)) if from_hub else None
        ),
    )


def _check_no_result(target: Target) -> None:
    """Never write over what a finetuning has published, whatever may be overwritten."""
    try:
        manifest = read_manifest(target.store, f"{target.prefix}manifest.json")
    except (NotFoundError, IntegrityError):  # a model may have a file of this name
        return
    own = [key.removeprefix(target.prefix) for key in (target.manifest_key, target.journal_key)]
    if manifest.kind in ("final", "checkpoint") and not object_sizes(target, own):
        raise ConflictError(
            f"What lies at {target.key} in {target.store.url} is the result of a finetuning.",
            hint="Choose another bucketModelPath.",
            key=target.key,
        )


def _with_pin(error: UnavailableError, target: Target, model_id: str) -> UnavailableError:
    """Where the model was delivered before, add how to use it without asking the Hub."""
    try:
        facts = _hub_facts(read_manifest(target.store, target.manifest_key))
    except (NotFoundError, IntegrityError):
        return error
    if facts.get("modelID") != model_id:
        return error
    hint = f"To use what was delivered before without asking the Hub: --set modelRevision={facts['commit']}"
    return UnavailableError(error.message, hint=hint, **error.details)


def _pinned_and_there(target: Target, model_id: str, revision: str, exclude: tuple[str, ...]) -> Delivered | None:
    if not _COMMIT.fullmatch(revision):
        return None
    try:
        manifest = read_manifest(target.store, target.manifest_key)
    except (NotFoundError, IntegrityError):  # what to do about it is decided with the source at hand
        return None
    facts = _hub_facts(manifest)
    if (facts.get("modelID"), facts.get("commit"), manifest.about.get("exclude")) != (
        model_id,
        revision,
        list(exclude),
    ):
        return None
    sizes = object_sizes(target, [entry.path for entry in manifest.files])
    if any(sizes.get(entry.path) != entry.size for entry in manifest.files):
        return None
    return Delivered(
        key=target.key,
        status="unchanged",
        source=f"{model_id} at {revision[:12]}",
        content_sha256=manifest.content_sha256,
        files=len(manifest.files),
        size=manifest.size,
        left_out=tuple(manifest.about.get("left_out", ())),
    )


def _hub_facts(manifest: Manifest) -> dict[str, Any]:
    source: Any = manifest.about.get("source")
    return cast("dict[str, Any]", source) if isinstance(source, dict) else {}
