"""From a URL to a store: which kind it is, and that the URL itself is one Tuneyard can take.

A store's URL names a server or a folder, never a bucket and never credentials: keys begin with the bucket, and
credentials come from the environment.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import unquote, urlsplit

from tuneyard.errors import InvalidValuesError, Problem
from tuneyard.store.folder import FolderStore
from tuneyard.store.objects import Store

_FORMS = "file:///folder, s3:// (AWS, or AWS_ENDPOINT_URL), https://host:port or http://host:port"


def open_store(url: str, *, ca_bundle: Path | None = None, environ: Mapping[str, str] | None = None) -> Store:
    """Open the store that a URL names. Nothing is contacted before the first verb.

    Args:
        url: `file:///folder`, `s3://` (AWS, or the endpoint in `AWS_ENDPOINT_URL_S3`/`AWS_ENDPOINT_URL`),
            `https://host:port` or `http://host:port` (any S3 server); a plain path is a folder too.
        ca_bundle: A PEM file of certificate authorities to trust besides the system's; wins over `AWS_CA_BUNDLE`.
        environ: Where `AWS_*` is read from; the process's own environment where None.

    Returns:
        The store.

    Raises:
        InvalidValuesError: The URL, or a setting in `AWS_*`, is not one Tuneyard can take.
        DeniedError: An S3 server is named and there are no credentials for it.
        NotFoundError: The CA bundle or a named AWS profile is not there.
    """
    if "://" not in url:
        if not url or url.startswith("file:"):
            raise _invalid(url)
        return FolderStore(Path(url).expanduser())
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError as error:
        raise _invalid("") from error
    if parts.username or parts.password:
        raise InvalidValuesError(
            f"The store's URL for {parts.hostname} has credentials in it.",
            hint="Take them out, and set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in the environment.",
        )
    if parts.query or parts.fragment:
        raise _invalid(url)
    if parts.scheme == "file" and parts.netloc in {"", "localhost"} and parts.path.startswith("/"):
        return FolderStore(Path(unquote(parts.path)))
    endpoint = _endpoint(url)
    if endpoint is None:
        raise _invalid(url)
    from tuneyard.store.s3 import S3ServerStore  # obstore costs 25 ms, and a folder needs none of it

    return S3ServerStore(endpoint, ca_bundle=ca_bundle, environ=os.environ if environ is None else environ)


def default_store_url(environ: Mapping[str, str] | None = None) -> str:
    """Name the store that is used where none is configured: the folder `store` in Tuneyard's own.

    Args:
        environ: Where `TUNEYARD_HOME` is read from; the process's own environment where None.

    Returns:
        A `file://` URL under `TUNEYARD_HOME`, or under the user's data folder.
    """
    home = (os.environ if environ is None else environ).get("TUNEYARD_HOME")
    if not home:
        from platformdirs import user_data_dir

        home = user_data_dir("tuneyard")
    return (Path(home).expanduser().absolute() / "store").as_uri()


def _endpoint(url: str) -> str | None:
    parts = urlsplit(url)
    if parts.path not in {"", "/"}:
        return None
    if parts.scheme == "s3":
        return None if parts.netloc else ""
    return f"{parts.scheme}://{parts.netloc}" if parts.scheme in {"http", "https"} and parts.hostname else None


def _invalid(url: str) -> InvalidValuesError:
    hint = f"A store is one of: {_FORMS}. The bucket is the first part of each key."
    problem = Problem(where="store", what="is not a store's URL", value=url, allowed=_FORMS)
    return InvalidValuesError(f"{url!r} is not the URL of an object store.", hint=hint, problems=[problem])
