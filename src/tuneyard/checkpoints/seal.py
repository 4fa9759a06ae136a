"""Small JSON documents that contain their own SHA-256, so that a flipped bit in them is detected.

A manifest's hashes cover its files; the seal covers the facts beside them, and HEAD. It is not a signature: it detects
damage, not malice.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any, cast

from tuneyard.errors import IntegrityError

SEAL = "sha256"


def seal_of(facts: Mapping[str, Any]) -> str:
    """Return the hash of facts in any order, leaving out the seal."""
    rest = {key: value for key, value in facts.items() if key != SEAL}
    return hashlib.sha256(json.dumps(rest, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def to_sealed_json(facts: Mapping[str, Any]) -> bytes:
    """Return facts as JSON with their seal."""
    sealed = {**facts, SEAL: seal_of(facts)}
    return (json.dumps(sealed, indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode()


def from_sealed_json(body: bytes, *, where: str) -> dict[str, Any]:
    """Parse sealed JSON.

    Args:
        body: What `to_sealed_json` returned.
        where: Its key, for messages.

    Returns:
        The facts, including the seal.

    Raises:
        IntegrityError: It is not JSON, or does not match its seal.
    """
    try:
        document: Any = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise damaged(where) from error
    if not isinstance(document, dict):
        raise damaged(where)
    facts = cast("dict[str, Any]", document)
    check_seal(facts, where=where)
    return facts


def check_seal(facts: Mapping[str, Any], *, where: str) -> None:
    """Check that facts match their seal.

    Raises:
        IntegrityError: They don't, or have no seal.
    """
    if facts.get(SEAL) != seal_of(facts):
        raise damaged(where)


def damaged(where: str) -> IntegrityError:
    """Return the error for a damaged document."""
    return IntegrityError(
        f"'{where}' is damaged: its content does not match its hash.",
        hint="Restore it from a backup of the bucket, or use another checkpointsRemote.",
        key=where,
    )
