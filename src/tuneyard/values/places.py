"""The places of models and data in values: `bucket/key`, a Hub id, a folder.

Pure text: whether a place exists is checked by the store.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import AfterValidator, WithJsonSchema

from tuneyard.address import parse_address
from tuneyard.errors import InvalidValuesError
from tuneyard.values.base import Broken, broken_error
from tuneyard.values.scalars import Text

_BUCKET_PATH = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}(/[^/\x00-\x1f]+)+")
_SHOWN_BUCKET_PATH = r"^(s3://)?[A-Za-z0-9][A-Za-z0-9._-]{0,62}(/[^/]+)+/*$"
_HUB_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)?")


def _bucket_path(given: str) -> str:
    """Check `bucket/key` and normalize it: no scheme, no trailing slash."""
    path = given.removeprefix("s3://").rstrip("/")
    if not _BUCKET_PATH.fullmatch(path) or any(part in {".", ".."} for part in path.split("/")):
        raise broken_error(
            [Broken("", "is not a path in a bucket", value=given, allowed="bucket/path, as in default-bucket/models/x")]
        )
    return path


BucketPath = Annotated[
    Text, AfterValidator(_bucket_path), WithJsonSchema({"type": "string", "pattern": _SHOWN_BUCKET_PATH})
]
"""`bucket/key`; the scheme of `s3://bucket/key` and a trailing `/` are removed."""


@dataclass(frozen=True, slots=True)
class ModelPlace:
    """The place of a model.

    Attributes:
        kind: `hub` for a model of the Hugging Face Hub, `bucket` for a place in the store, `folder` for a folder here.
        where: The Hub id, `bucket/key` or the folder's path.
    """

    kind: Literal["hub", "bucket", "folder"]
    where: str


def model_place(text: str) -> ModelPlace:
    """Parse the text of a `modelID` or `model`.

    Args:
        text: `org/name`, `s3://bucket/key`, or a path that starts with `/`, `./`, `../`, `~` or `file://`.

    Returns:
        The place. A relative path without `./` is a Hub id.

    Raises:
        PydanticCustomError: If it is none of the three; inside a validator it becomes one of the problems.
    """
    if text.startswith("s3://"):
        return ModelPlace("bucket", _bucket_path(text))
    if text.startswith("file://"):
        return ModelPlace("folder", text.removeprefix("file://"))
    if text.startswith(("/", "./", "../", "~")) or text in {".", ".."}:
        return ModelPlace("folder", text)
    if not _HUB_ID.fullmatch(text) or len(text) > 200:
        allowed = "a Hub id (org/name), a path in the store (s3://bucket/path) or a folder (/path or ./path)"
        raise broken_error([Broken("", "is not a model", value=text, allowed=allowed)])
    return ModelPlace("hub", text)


def _model_text(given: str) -> str:
    place = model_place(given)
    return f"s3://{place.where}" if place.kind == "bucket" else given


ModelText = Annotated[Text, AfterValidator(_model_text)]
"""The text of a model's place; see `model_place`."""


def _store_url(given: str) -> str:
    """Check the URL of a store. Values are used on other machines, so a folder needs its whole URL too."""
    allowed = "https://host:port, http://host:port or file:///folder; empty for none"
    if not given:
        return given
    try:
        address = parse_address(given)
    except InvalidValuesError as error:
        for problem in error.problems:
            raise broken_error([Broken("", problem.what, given, allowed, problem.suggestion)]) from None
        raise broken_error([Broken("", "contains credentials", allowed=allowed)]) from None
    if "://" not in given or given.startswith("s3:"):
        meant = address.folder.as_uri() if address.folder else ""
        raise broken_error([Broken("", "is not a complete URL", given, allowed, meant)])
    return given


StoreUrl = Annotated[
    Text,
    AfterValidator(_store_url),
    WithJsonSchema({"type": "string", "pattern": r"^(?:https?://[^\s/@?#]+/?|file://(?:localhost)?/\S*|)$"}),
]
"""The URL of an object store, or an empty text; see `tuneyard.address`."""
