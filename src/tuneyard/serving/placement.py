"""From values to verified folders on this machine, each with its names: the model, an adapter's base, and adapters.

Only what a manifest names is ever loaded: each folder holds exactly those files, verified by size and SHA-256, whatever
else lies beside them in a bucket. Loads no model; knows nothing of the server that will.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from tuneyard.delivery import deliver, vet_model
from tuneyard.errors import IntegrityError, InvalidValuesError, NotFoundError, Problem
from tuneyard.models import (
    ADAPTER_CONFIG,
    find_manifest,
    is_adapter,
    kind_in_words,
    read_entries,
    without_dropout,
)
from tuneyard.progress import progress_bar
from tuneyard.store import (
    Manifest,
    Store,
    link_named,
    open_store,
    places_of_model,
    pull,
    verify_folder,
)
from tuneyard.values import DeliverValues, InferenceValues, ModelPlace, model_place
from tuneyard.whereabouts import command

_NAMES_FLAG = "vllm_engine_args.served_model_name"


@dataclass(frozen=True, slots=True)
class Weights:
    """A verified model or adapter on this machine.

    Attributes:
        where: The key or folder that it comes from.
        folder: A folder with exactly the files that its manifest names; read-only.
        content_sha256: The hash of its content.
        about: What its manifest records about it.
    """

    where: str
    folder: Path
    content_sha256: str
    about: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Adapter:
    """An adapter and its names."""

    names: tuple[str, ...]
    weights: Weights


@dataclass(frozen=True, slots=True)
class Placement:
    """Everything that one server serves.

    Attributes:
        model: The model; the base model where the values' `model` is an adapter.
        names: The names of `model`.
        adapters: The adapters on it; the values' `model` comes first where it is one.
        requested: The names of what the values call `model`, be it model or adapter.
        config: Entries of the model's config.json that the adapters were trained with other values of; the model is
            loaded with these.
    """

    model: Weights
    names: tuple[str, ...]
    adapters: tuple[Adapter, ...]
    requested: tuple[str, ...]
    config: Mapping[str, Any] = field(default_factory=dict[str, Any])

    @property
    def served(self) -> tuple[str, ...]:
        """Every name, those of the values' `model` first."""
        others = [*self.names, *(name for adapter in self.adapters for name in adapter.names)]
        return (*self.requested, *(name for name in others if name not in self.requested))


def place_models(values: InferenceValues, store: Store, workdir: Path) -> Placement:
    """Pull and verify every model and adapter that values name.

    Args:
        values: The values of the server.
        store: The store of models in buckets.
        workdir: A folder of this server; models are pulled into it.

    Returns:
        The folders to load, and their names.

    Raises:
        NotFoundError: A model does not exist, or its delivery is not finished.
        IntegrityError: A file differs from its manifest, or a base model from the one that an adapter was trained on.
        InvalidDataError: A file could run code when it is loaded, or fetch some; or an adapter's manifest changes more
            of its base model's config than numbers.
        InvalidValuesError: A key holds something that can't be served, two models would have the same name, or two
            adapters were trained on one base model with different settings.
    """
    adapters: list[Adapter] = []
    place = model_place(values.model)
    found = _find(place, values, store, workdir)
    # A model of the Hub is named by its id, as in vLLM.
    own = place.where if place.kind == "hub" else own_name(found.where, found.about)
    requested = served_names(values.vllm_engine_args.get("served_model_name")) or (own,)
    config: dict[str, Any] = {}
    if found.is_adapter:
        config = read_entries(found.about, where=found.where)
        base = _base_of(found, store)
        model, names = base.pull(workdir), (base_name(base.where, taken=(*requested, *values.adapters)),)
        adapters.append(Adapter(requested, found.pull(workdir)))
    else:
        model, names = found.pull(workdir), requested
    for name, key in values.adapters.items():
        extra = _look_up(store, key)
        _check_extra(extra, name, model)
        _check_config(extra, name, found.where, config)
        adapters.append(Adapter((name,), extra.pull(workdir)))
    check_distinct([*names, *(name for adapter in adapters for name in adapter.names)])
    return Placement(model, names, tuple(adapters), requested, config)


