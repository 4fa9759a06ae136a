"""Searches for known secrets where they must not be: in a cluster's objects, its logs and the bucket.

Not a scanner for unknown secrets: it finds the given texts plain, in base64 at any offset of a longer text,
URL-encoded, in JSON and in hex.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping
from urllib.parse import quote, quote_plus


def forms(secret: str) -> set[bytes]:
    """Return the forms in which a text may appear in another."""
    plain = secret.encode()
    urls = {quote(secret, safe=""), quote(secret), quote_plus(secret)}
    texts = {secret, *urls, *map(_lower_escapes, urls), json.dumps(secret)[1:-1], plain.hex(), plain.hex().upper()}
    return {text.encode() for text in texts} | set(_base64(plain))


def _lower_escapes(text: str) -> str:
    head, *rest = text.split("%")
    return "%".join([head, *(part[:2].lower() + part[2:] for part in rest)])


def _base64(plain: bytes) -> Iterator[bytes]:
    """Return the base64 of a text at each offset, without the characters that depend on its neighbours."""
    for before in range(3):
        encoded = base64.b64encode(b"\0" * before + plain).rstrip(b"=")
        first = (8 * before + 5) // 6
        last = (8 * (before + len(plain))) // 6
        kept = encoded[first:last]
        yield kept
        yield kept.translate(bytes.maketrans(b"+/", b"-_"))


def find(secrets: Mapping[str, str], places: Mapping[str, bytes]) -> list[str]:
    """Return each secret's name with each place that shows it.

    Args:
        secrets: Texts by name; each is long enough not to occur by coincidence.
        places: Bytes by where they are from.

    Returns:
        Lines such as `hub token in log of pod x`; the secret itself is not in them.
    """
    assert all(len(secret) >= 12 for secret in secrets.values()), "too short to rule out coincidence"
    looked_for = {name: forms(secret) for name, secret in secrets.items()}
    return [
        f"{name} in {where}"
        for where, body in sorted(places.items())
        for name, shapes in looked_for.items()
        if any(shape in body for shape in shapes)
    ]
