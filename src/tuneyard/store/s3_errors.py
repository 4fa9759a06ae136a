"""Translates errors of an S3 server or the network to Tuneyard's: unreachable, denied and missing stay apart.

The server's error code decides where there is one, since status codes mislead (versitygw answers 404 to an unknown
access key). Messages contain only the code, never the server's text, which may quote what was signed.
"""

from __future__ import annotations

import re

from tuneyard.errors import (
    AlreadyExistsError,
    ChangedError,
    ConflictError,
    DeniedError,
    FullError,
    InvalidValuesError,
    NotFoundError,
    TuneyardError,
    UnavailableError,
)
from tuneyard.whereabouts import assignment, fitting, setting

_CODE = re.compile(r"<Code>(\w+)</Code>|code: \\?\"(\w+)\\?\"")
_STATUS = re.compile(r"non-2xx status code: (\d{3})")
_CERTIFICATE = re.compile(r"InvalidCertificate\(\s*(\w+)")

_WRONG_KEYS = {
    "ExpiredToken",
    "InvalidAccessKeyId",
    "InvalidToken",
    "InvalidTokenId",
    "SignatureDoesNotMatch",
    "XAdminUserNotFound",
}
_BELOW_OR_ABOVE = {"ExistingObjectIsDirectory", "ObjectParentIsFile", "XMinioParentIsObject"}
_REGION = {"AuthorizationHeaderMalformed", "IllegalLocationConstraintException", "PermanentRedirect"}
_FULL = {"QuotaExceeded", "XMinioAdminBucketQuotaExceeded", "XMinioStorageFull"}

_INSUFFICIENT_STORAGE = 507


def code_of(error: BaseException) -> str:
    """Return the server's error code; empty where it sent none."""
    found = _CODE.search(str(error))
    return (found[1] or found[2]) if found else ""


def status_of(error: BaseException) -> int:
    """Return the HTTP status of the response; 0 where there was none."""
    found = _STATUS.search(str(error))
    return int(found[1]) if found else 0


def explain(error: BaseException, server: str, bucket: str, path: str) -> TuneyardError:
    """Return Tuneyard's error for one of obstore.

    Args:
        error: What obstore raised.
        server: The server's URL.
        bucket: The bucket.
        path: The object or prefix in it.

    Returns:
        The error to raise from it.
    """
    code, status, key = code_of(error), status_of(error), f"{bucket}/{path}"
    if not status and not code:
        return _unreachable(str(error), server)
    if code == "NoSuchBucket":
        return _no_bucket(server, bucket)
    if code == "InvalidBucketName":
        return InvalidValuesError(f"The object store '{server}' allows no bucket named '{bucket}'.")
    if code in _REGION or status in {301, 307, 308}:
        return _wrong_region(server, bucket, code)
    if code in _WRONG_KEYS or status in {401, 403} or code == "AccessDenied":
        return _denied(server, key, code)
    return _about_object(error, code, status, key, server) or _about_server(str(error), code, status, key, server)


def _about_object(error: BaseException, code: str, status: int, key: str, server: str) -> TuneyardError | None:
    from obstore import exceptions

    if code in _BELOW_OR_ABOVE:
        return ConflictError(
            f"The key '{key}' can't be written in '{server}': an object lies above or below it.",
            hint="Choose a key that is neither a folder of objects nor below an object.",
            key=key,
        )
    # a 404 without a code is not from an S3 server, whatever obstore takes it for
    if code in {"NoSuchKey", "PreconditionFailed"} or status in {409, 412}:
        if isinstance(error, exceptions.AlreadyExistsError):
            return AlreadyExistsError(f"There is already an object at '{key}' in '{server}'.", key=key, store=server)
        if isinstance(error, exceptions.PreconditionError):
            return ChangedError(
                f"The object at '{key}' in '{server}' is no longer the version that was read.", key=key, store=server
            )
    return missing(server, key) if code == "NoSuchKey" else None