@dataclass(frozen=True, slots=True)
class _Found:
    """A manifest and the place of its files."""

    where: str
    manifest: Manifest
    store: Store | None
    """None where `where` is a folder on this machine."""

    @property
    def about(self) -> Mapping[str, Any]:
        return self.manifest.about

    @property
    def is_adapter(self) -> bool:
        return is_adapter(self.manifest)

    def pull(self, workdir: Path) -> Weights:
        sha256 = self.manifest.content_sha256
        folder = workdir / "models" / sha256[:16]
        with progress_bar(f"Verifying {self.where}", self.manifest.size, "bytes") as advance:
            if self.store is None:
                verify_folder(Path(self.where), self.manifest, advance=advance)
                link_named(Path(self.where), self.manifest, folder)
            else:
                pull(self.store, f"{self.where}/", self.manifest, folder, advance=advance)
        vet_model(folder, [entry.path for entry in self.manifest.files], where=self.where)
        return Weights(self.where, folder, sha256, dict(self.about))


def _find(place: ModelPlace, values: InferenceValues, store: Store, workdir: Path) -> _Found:
    if place.kind == "bucket":
        return _look_up(store, place.where)
    if place.kind == "folder":
        return _look_into(Path(place.where).expanduser().resolve())
    return _from_hub(place, values, workdir)


def _look_up(store: Store, key: str) -> _Found:
    return _servable(_Found(key, find_manifest(store, key), store))


def _look_into(folder: Path) -> _Found:
    for place in places_of_model(str(folder)):
        path = Path(place.manifest_key)
        if path.is_file():
            return _servable(_Found(str(folder), Manifest.from_json(path.read_bytes(), where=str(path)), None))
    raise NotFoundError(
        f"There is no verifiable model at '{folder}': it has no manifest.",
        hint=f"Deliver it: tuneyard deliver --set modelID={folder} --set bucketModelPath=default-bucket/models/NAME",
        folder=str(folder),
    )


def _from_hub(place: ModelPlace, values: InferenceValues, workdir: Path) -> _Found:
    """Deliver a model of the Hub, pinned and hashed, into a store of this server alone."""
    own = open_store((workdir / "hub").absolute().as_uri())
    key = f"hub/{place.where.replace('/', '_')}"
    wanted = {"modelID": place.where, "bucketModelPath": key, "allowOverwrite": True}
    revision = values.vllm_engine_args.get("revision")
    if revision is not None:
        wanted["modelRevision"] = str(revision)
    deliver(DeliverValues.model_validate(wanted), own, workdir=workdir / "delivery")
    return _look_up(own, key)


def _servable(found: _Found) -> _Found:
    what = kind_in_words(found.manifest.kind)
    if not what:
        return found
    problem = Problem("model", f"is {what}", found.where, "a delivered model, or a run's checkpoint-final")
    raise InvalidValuesError(
        f"'{found.where}' is {what}, which can't be served.",
        hint="Serve the run's checkpoint-final, or its checkpoint-final-merged.",
        problems=[problem],
    )


def _base_of(adapter: _Found, store: Store) -> _Found:
    recorded = _recorded_base(adapter.about)
    if recorded is None:
        problem = Problem("model", "is an adapter whose manifest names no base model", adapter.where)
        raise InvalidValuesError(
            f"'{adapter.where}' is an adapter, but its manifest names no base model.",
            hint=f"Set model to its base model and adapters.NAME to {adapter.where}.",
            problems=[problem],
        )
    key, sha256 = recorded
    base = _look_up(store, key)
    _check_same(adapter.where, base.where, expected=sha256, found=base.manifest.content_sha256)
    if base.is_adapter:
        raise InvalidValuesError(f"The base model '{key}' of the adapter '{adapter.where}' is itself an adapter.")
    return base


def _check_extra(extra: _Found, name: str, model: Weights) -> None:
    where = f"adapters.{name}"
    if not extra.is_adapter:
        problem = Problem(where, f"is not an adapter: it has no {ADAPTER_CONFIG}", extra.where)
        raise InvalidValuesError(
            f"{where} is not an adapter: '{extra.where}' has no {ADAPTER_CONFIG}.", problems=[problem]
        )
    recorded = _recorded_base(extra.about)
    if recorded is not None:
        _check_same(extra.where, model.where, expected=recorded[1], found=model.content_sha256)


