"""Small JSON documents that carry their own SHA-256, so that one flipped bit in them is noticed.

A manifest's hashes guard its files; nothing would guard the facts beside them, nor HEAD. This is no signature: it finds
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
    """Hash facts, whatever their order, without the seal among them."""
    rest = {key: value for key, value in facts.items() if key != SEAL}
    return hashlib.sha256(json.dumps(rest, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def to_sealed_json(facts: Mapping[str, Any]) -> bytes:
    """Write facts as JSON with their seal."""
    sealed = {**facts, SEAL: seal_of(facts)}
    return (json.dumps(sealed, indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode()


def from_sealed_json(body: bytes, *, where: str) -> dict[str, Any]:
    """Read sealed JSON.

    Args:
        body: What `to_sealed_json` wrote.
        where: Its key, for the error's words.

    Returns:
        The facts, the seal among them.

    Raises:
        IntegrityError: It is not JSON, or not what was sealed.
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
    """Check that facts are what was sealed.

    Raises:
        IntegrityError: They are not, or carry no seal.
    """
    if facts.get(SEAL) != seal_of(facts):
        raise damaged(where)


def damaged(where: str) -> IntegrityError:
    """Make the error for a document that is not what was written there."""
    return IntegrityError(
        f"{where} is damaged: it is not what was written there.",
        hint="Bring it back from a backup of the bucket, or take another checkpointsRemote.",
        key=where,
    )
