"""Delivers a model: pins its source, selects its files and copies them to the store."""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

from tuneyard.delivery.report import Delivered
from tuneyard.delivery.selection import select_model
from tuneyard.delivery.sources import open_source
from tuneyard.delivery.tree import Target, deliver_tree, object_sizes
from tuneyard.delivery.weights import check_weights
from tuneyard.errors import ConflictError, IntegrityError, InvalidValuesError, NotFoundError, Problem, UnavailableError
from tuneyard.store import Manifest, Store, place_of_model, place_of_result, read_manifest

if TYPE_CHECKING:
    from tuneyard.hub import Hub

logger = logging.getLogger(__name__)

_COMMIT = re.compile(r"[0-9a-f]{40}")


def model_target(store: Store, path: str) -> Target:
    """Return the target of a model.

    Args:
        store: The store.
        path: The `bucketModelPath`, without a trailing `/`.
    """
    return Target(store, place_of_model(path), setting="bucketModelPath")


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
    """Deliver a model.

    Where it is pinned to a commit and was delivered from that commit with the same excludes, the Hub is not contacted.

    Args:
        store: The store to deliver to.
        path: The `bucketModelPath`, without a trailing `/`.
        model_id: The model, in one of the forms that `sources.open_source` takes.
        revision: A branch, tag or commit on the Hub.
        exclude: Globs of files to leave out.
        allow_overwrite: Replace another model.
        hub: Opens the Hub where it is needed.
        stop: As for `deliver_tree`.

    Returns:
        What was delivered.

    Raises:
        InvalidValuesError: The id names no source, or the target itself.
        InvalidDataError: None of its files may be delivered, or it is incomplete.
        ConflictError: Another model is there and `allow_overwrite` is false, or the result of a run is.
        IntegrityError: A file differs from what its source declares.
        NotFoundError, DeniedError, UnavailableError: The source or the store is missing, denied or unreachable.
    """
    target = model_target(store, path)
    if model_id.removeprefix("s3://").strip("/") == path and model_id.startswith("s3://"):
        raise InvalidValuesError(
            f"The model '{model_id}' would be delivered onto itself.",
            hint="Choose another bucketModelPath.",
            problems=[Problem(where="bucketModelPath", what="is where the model comes from", value=path)],
        )
    _refuse_result(target)
    delivered = _delivered_before(target, model_id, revision, exclude)
    if delivered is not None:
        return delivered
    try:
        source = open_source(model_id, revision, store=store, hub=hub)
    except UnavailableError as error:
        raise _with_pin(error, target, model_id) from error
    selection = select_model(source.files, exclude=exclude, name=source.name)
    for notice in selection.notices:
        logger.info("%s", notice)
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
        # Files from the Hub are checked once they are in the store, so that none is fetched twice.
        check=lambda: (
            check_weights(source.name, sizes, lambda path: store.read(target.place.prefix + path)) if from_hub else None
        ),
    )


def _refuse_result(target: Target) -> None:
    """Refuse to overwrite what a run has published, whatever `allowOverwrite` is."""
    try:
        manifest = read_manifest(target.store, place_of_result(target.place.key).manifest_key)
    except (NotFoundError, IntegrityError):  # a model may contain a file of this name
        return
    own = [key.removeprefix(target.place.prefix) for key in (target.place.manifest_key, target.place.journal_key)]
    if manifest.kind in ("final", "checkpoint") and not object_sizes(target, own):
        raise ConflictError(
            f"A run has published its result at '{target.place.key}' in '{target.store.url}'.",
            hint="Choose another bucketModelPath.",
            key=target.place.key,
        )


def _with_pin(error: UnavailableError, target: Target, model_id: str) -> UnavailableError:
    """Where the model was delivered before, add the hint how to use it without the Hub."""
    try:
        facts = _hub_facts(read_manifest(target.store, target.place.manifest_key))
    except (NotFoundError, IntegrityError):
        return error
    if facts.get("modelID") != model_id:
        return error
    hint = f"To use the model as delivered before, without the Hub: --set modelRevision={facts['commit']}"
    return UnavailableError(error.message, hint=hint, **error.details)


def _delivered_before(target: Target, model_id: str, revision: str, exclude: tuple[str, ...]) -> Delivered | None:
    if not _COMMIT.fullmatch(revision):
        return None
    try:
        manifest = read_manifest(target.store, target.place.manifest_key)
    except (NotFoundError, IntegrityError):  # handled once the source is open
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
        key=target.place.key,
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
