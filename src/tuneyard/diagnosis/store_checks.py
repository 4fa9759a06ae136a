"""Checks of what Tuneyard's protocol relies on besides conditional writes, each against a real store.

Every check writes only below its `ScratchPrefix`. Those that send requests of their own (`raw`) are skipped for a
folder, and without static keys to sign with.
"""

from __future__ import annotations

import base64
import hashlib
import re
from concurrent.futures import ThreadPoolExecutor

from tuneyard.diagnosis.check import Check, ok, problem, skipped, warning
from tuneyard.diagnosis.scratch_prefix import ScratchPrefix
from tuneyard.diagnosis.sigv4 import SigV4Client
from tuneyard.errors import ConflictError, IntegrityError, TuneyardError

MANY = 1005  # more than one page of a listing
_ODD = (
    "a b",
    "a+b",
    "a%2Fb",
    "a&b=c",
    "ü-ß-語",
    "#hash?query",
    "quote'(x)*!",
    "~tilde,comma;colon:",
    "@at$dollar",
    "[b]{c}",
    '<tag>"x"',
)
_PART = 5 * 1024 * 1024  # S3's minimum part size, the last part aside
_OTHER_STORE = "Use another object store; resume depends on these reads."


def read_after_write(scratch: ScratchPrefix) -> Check:
    """Check that writing, overwriting and deleting an object take effect immediately."""
    name, store, key = "read after write", scratch.store, scratch.key("read/after")
    for body in (b"one", b"another", b""):
        store.put(key, body)
        if store.get(key).body != body or store.head(key).size != len(body):
            return problem(name, "a read right after a write returns an older version", _OTHER_STORE)
    store.delete([key])
    if any(info.key == key for info in store.list(scratch.prefix("read/"))):
        return problem(name, "a deleted object is still listed", _OTHER_STORE)
    return ok(name, "writes, overwrites and deletes are visible immediately")


def range_reads(scratch: ScratchPrefix) -> Check:
    """Read an object from several offsets."""
    name, key = "range reads", scratch.key("range/read")
    body = hashlib.sha256(b"tuneyard").digest() * 4096
    scratch.store.put(key, body)
    for offset in (0, 1, 4097, len(body) - 1, len(body)):
        if b"".join(scratch.store.read(key, offset=offset)) != body[offset:]:
            return problem(name, f"a read from offset {offset} returns wrong bytes", _OTHER_STORE, IntegrityError)
    return ok(name, "an interrupted download can resume at its offset")


def odd_keys(scratch: ScratchPrefix) -> Check:
    """Write and list keys with characters that are special in URLs, XML or file systems."""
    name = "odd key characters"
    bodies = {scratch.key(f"odd/{part}/{part}"): part.encode() for part in _ODD}
    for key, body in bodies.items():
        scratch.store.put(key, body)
    listed = {info.key for info in scratch.store.list(scratch.prefix("odd/"))}
    wrong = sorted(key.rsplit("/", 1)[1] for key, body in bodies.items() if scratch.store.get(key).body != body)
    wrong += sorted(key.rsplit("/", 1)[1] for key in bodies.keys() - listed)
    if wrong:
        return problem(name, f"not preserved: {', '.join(map(repr, wrong))}", _OTHER_STORE, TuneyardError)
    return ok(name, f"{len(bodies)} unusual keys preserved")


def listing(scratch: ScratchPrefix) -> Check:
    """List more than one page of objects, after writing and after deleting them."""
    name, store = "listing", scratch.store
    keys = sorted((scratch.key(f"many/{number:05}") for number in range(MANY)), key=str.encode)
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda key: store.put(key, b""), keys))
    listed = [info.key for info in store.list(scratch.prefix("many/"))]
    if missing := len(set(keys) - set(listed)):
        return problem(name, f"{missing} of {MANY} written objects are not listed", _OTHER_STORE)
    if len(listed) != MANY:
        return problem(name, f"{MANY} objects are listed as {len(listed)}", _OTHER_STORE)
    store.delete(keys)
    if left := sum(1 for _ in store.list(scratch.prefix("many/"))):
        return problem(name, f"{left} of {MANY} deleted objects are still listed", _OTHER_STORE)
    return ok(name, f"{MANY} objects over two pages, correct right after writing and deleting")


def nested_keys(scratch: ScratchPrefix) -> Check:
    """Write an object below the key of another, which S3 allows and folders don't."""
    name, upper, lower = "keys below an object", scratch.key("nested/a"), scratch.key("nested/a/b")
    scratch.store.put(upper, b"upper")
    try:
        scratch.store.put(lower, b"lower")
    except ConflictError:
        return ok(name, "refused, as in a folder; Tuneyard writes no such keys")
    if scratch.store.get(upper).body != b"upper" or scratch.store.get(lower).body != b"lower":
        return problem(name, "an object below another's key replaces that object", _OTHER_STORE, IntegrityError)
    return ok(name, "allowed, as on S3; Tuneyard writes no such keys")