def _check_config(extra: _Found, name: str, model: str, config: Mapping[str, Any]) -> None:
    """Refuse an adapter whose base model would have to be loaded with other settings: it is loaded once."""
    mine, theirs = without_dropout(config), without_dropout(read_entries(extra.about, where=extra.where))
    differing = sorted(entry for entry in mine.keys() | theirs.keys() if mine.get(entry) != theirs.get(entry))
    if differing:
        where = f"adapters.{name}"
        entries = ", ".join(differing)
        what = f"was trained with a different {entries} in the model's config than '{model}' is served with"
        given = ", ".join(f"{entry} {json.dumps(theirs.get(entry))}" for entry in differing)
        allowed = ", ".join(f"{entry} {json.dumps(mine.get(entry))}" for entry in differing)
        raise InvalidValuesError(
            f"{where} {what}.",
            hint=f"Serve it alone: {command(f'tuneyard serve --set model=s3://{extra.where}')}",
            problems=[Problem(where, what, given, allowed)],
        )


def _recorded_base(about: Mapping[str, Any]) -> tuple[str, str] | None:
    base = about.get("base")
    if not isinstance(base, dict):
        return None
    facts = cast("dict[str, Any]", base)
    key, sha256 = facts.get("key"), facts.get("content_sha256")
    return (key, sha256) if isinstance(key, str) and isinstance(sha256, str) else None


def _check_same(adapter: str, base: str, *, expected: str, found: str) -> None:
    if expected != found:
        raise IntegrityError(
            f"The adapter '{adapter}' was trained on a different model than the one at '{base}': "
            f"its content is {found[:16]}…, not {expected[:16]}….",
            hint=f"Deliver the model that it was trained on to {base}, or finetune the one that is there.",
            key=base,
            expected=expected,
            found=found,
        )


def served_names(value: Any) -> tuple[str, ...]:
    """Read `served_model_name`, one name or a list of names as in vLLM.

    Args:
        value: The flag's value; None where it isn't set.

    Returns:
        The names; empty where none are set.

    Raises:
        InvalidValuesError: It holds something else.
    """
    names: list[Any] = cast("list[Any]", value) if isinstance(value, list) else [] if value in (None, "") else [value]
    if all(isinstance(name, str | int) and not isinstance(name, bool) and str(name).strip() for name in names):
        return tuple(str(name) for name in names)
    problem = Problem(_NAMES_FLAG, "is not a name or a list of names", repr(value))
    raise InvalidValuesError(f"{_NAMES_FLAG} is not a name or a list of names.", problems=[problem])


def own_name(where: str, about: Mapping[str, Any]) -> str:
    """Name a model by the last part of its key, or by its run where a run has published it.

    Args:
        where: Its key or folder.
        about: What its manifest records about it.
    """
    parts = where.rstrip("/").split("/")
    if not parts[-1].startswith("checkpoint-"):
        return parts[-1]
    if len(parts) > 2:  # bucket/…/run/checkpoint-final
        return parts[-2]
    return str(about.get("run") or parts[-1])


def base_name(where: str, *, taken: Sequence[str]) -> str:
    """Name the base model of an adapter by the last part of its key, or by `base-…` where that is taken.

    Args:
        where: Its key.
        taken: The names of the adapters.
    """
    name = own_name(where, {})
    while name in taken:
        name = f"base-{name}"
    return name


def check_distinct(names: Sequence[str]) -> None:
    """Check that no two models have the same name.

    Args:
        names: The names of all models.

    Raises:
        InvalidValuesError: Two models have the same name.
    """
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        problem = Problem("adapters", "sets a name that another model has", ", ".join(twice))
        raise InvalidValuesError(
            f"Two models would have the name {twice[0]!r}.",
            hint=f"Set other names in adapters or in {_NAMES_FLAG}.",
            problems=[problem],
        )
