"""From a text to a store: which one is configured, and how it is opened.

`address` reads the text; keys begin with the bucket, and credentials come from the environment.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from tuneyard.address import parse_address
from tuneyard.folders import home_folder
from tuneyard.store.folder import FolderStore
from tuneyard.store.objects import Store

STORE_VARIABLE = "TUNEYARD_STORE"
"""The variable that names the store. It takes precedence over values, and an option over it."""


def open_store(
    url: str, *, ca_bundle: Path | None = None, environ: Mapping[str, str] | None = None, named_by: str = "store"
) -> Store:
    """Open the store that a text names. Nothing is contacted before the first verb.

    Args:
        url: `file:///folder`, `s3://` (AWS, or the endpoint in `AWS_ENDPOINT_URL_S3`/`AWS_ENDPOINT_URL`),
            `https://host:port` or `http://host:port` (any S3 server), or an unambiguous path.
        ca_bundle: A PEM file of authorities to trust besides the system's, instead of `AWS_CA_BUNDLE`.
        environ: Where `AWS_*` is read from; the process's own environment where None.
        named_by: The option, variable or key that the text comes from, for the message.

    Raises:
        InvalidValuesError: The text, or a setting in `AWS_*`, is not supported.
        DeniedError: There are no credentials for the S3 server.
        NotFoundError: The CA bundle or the AWS profile does not exist.
    """
    address = parse_address(url, named_by=named_by)
    if address.folder is not None:
        return FolderStore(address.folder)
    from tuneyard.store.s3 import S3ServerStore  # obstore costs 25 ms, and a folder needs none of it

    return S3ServerStore(address.endpoint, ca_bundle=ca_bundle, environ=os.environ if environ is None else environ)


def find_store(
    given: str | None = None,
    *,
    fallback: str | None = None,
    ca_bundle: Path | None = None,
    environ: Mapping[str, str] | None = None,
) -> Store:
    """Open the configured store: the one given, else `TUNEYARD_STORE`, else the fallback, else this machine's own.

    Args:
        given: The value of `--store`, or of a program's argument; an empty text is refused, not ignored.
        fallback: What is preferred to this machine's own: the values' store, or that of a run.
        ca_bundle: As for `open_store`.
        environ: Where `TUNEYARD_STORE`, `TUNEYARD_HOME` and `AWS_*` are read from; the process's own where None.

    Raises:
        InvalidValuesError, DeniedError, NotFoundError: As for `open_store`.
    """
    environ = os.environ if environ is None else environ
    url = configured_store(given, fallback=fallback, environ=environ)
    named_by = STORE_VARIABLE if given is None and environ.get(STORE_VARIABLE) else "store"
    return open_store(
        default_store_url(environ) if url is None else url, ca_bundle=ca_bundle, environ=environ, named_by=named_by
    )


def configured_store(
    given: str | None = None, *, fallback: str | None = None, environ: Mapping[str, str] | None = None
) -> str | None:
    """Return the text that names the configured store, in the order of `find_store`; None where nothing names one.

    Args:
        given: As for `find_store`.
        fallback: As for `find_store`.
        environ: Where `TUNEYARD_STORE` is read from; the process's own environment where None.
    """
    if given is not None:
        return given
    return (os.environ if environ is None else environ).get(STORE_VARIABLE) or fallback or None


def default_store_url(environ: Mapping[str, str] | None = None) -> str:
    """Return the URL of the store that is used where none is configured: the folder `store` in Tuneyard's own.

    Args:
        environ: Where `TUNEYARD_HOME` is read from; the process's own environment where None.

    Returns:
        A `file://` URL under `TUNEYARD_HOME`, or under the user's data folder.
    """
    return (home_folder(environ) / "store").as_uri()
