"""Resolved values as bytes: the same JSON for the same values, its hash, YAML to read, and what only clusters read."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from tuneyard.values.base import ClusterOnly, Values
from tuneyard.values.public import public_values
from tuneyard.values.yaml_text import write_yaml

# JSON leaves these as they are; YAML folds or refuses them, and Helm and `parse_yaml` read JSON as YAML.
_NOT_IN_YAML = re.compile("[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]")


def canonical_json(values: Values) -> bytes:
    """Write resolved values as the one JSON that a process reads.

    Args:
        values: The values.

    Returns:
        UTF-8 with sorted keys, no spaces, and every default. Equal values give equal bytes. Read as YAML, it means
        the same.
    """
    return _json(values.model_dump(mode="json"))


def values_sha256(values: Values | Mapping[str, Any]) -> str:
    """Hash the public part of resolved values, in hex: a hash of a secret would confirm a guess.

    Args:
        values: The values, or the same as plain JSON.
    """
    tree = values.model_dump(mode="json") if isinstance(values, Values) else values
    return hashlib.sha256(_json(public_values(tree))).hexdigest()


def _json(data: Mapping[str, Any]) -> bytes:
    text = json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return _NOT_IN_YAML.sub(lambda match: f"\\u{ord(match[0]):04x}", text).encode()


def dump_yaml(values: Values) -> str:
    """Write the public part of resolved values as YAML for people, in the order of the reference.

    Args:
        values: The values.

    Returns:
        YAML that loads to equal values where nothing of them is a secret.
    """
    return write_yaml(public_values(values.model_dump(mode="json")))


def cluster_only_keys(values: Values) -> list[str]:
    """List the keys that differ from their default and have no effect on one machine.

    Args:
        values: The values.

    Returns:
        Dotted keys, sorted.
    """
    return sorted(_set_on_a_cluster(values))


def _set_on_a_cluster(values: Values) -> Iterator[str]:
    for name, field in type(values).model_fields.items():
        if not any(isinstance(mark, ClusterOnly) for mark in field.metadata):
            continue
        value, default = getattr(values, name), field.get_default(call_default_factory=True)
        if value == default:
            continue
        if isinstance(value, Values) and isinstance(default, Values):
            yield from (f"{name}.{key}" for key in _differing(value, default))
        else:
            yield name


def _differing(value: Values, default: Values) -> Iterator[str]:
    for key in type(value).model_fields:
        if getattr(value, key) != getattr(default, key):
            yield key
