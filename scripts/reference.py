"""Text generated from the models of values: the reference page and the charts' values.yaml.

Imported by `schemas.py`, which writes them.
"""

from __future__ import annotations

import json
import types
import typing
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, Union

import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from tuneyard.values import Values, legacy
from tuneyard.values.base import ClusterOnly
from tuneyard.values.finetuning import DpoArgs
from tuneyard.values.training import OWNED, TrainingArgs

COLLAPSED: tuple[type[BaseModel], ...] = (TrainingArgs, DpoArgs)
"""Models that mirror another library; the page lists their fields in sections of their own."""

KINDS = {bool: "true or false", int: "whole number", float: "number", str: "text", Any: "any"}
LONGEST_LITERAL = 8


def members(kind: Any) -> list[Any]:
    """Return the members of a union type, without annotations."""
    if typing.get_origin(kind) is Annotated:
        return members(typing.get_args(kind)[0])
    if typing.get_origin(kind) in {Union, types.UnionType}:
        return [member for one in typing.get_args(kind) for member in members(one)]
    return [kind]


def models_in(kind: Any) -> Iterator[type[BaseModel]]:
    """Find the models in a field's type, also inside lists and maps."""
    for member in members(kind):
        if isinstance(member, type) and issubclass(member, BaseModel):
            yield member
        else:
            for inner in typing.get_args(member):
                yield from models_in(inner) if typing.get_origin(member) is not Literal else ()


def kind_in_words(kind: Any) -> str:
    """Describe the values that a field accepts."""
    words: list[str] = []
    for member in members(kind):
        origin = typing.get_origin(member)
        if member is type(None):
            continue
        if origin is Literal:
            choices = [f"`{json.dumps(word) if isinstance(word, bool) else word}`" for word in typing.get_args(member)]
            hidden = len(choices) - LONGEST_LITERAL
            words += [*choices[:LONGEST_LITERAL], f"{hidden} more"] if hidden > 0 else choices
        elif origin is list:
            words.append(f"list of {kind_in_words(typing.get_args(member)[0])}")
        elif origin is dict:
            words.append(f"map to {kind_in_words(typing.get_args(member)[1])}")
        elif isinstance(member, type) and issubclass(member, BaseModel):
            words.append("map")
        else:
            words.append(KINDS.get(member, "any"))
    return ", ".join(dict.fromkeys(words))


def default_in_words(field: FieldInfo) -> str:
    """Describe a field's default."""
    if field.is_required():
        return "**required**"
    value = field.get_default(call_default_factory=True)
    if value is None:
        return "none"
    if isinstance(value, BaseModel):
        return ""
    if isinstance(value, list) and any(isinstance(item, BaseModel) for item in value):
        return "see below"
    return f"`{json.dumps(value, ensure_ascii=False)}`" if value not in ("", [], {}) else "empty"


def in_order(model: type[BaseModel]) -> list[tuple[str, FieldInfo]]:
    """List a model's fields, its own before inherited ones."""
    own = [name for name in model.model_fields if name in model.__annotations__]
    shared = [name for name in model.model_fields if name not in own]
    return [(name, model.model_fields[name]) for name in (*own, *shared)]


