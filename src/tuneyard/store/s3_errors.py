"""From what an S3 server or the network said to Tuneyard's errors: unreachable, denied and missing stay apart.

The server's own error code decides wherever there is one, since status codes mislead (versitygw answers 404 to an
unknown access key). Only the code goes into a message, never the server's text, which may quote what was signed.
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
    """Give the server's error code, or an empty string where it sent none."""
    found = _CODE.search(str(error))
    return (found[1] or found[2]) if found else ""


def status_of(error: BaseException) -> int:
    """Give the HTTP status of an answer, or 0 where none came."""
    found = _STATUS.search(str(error))
    return int(found[1]) if found else 0


def explain(error: BaseException, server: str, bucket: str, path: str) -> TuneyardError:
    """Make one of Tuneyard's errors of what obstore raised.

    Args:
        error: What obstore raised.
        server: The server's URL.
        bucket: The bucket asked.
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
        return InvalidValuesError(f"The object store {server} takes no bucket of the name {bucket!r}.")
    if code in _REGION or status in {301, 307, 308}:
        return _wrong_region(server, bucket, code)
    if code in _WRONG_KEYS or status in {401, 403} or code == "AccessDenied":
        return _denied(server, key, code)
    return _about_object(error, code, status, key, server) or _about_server(str(error), code, status, key, server)


def _about_object(error: BaseException, code: str, status: int, key: str, server: str) -> TuneyardError | None:
    from obstore import exceptions

    if code in _BELOW_OR_ABOVE:
        return ConflictError(
            f"The key {key} can't be written in {server}: an object lies above or below it.",
            hint="Choose a key that is neither a folder of other objects nor below an object.",
            key=key,
        )
    # a 404 without a code is no answer of an S3 server, whatever obstore takes it for
    if code in {"NoSuchKey", "PreconditionFailed"} or status in {409, 412}:
        if isinstance(error, exceptions.AlreadyExistsError):
            return AlreadyExistsError(f"There is already an object at {key} in {server}.", key=key, store=server)
        if isinstance(error, exceptions.PreconditionError):
            return ChangedError(
                f"The object at {key} in {server} is no longer the version that was read.", key=key, store=server
            )
    return missing(server, key) if code == "NoSuchKey" else None


def _about_server(text: str, code: str, status: int, key: str, server: str) -> TuneyardError:
    if "HTTP request to an HTTPS server" in text:
        return UnavailableError(
            f"The object store {server} speaks TLS only.", hint=f"Use https{server[4:]}.", store=server
        )
    if code in _FULL or status == _INSUFFICIENT_STORAGE:
        clean = f"tuneyard gc {key.partition('/')[0]}/experiments"
        return FullError(
            f"The object store {server} has no room for {key} ({code or status}).",
            hint="Make room on the server, raise the bucket's quota, or clean up: "
            + fitting(clean, f"{clean} --store {server}, on a machine that reaches it"),
            store=server,
        )
    if status >= 500 or status == 429:
        return UnavailableError(
            f"The object store {server} could not serve {key}: {code or 'HTTP'} {status}.",
            hint="Try again; look at the server's own log and disk if it stays.",
            store=server,
        )
    if not code:
        return _not_s3(server, f"HTTP {status}")
    return TuneyardError(
        f"The object store {server} refused a request for {key}: {code} {status}.", key=key, store=server
    )


def missing(server: str, key: str) -> NotFoundError:
    """Make the error for an object that is not there, in a bucket that is."""
    return NotFoundError(f"There is no object at {key} in {server}.", key=key, store=server)


def _not_s3(server: str, said: str) -> UnavailableError:
    # never "missing": whoever resumes would take that for a fresh start
    return UnavailableError(
        f"What answers at {server} does not answer as an S3 server does ({said}).",
        hint="Check the address, and whether a proxy stands between.",
        store=server,
    )


def _no_bucket(server: str, bucket: str) -> NotFoundError:
    return NotFoundError(
        f"There is no bucket {bucket} in the object store {server}.",
        hint="Create it with the server's own tools, or correct the first part of the key.",
        bucket=bucket,
        store=server,
    )


def _wrong_region(server: str, bucket: str, code: str) -> InvalidValuesError:
    return InvalidValuesError(
        f"The bucket {bucket} of {server} is in another region than requests are signed for ({code or 'redirected'}).",
        hint=f"Name the bucket's region: {assignment('AWS_REGION', '…')}",
        store=server,
    )


def _denied(server: str, key: str, code: str) -> DeniedError:
    if code in _WRONG_KEYS:
        return DeniedError(
            f"The object store {server} does not accept the credentials ({code}).",
            hint=fitting(
                "Check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN, or the profile in AWS_PROFILE.",
                f"Check the keys in {setting('AWS_ACCESS_KEY_ID')}.",
            ),
            store=server,
            code=code,
        )
    if code == "RequestTimeTooSkewed":
        return DeniedError(
            f"The object store {server} refuses requests because this machine's clock is off.",
            hint=fitting("Set the clock: timedatectl status", "Have the clock of the pod's node set."),
            store=server,
            code=code,
        )
    return DeniedError(
        f"The object store {server} denies access to {key}" + (f" ({code})." if code else "."),
        hint="Ask for the right to read, list and write there, or use other credentials.",
        key=key,
        store=server,
        code=code,
    )


def _unreachable(text: str, server: str) -> UnavailableError:
    certificate = _CERTIFICATE.search(text)
    if certificate:
        return UnavailableError(
            f"The TLS certificate of the object store {server} is not trusted ({certificate[1]}).",
            hint=f"Name the authority that signed it: {assignment('AWS_CA_BUNDLE', '/path/to/ca.pem')}",
            store=server,
        )
    if "InvalidContentType" in text:
        return UnavailableError(
            f"The object store {server} does not speak TLS.", hint=f"Use http{server[5:]}.", store=server
        )
    if "list response" in text:
        return _not_s3(server, "no listing")
    if "ConnectionRefused" in text or "Connection refused" in text:
        why = "connection refused"
    elif "dns error" in text:
        why = "its name can't be resolved"
    elif "timed out" in text or "TimedOut" in text or "deadline" in text:
        why = "no answer in time"
    else:
        why = "the connection broke"
    return UnavailableError(
        f"The object store {server} can't be reached: {why}.",
        hint="Check the address, and that the server runs and is reachable from here.",
        store=server,
    )