def sorted_listing(scratch: ScratchPrefix) -> Check:
    """Check the order of the server's own listing; Tuneyard sorts every listing."""
    name = "order of listing"
    if not scratch.raw:
        return skipped(name, "Tuneyard sorts every listing")
    # byte order differs here from write order and from case-insensitive order
    for part in ("b", "a", "é", "Z", "a-b", "c/b", "c-a", "a0"):
        scratch.store.put(scratch.key(f"order/{part}"), b"")
    response = scratch.raw.send("GET", scratch.bucket, {"list-type": "2", "prefix": f"{scratch.path}order/"})
    found = re.findall(rb"<Key>(.*?)</Key>", response.body)
    if found != sorted(found):
        return warning(name, "not sorted by bytes as on S3; harmless, since Tuneyard sorts every listing")
    return ok(name, "sorted by bytes, as on S3")


def checksums(scratch: ScratchPrefix) -> Check:
    """Send a body with each of the three checksums that clients send, each of them wrong."""
    name = "wrong checksums"
    if not scratch.raw:
        return skipped(name, _no_raw(scratch))
    wrong = hashlib.sha256(b"other").digest()
    wrong_headers: dict[str, tuple[dict[str, str], str]] = {
        "x-amz-checksum-sha256": ({"x-amz-checksum-sha256": base64.b64encode(wrong).decode()}, ""),
        "Content-MD5": (
            {"content-md5": base64.b64encode(hashlib.md5(b"other", usedforsecurity=False).digest()).decode()},
            "",
        ),
        "x-amz-content-sha256": ({}, wrong.hex()),
    }
    accepted = [
        header
        for header, (headers, payload) in wrong_headers.items()
        if scratch.raw.send(
            "PUT", scratch.key(f"checksum/{header}"), body=b"body", headers=headers, payload_sha256=payload
        ).is_success
    ]
    right = base64.b64encode(hashlib.sha256(b"body").digest()).decode()
    response = scratch.raw.send(
        "PUT", scratch.key("checksum/right"), body=b"body", headers={"x-amz-checksum-sha256": right}
    )
    if not response.is_success:
        return problem(name, f"a correct x-amz-checksum-sha256 is rejected (HTTP {response.status})", _OTHER_STORE)
    if "x-amz-checksum-sha256" in accepted:  # the one that Tuneyard's uploads carry
        found = f"a body that does not match its {' and '.join(accepted)} is accepted"
        return warning(name, found, "Run tuneyard verify after publishing, or use a server that verifies checksums.")
    if accepted:
        found = f"x-amz-checksum-sha256, which Tuneyard sends, is verified; {' and '.join(accepted)} is not"
        return ok(name, found)
    return ok(name, "rejected: x-amz-checksum-sha256, Content-MD5, x-amz-content-sha256")


def multipart(scratch: ScratchPrefix) -> Check:
    """Write an object as a multipart upload."""
    name, key = "multipart upload", scratch.key("parts/whole")
    chunk = hashlib.sha256(b"part").digest() * 32768
    digest = scratch.store.write(key, (chunk for _ in range(17)))
    read = hashlib.sha256()
    size = 0
    for piece in scratch.store.read(key):
        read.update(piece)
        size += len(piece)
    if size != digest.size or read.hexdigest() != digest.sha256:
        return problem(name, "a multipart object reads back with wrong bytes", _OTHER_STORE, IntegrityError)
    return ok(name, f"{digest.size // 2**20} MiB in two parts read back unchanged")


def aborted_multipart(scratch: ScratchPrefix) -> Check:
    """Abort a multipart upload: neither an object nor its parts may remain."""
    name = "aborted upload"
    if not scratch.raw:
        return skipped(name, _no_raw(scratch))
    key = scratch.key("parts/aborted")
    upload = _create_upload(scratch.raw, key)
    if not upload:
        return problem(name, "a multipart upload can't be created", _OTHER_STORE, TuneyardError)
    part = {"partNumber": "1", "uploadId": upload}
    scratch.raw.send("PUT", key, part, body=b"\0" * _PART)
    if not any(found == upload for _, found in scratch.incomplete_uploads()):
        # some servers list no uploads: then the upload is gone when it accepts no further part
        scratch.raw.send("DELETE", key, {"uploadId": upload})
        left = scratch.raw.send("PUT", key, part, body=b"late").is_success
    else:
        scratch.raw.send("DELETE", key, {"uploadId": upload})
        left = any(found == upload for _, found in scratch.incomplete_uploads())
    if any(info.key == key for info in scratch.store.list(scratch.prefix("parts/"))):
        return problem(name, "an aborted upload is listed as an object", _OTHER_STORE, IntegrityError)
    if left:
        advice = "Add a lifecycle rule to the bucket that aborts incomplete multipart uploads after a day."
        return warning(name, "the parts of an aborted upload remain", advice)
    return ok(name, "leaves nothing behind")


def _create_upload(raw: SigV4Client, key: str) -> str:
    response = raw.send("POST", key, {"uploads": ""})
    found = re.search(rb"<UploadId>(.*?)</UploadId>", response.body)
    return found[1].decode() if response.is_success and found else ""


def _no_raw(scratch: ScratchPrefix) -> str:
    return (
        "not applicable to a folder"
        if scratch.store.local_path(f"{scratch.bucket}/x")
        else "needs static keys to sign with"
    )