def rows(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """List every key of a model by dotted path; the entries of a list are `key[]`."""
    for name, field in in_order(model):
        path = f"{prefix}{name}"
        yield path, field
        for inner in dict.fromkeys(models_in(field.annotation)):
            if inner in COLLAPSED:
                continue
            in_list = any(typing.get_origin(member) is list for member in members(field.annotation))
            in_map = any(typing.get_origin(member) is dict for member in members(field.annotation))
            yield from rows(inner, f"{path}[]." if in_list else f"{path}.<name>." if in_map else f"{path}.")


def table(model: type[BaseModel], prefix: str = "") -> str:
    """Return a table of a model's keys."""
    lines = ["| key | accepts | default | meaning |", "| --- | --- | --- | --- |"]
    for path, field in rows(model, prefix):
        mark = " ☸" if any(isinstance(note, ClusterOnly) for note in field.metadata) else ""
        meaning = " ".join((field.description or "").split()).replace("|", "\\|")
        accepts = kind_in_words(field.annotation).replace("|", "\\|")
        default = default_in_words(field).replace("|", "\\|")
        if "\\n" in default or len(default) > 60:
            default = "see values.yaml"
        lines.append(f"| `{path}`{mark} | {accepts} | {default} | {meaning} |")
    return "\n".join(lines)


def spellings() -> str:
    """Return a table of earlier spellings and their current meaning."""
    tables = {
        "training_args": legacy.TRAINING_ARGS,
        "run_conf.model_args": legacy.MODEL_ARGS,
        "run_conf": legacy.RUN_CONF,
        "sft_args": legacy.SFT_ARGS,
        "data_conf": legacy.DATA_CONF,
        "data_conf.*_data": legacy.DATA_INPUT,
        "data_conf.*_data.datasets[]": legacy.DATASET,
        "llm-inference-vllm": legacy.INFERENCE,
    }
    lines = ["| where | earlier spelling | current meaning |", "| --- | --- | --- |"]
    for where, table_of_old in tables.items():
        for old, meaning in sorted(table_of_old.items()):
            lines.append(f"| `{where}` | `{old}` | {_today(meaning)} |")
    return "\n".join(lines)


def _today(meaning: legacy.Meaning) -> str:
    match meaning:
        case legacy.Renamed(new):
            return f"`{new}`"
        case legacy.Converted(_, summary):
            return f"read as {summary}"
        case legacy.Idle(reason, only):
            return f"no effect: {reason}" if only is None else f"accepted only where it changes nothing: {reason}"
        case legacy.Refused(reason, suggestion):
            return f"refused: {reason}" + (f" (`{suggestion}`)" if suggestion else "")


def markdown(charts: Mapping[str, type[Values]]) -> str:
    """Return the reference page."""
    parts = [
        "# Values",
        "<!-- Generated by scripts/schemas.py: change the models in src/tuneyard/values, not this. -->",
        "`tuneyard` and `helm` share these keys. Precedence: defaults, then `-f` files from left to right, then"
        " `--set`.\nMaps are merged, lists are replaced, and `null` means the default. Unknown keys are refused."
        "\n☸ marks keys that only apply on a cluster.",
    ]
    for place, model in charts.items():
        parts += [f"## {model.__name__}: `{place}`", table(model)]
    owned = "\n".join(f"* `{name}`: {reason}." for name, reason in OWNED.items())
    parts += [
        "## `finetuning_config.training_args`",
        "Every argument of `transformers.TrainingArguments`, with the same meaning and default, except those that other"
        f" keys set:\n\n{owned}",
        table(TrainingArgs),
        "## `finetuning_config.dpo_args`",
        "The arguments that TRL's `DPOConfig` adds.",
        table(DpoArgs),
        "## Earlier spellings",
        spellings(),
    ]
    return "\n\n".join(parts) + "\n"


def default_values(model: type[Values]) -> str:
    """Return a chart's values.yaml: every default, with its meaning in a comment."""
    head = (
        f"# Default values of this chart, generated from {model.__name__} by scripts/schemas.py.\n"
        "# Every key: docs/reference/values.md\n"
    )
    return head + "\n" + "\n".join(_entries(model, 0)).rstrip() + "\n"


def _entries(model: type[BaseModel], depth: int, values: BaseModel | None = None) -> Iterator[str]:
    space = "  " * depth
    spellings_of = getattr(model, "spellings", {})
    respelt = {old.new for old in spellings_of.values() if isinstance(old, legacy.Renamed)}
    for name, field in in_order(model):
        about = " ".join((field.description or "").split())
        if about:
            yield f"{space}# -- {about}"
        inner = [kind for kind in members(field.annotation) if isinstance(kind, type) and issubclass(kind, BaseModel)]
        if field.is_required():
            yield f"{space}# {name}:"
            if depth == 0:
                yield ""
            continue
        # the map above may override the defaults of its keys
        value = getattr(values, name) if values else field.get_default(call_default_factory=True)
        if inner and value is not None and inner[0] not in COLLAPSED:
            yield f"{space}{name}:"
            yield from _entries(type(value), depth + 1, value)
        else:
            # a default in the file would conflict with the key's earlier spelling
            yield _entry(name, value, inner, f"{space}# " if name in respelt else space)
        if depth == 0:
            yield ""


def _entry(name: str, value: Any, inner: list[type[BaseModel]], space: str) -> str:
    plain: Any = {} if inner and value is not None else value
    if isinstance(plain, list):
        plain = [item.model_dump(mode="json") if isinstance(item, BaseModel) else item for item in plain]
    if isinstance(plain, list | dict) and plain:
        text = yaml.safe_dump({name: plain}, sort_keys=False, default_flow_style=False)
        return "\n".join(f"{space}{line}" for line in text.rstrip().splitlines())
    return f"{space}{name}: {json.dumps(plain, ensure_ascii=False)}"
