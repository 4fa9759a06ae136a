"""From a text to a store: which one is meant, and opened.

`address` decides what a text names; keys begin with the bucket, and credentials come from the environment.
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
"""The environment's store: it wins over the values', and an option wins over it."""


def open_store(
    url: str, *, ca_bundle: Path | None = None, environ: Mapping[str, str] | None = None, named_by: str = "store"
) -> Store:
    """Open the store that a text names. Nothing is contacted before the first verb.

    Args:
        url: `file:///folder`, `s3://` (AWS, or the endpoint in `AWS_ENDPOINT_URL_S3`/`AWS_ENDPOINT_URL`),
            `https://host:port` or `http://host:port` (any S3 server), or a path that can't be taken for anything else.
        ca_bundle: A PEM file of certificate authorities to trust besides the system's; wins over `AWS_CA_BUNDLE`.
        environ: Where `AWS_*` is read from; the process's own environment where None.
        named_by: The option, variable or key that the text comes from, for the message.

    Returns:
        The store.

    Raises:
        InvalidValuesError: The text, or a setting in `AWS_*`, is not one Tuneyard can take.
        DeniedError: An S3 server is named and there are no credentials for it.
        NotFoundError: The CA bundle or a named AWS profile is not there.
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
    """Open the store that is meant: the one given, that of `TUNEYARD_STORE`, the fallback, or this machine's own.

    Args:
        given: What `--store` or a program names; an empty text is refused, never passed over.
        fallback: What is better than this machine's own: the values' store, or that of the run at hand.
        ca_bundle: As for `open_store`.
        environ: Where `TUNEYARD_STORE`, `TUNEYARD_HOME` and `AWS_*` are read from; the process's own where None.

    Raises:
        InvalidValuesError, DeniedError, NotFoundError: As for `open_store`.
    """
    environ = os.environ if environ is None else environ
    if given is not None:
        return open_store(given, ca_bundle=ca_bundle, environ=environ)
    if of_environment := environ.get(STORE_VARIABLE):
        return open_store(of_environment, ca_bundle=ca_bundle, environ=environ, named_by=STORE_VARIABLE)
    return open_store(fallback or default_store_url(environ), ca_bundle=ca_bundle, environ=environ)


def default_store_url(environ: Mapping[str, str] | None = None) -> str:
    """Name the store that is used where none is configured: the folder `store` in Tuneyard's own.

    Args:
        environ: Where `TUNEYARD_HOME` is read from; the process's own environment where None.

    Returns:
        A `file://` URL under `TUNEYARD_HOME`, or under the user's data folder.
    """
    return (home_folder(environ) / "store").as_uri()
