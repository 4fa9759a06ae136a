"""Delivers the datasets that a `dataScript` writes, each with its own manifest.

The script is not run where every file that it writes is already in the store, under manifests that name this very
script. Only its text is compared: to fetch what its sources hold today, set `allowOverwrite`.
"""

from __future__ import annotations

import hashlib
import logging
import threading
from pathlib import Path
from typing import Any, cast

from tuneyard.delivery.report import Delivered
from tuneyard.delivery.script import produced_files
from tuneyard.delivery.selection import Selection
from tuneyard.delivery.sources import FolderSource
from tuneyard.delivery.tree import Target, deliver_tree, object_sizes
from tuneyard.errors import IntegrityError, InvalidDataError, InvalidValuesError, NotFoundError
from tuneyard.store import (
    OWN_FOLDER,
    Manifest,
    Store,
    check_relative,
    place_of_dataset,
    place_with_manifest,
    read_manifest,
)
from tuneyard.whereabouts import command

logger = logging.getLogger(__name__)


def dataset_target(store: Store, key: str) -> Target:
    """Return the target of a dataset.

    Args:
        store: The store.
        key: The dataset's key.
    """
    return Target(store, place_of_dataset(key), setting="bucketDataDir")


def find_dataset(store: Store, key: str) -> Manifest:
    """Read the manifest of a delivered dataset.

    Args:
        store: Where it lies.
        key: Its key.

    Raises:
        NotFoundError: It has not been delivered, or its delivery has not finished.
        IntegrityError: The manifest is damaged, or names anything but that file.
    """
    place = place_of_dataset(key)
    name = key.removeprefix(place.prefix)
    try:
        manifest = read_manifest(store, place.manifest_key)
    except NotFoundError as error:
        raise NotFoundError(
            f"The dataset '{key}' has not been delivered to '{store.url}', or its delivery has not finished.",
            hint=f"Deliver it with bucketDataDir '{place.prefix}' and a dataScript that writes '{name}': "
            + command("tuneyard deliver"),
            key=key,
            store=store.url,
        ) from error
    manifest.check_only(name, where=place.manifest_key)
    return manifest


def delivered_before(store: Store, folder: str, script: str) -> tuple[Delivered, ...] | None:
    """Find every dataset that a script writes.

    Args:
        store: The store.
        folder: The `bucketDataDir`, without a trailing `/`.
        script: The script's text.

    Returns:
        The datasets, where all are delivered under manifests that name this script; else None.
    """
    wanted = script_sha256(script)
    for info in store.list(f"{folder}/{OWN_FOLDER}/"):
        place = place_with_manifest(info.key)
        if place is None or place.kind != "dataset":
            continue
        manifest = _readable(store, info.key)
        outputs = None if manifest is None else _outputs(manifest, wanted)
        if outputs is not None:
            found = [_whole(dataset_target(store, f"{folder}/{name}"), wanted) for name in outputs]
            whole = tuple(delivered for delivered in found if delivered is not None)
            return whole if len(whole) == len(found) else None
    return None


def deliver_datasets(
    store: Store,
    folder: str,
    script: str,
    output: Path,
    *,
    allow_overwrite: bool,
    stop: threading.Event,
) -> tuple[Delivered, ...]:
    """Deliver what a `dataScript` wrote; the rows themselves are not checked.

    Args:
        store: The store to deliver to.
        folder: The `bucketDataDir`, without a trailing `/`.
        script: The script's text.
        output: The folder that it wrote to.
        allow_overwrite: Replace datasets that differ.
        stop: As for `deliver_tree`.

    Returns:
        Each dataset, sorted by key.

    Raises:
        InvalidDataError: What it wrote can't be delivered.
        ConflictError: A dataset with other content is there.
    """
    names = produced_files(output)
    rows = {name: _count_rows(output / name) for name in names if name.endswith(".jsonl")}
    delivered: list[Delivered] = []
    for name in names:
        about: dict[str, Any] = {
            "source": {"kind": "dataScript", "script_sha256": script_sha256(script), "outputs": list(names)}
        }
        if name in rows:
            about["rows"] = rows[name]
        target = dataset_target(store, f"{folder}/{name}")
        file = Path(name)
        source = FolderSource(output / file.parent, only=(file.name,), name=f"{name} of the dataScript")
        selection = Selection(files=source.files)
        delivered.append(
            deliver_tree(target, source, selection, about=about, allow_overwrite=allow_overwrite, stop=stop)
        )
    return tuple(sorted(delivered, key=lambda one: one.key))


def script_sha256(script: str) -> str:
    """Return the SHA-256 of a script's text."""
    return hashlib.sha256(script.encode()).hexdigest()


def _readable(store: Store, key: str) -> Manifest | None:
    try:
        return read_manifest(store, key)
    except (NotFoundError, IntegrityError):  # a damaged one is reported when its own dataset is delivered
        return None


def _outputs(manifest: Manifest, script: str) -> list[str] | None:
    source: Any = manifest.about.get("source")
    if not isinstance(source, dict):
        return None
    facts = cast("dict[str, Any]", source)
    outputs: Any = facts.get("outputs")
    if facts.get("script_sha256") != script or not isinstance(outputs, list):
        return None
    names = [str(name) for name in cast("list[Any]", outputs)]
    try:
        return [check_relative(name) for name in names]
    except InvalidValuesError:  # a name that leads out of the folder is no output of a script
        return None


def _whole(target: Target, script: str) -> Delivered | None:
    manifest = _readable(target.store, target.place.manifest_key)
    if manifest is None or [target.place.prefix + entry.path for entry in manifest.files] != [target.place.key]:
        return None
    sizes = object_sizes(target, [entry.path for entry in manifest.files])
    if _outputs(manifest, script) is None or any(sizes.get(entry.path) != entry.size for entry in manifest.files):
        return None
    return Delivered(
        key=target.place.key,
        status="unchanged",
        source="dataScript",
        content_sha256=manifest.content_sha256,
        files=len(manifest.files),
        size=manifest.size,
    )


def _count_rows(path: Path) -> int:
    with path.open("rb") as file:
        rows = sum(1 for line in file if line.strip())
    if not rows:
        raise InvalidDataError(
            f"The dataScript wrote '{path.name}' with no rows.", hint="Check which rows the script keeps."
        )
    logger.info("The dataScript wrote '%s': %d rows.", path.name, rows)
    return rows