def _about_server(text: str, code: str, status: int, key: str, server: str) -> TuneyardError:
    if "HTTP request to an HTTPS server" in text:
        return UnavailableError(
            f"The object store '{server}' accepts only TLS.", hint=f"Use https{server[4:]}.", store=server
        )
    if code in _FULL or status == _INSUFFICIENT_STORAGE:
        clean = f"tuneyard gc {key.partition('/')[0]}/experiments"
        return FullError(
            f"The object store '{server}' has no room for '{key}' ({code or status}).",
            hint="Make room on the server, raise the bucket's quota, or clean up: "
            + fitting(clean, f"{clean} --store {server}, on a machine that can reach it"),
            store=server,
        )
    if status >= 500 or status == 429:
        return UnavailableError(
            f"The object store '{server}' failed on '{key}': {code or 'HTTP'} {status}.",
            hint="Try again. If the error persists, check the server's log and disk.",
            store=server,
        )
    if not code:
        return _not_s3(server, f"HTTP {status}")
    return TuneyardError(
        f"The object store '{server}' refused a request for '{key}': {code} {status}.", key=key, store=server
    )


def missing(server: str, key: str) -> NotFoundError:
    """Return the error for a missing object in an existing bucket."""
    return NotFoundError(f"There is no object at '{key}' in '{server}'.", key=key, store=server)


def _not_s3(server: str, response: str) -> UnavailableError:
    # never "missing", which a resume would take for a fresh start
    return UnavailableError(
        f"The server at '{server}' does not respond like an S3 server ({response}).",
        hint="Check the address, and for a proxy in between.",
        store=server,
    )


def _no_bucket(server: str, bucket: str) -> NotFoundError:
    return NotFoundError(
        f"There is no bucket '{bucket}' in the object store '{server}'.",
        hint="Create it with the server's tools, or correct the first part of the key.",
        bucket=bucket,
        store=server,
    )


def _wrong_region(server: str, bucket: str, code: str) -> InvalidValuesError:
    return InvalidValuesError(
        f"The bucket '{bucket}' of '{server}' is in a different region than requests are signed for "
        f"({code or 'redirected'}).",
        hint=f"Set the bucket's region: {assignment('AWS_REGION', '…')}",
        store=server,
    )


def _denied(server: str, key: str, code: str) -> DeniedError:
    if code in _WRONG_KEYS:
        return DeniedError(
            f"The object store '{server}' does not accept the credentials ({code}).",
            hint=fitting(
                "Check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN, or the profile in AWS_PROFILE.",
                f"Check the keys in {setting('AWS_ACCESS_KEY_ID')}.",
            ),
            store=server,
            code=code,
        )
    if code == "RequestTimeTooSkewed":
        return DeniedError(
            f"The object store '{server}' refuses requests because this machine's clock is wrong.",
            hint=fitting("Set the clock: timedatectl status", "Set the clock of the pod's node."),
            store=server,
            code=code,
        )
    return DeniedError(
        f"The object store '{server}' denies access to '{key}'" + (f" ({code})." if code else "."),
        hint="Request permission to read, list and write there, or use other credentials.",
        key=key,
        store=server,
        code=code,
    )


def _unreachable(text: str, server: str) -> UnavailableError:
    certificate = _CERTIFICATE.search(text)
    if certificate:
        return UnavailableError(
            f"The TLS certificate of the object store '{server}' is not trusted ({certificate[1]}).",
            hint=f"Configure the authority that signed it: {assignment('AWS_CA_BUNDLE', '/path/to/ca.pem')}",
            store=server,
        )
    if "InvalidContentType" in text:
        return UnavailableError(
            f"The object store '{server}' does not support TLS.", hint=f"Use http{server[5:]}.", store=server
        )
    if "list response" in text:
        return _not_s3(server, "no listing")
    if "ConnectionRefused" in text or "Connection refused" in text:
        why = "connection refused"
    elif "dns error" in text:
        why = "its name can't be resolved"
    elif "timed out" in text or "TimedOut" in text or "deadline" in text:
        why = "no response in time"
    else:
        why = "the connection broke"
    return UnavailableError(
        f"The object store '{server}' can't be reached: {why}.",
        hint="Check the address, and that the server is running and reachable from here.",
        store=server,
    )
