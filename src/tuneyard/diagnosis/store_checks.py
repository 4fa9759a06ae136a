"""What Tuneyard's protocol relies on besides conditional writes, each tried on a real store and named.

Every check writes below a `Scratch` alone. Those that need requests which no client sends (`_raw`) are skipped for a
folder, and where there are no static keys to sign with.
"""

from __future__ import annotations

import base64
import hashlib
import re
from concurrent.futures import ThreadPoolExecutor

from tuneyard.diagnosis.check import Check, ok, problem, skipped, warning
from tuneyard.diagnosis.scratch import Scratch
from tuneyard.diagnosis.signed import Answer, SignedClient
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
_PART = 5 * 1024 * 1024  # S3's smallest part that is not the last
_OTHER_STORE = "Use another object store; resuming decides by what it reads here."


def read_after_write(place: Scratch) -> Check:
    """Read, overwrite and delete one object, and see each at once."""
    name, store, key = "read after write", place.store, place.key("read/after")
    for body in (b"one", b"another", b""):
        store.put(key, body)
        if store.get(key).body != body or store.head(key).size != len(body):
            return problem(name, "an object read right after it was written is an older one", _OTHER_STORE)
    store.delete([key])
    if any(info.key == key for info in store.list(place.prefix("read/"))):
        return problem(name, "an object that was deleted is still listed", _OTHER_STORE)
    return ok(name, "what was written, overwritten and deleted is seen at once")


def range_reads(place: Scratch) -> Check:
    """Read an object from several offsets on."""
    name, key = "range reads", place.key("range/read")
    body = hashlib.sha256(b"tuneyard").digest() * 4096
    place.store.put(key, body)
    for offset in (0, 1, 4097, len(body) - 1, len(body)):
        if b"".join(place.store.read(key, offset=offset)) != body[offset:]:
            return problem(name, f"reading from byte {offset} on gives other bytes", _OTHER_STORE, IntegrityError)
    return ok(name, "an interrupted download can go on where it was")


def odd_keys(place: Scratch) -> Check:
    """Write and list keys with characters that have a meaning in URLs, XML or file systems."""
    name = "odd key characters"
    bodies = {place.key(f"odd/{part}/{part}"): part.encode() for part in _ODD}
    for key, body in bodies.items():
        place.store.put(key, body)
    listed = {info.key for info in place.store.list(place.prefix("odd/"))}
    wrong = sorted(key.rsplit("/", 1)[1] for key, body in bodies.items() if place.store.get(key).body != body)
    wrong += sorted(key.rsplit("/", 1)[1] for key in bodies.keys() - listed)
    if wrong:
        return problem(name, f"not kept as they are: {', '.join(map(repr, wrong))}", _OTHER_STORE, TuneyardError)
    return ok(name, f"{len(bodies)} kinds kept as they are")


def listing(place: Scratch) -> Check:
    """List more than one page, after writing and after deleting."""
    name, store = "listing", place.store
    keys = sorted((place.key(f"many/{number:05}") for number in range(MANY)), key=str.encode)
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda key: store.put(key, b""), keys))
    listed = [info.key for info in store.list(place.prefix("many/"))]
    if missing := len(set(keys) - set(listed)):
        return problem(name, f"{missing} of {MANY} objects that were written are not listed", _OTHER_STORE)
    if len(listed) != MANY:
        return problem(name, f"{MANY} objects are listed as {len(listed)}", _OTHER_STORE)
    store.delete(keys)
    if left := sum(1 for _ in store.list(place.prefix("many/"))):
        return problem(name, f"{left} of {MANY} objects that were deleted are still listed", _OTHER_STORE)
    return ok(name, f"{MANY} objects over two pages, right after writing and after deleting")


def nested_keys(place: Scratch) -> Check:
    """Write an object below the key of another, as S3 allows and folders do not."""
    name, upper, lower = "keys below an object", place.key("nested/a"), place.key("nested/a/b")
    place.store.put(upper, b"upper")
    try:
        place.store.put(lower, b"lower")
    except ConflictError:
        return ok(name, "refused, as a folder would; Tuneyard writes none")
    if place.store.get(upper).body != b"upper" or place.store.get(lower).body != b"lower":
        return problem(name, "an object below another's key takes that one's place", _OTHER_STORE, IntegrityError)
    return ok(name, "allowed, as on S3; Tuneyard writes none")


def sorted_listing(place: Scratch) -> Check:
    """Ask the server itself for the order of a listing; Tuneyard sorts what it gets."""
    name = "order of listing"
    if not place.raw:
        return skipped(name, "Tuneyard sorts by itself")
    # no order of writing, no order of letters without their case, but that of bytes
    for part in ("b", "a", "é", "Z", "a-b", "c/b", "c-a", "a0"):
        place.store.put(place.key(f"order/{part}"), b"")
    answer = place.raw.send("GET", place.bucket, {"list-type": "2", "prefix": f"{place.path}order/"})
    found = re.findall(rb"<Key>(.*?)</Key>", answer.body)
    if found != sorted(found):
        return warning(name, "not sorted by bytes, as S3 is; Tuneyard sorts by itself, so nothing is lost")
    return ok(name, "sorted by bytes, as S3 is")


def checksums(place: Scratch) -> Check:
    """Send bodies with a wrong checksum, each of the three that clients send."""
    name = "wrong checksums"
    if not place.raw:
        return skipped(name, _no_raw(place))
    wrong = hashlib.sha256(b"other").digest()
    sent: dict[str, tuple[dict[str, str], str]] = {
        "x-amz-checksum-sha256": ({"x-amz-checksum-sha256": base64.b64encode(wrong).decode()}, ""),
        "Content-MD5": (
            {"content-md5": base64.b64encode(hashlib.md5(b"other", usedforsecurity=False).digest()).decode()},
            "",
        ),
        "x-amz-content-sha256": ({}, wrong.hex()),
    }
    taken = [
        header
        for header, (headers, payload) in sent.items()
        if place.raw.send(
            "PUT", place.key(f"checksum/{header}"), body=b"body", headers=headers, payload_sha256=payload
        ).accepted
    ]
    right = base64.b64encode(hashlib.sha256(b"body").digest()).decode()
    answer = place.raw.send("PUT", place.key("checksum/right"), body=b"body", headers={"x-amz-checksum-sha256": right})
    if not answer.accepted:
        return problem(name, f"a right x-amz-checksum-sha256 is refused (HTTP {answer.status})", _OTHER_STORE)
    if "x-amz-checksum-sha256" in taken:  # the one that Tuneyard's own uploads carry
        found = f"a body that differs from its {' and '.join(taken)} is kept"
        return warning(name, found, "Run tuneyard verify after publishing, or use a server that checks.")
    if taken:
        found = f"x-amz-checksum-sha256, which Tuneyard sends, is checked; {' and '.join(taken)} is not"
        return ok(name, found)
    return ok(name, "refused: x-amz-checksum-sha256, Content-MD5, x-amz-content-sha256")


def multipart(place: Scratch) -> Check:
    """Write one object in parts."""
    name, key = "multipart upload", place.key("parts/whole")
    chunk = hashlib.sha256(b"part").digest() * 32768
    digest = place.store.write(key, (chunk for _ in range(17)))
    read = hashlib.sha256()
    size = 0
    for piece in place.store.read(key):
        read.update(piece)
        size += len(piece)
    if size != digest.size or read.hexdigest() != digest.sha256:
        return problem(name, "an object written in parts reads back as other bytes", _OTHER_STORE, IntegrityError)
    return ok(name, f"{digest.size // 2**20} MiB in two parts, read back the same")


def aborted_multipart(place: Scratch) -> Check:
    """Begin an upload in parts and break it off: neither object nor parts may stay."""
    name = "aborted upload"
    if not place.raw:
        return skipped(name, _no_raw(place))
    key = place.key("parts/broken-off")
    upload = _begin(place.raw, key)
    if not upload:
        return problem(name, "an upload in parts can't be begun", _OTHER_STORE, TuneyardError)
    part = {"partNumber": "1", "uploadId": upload}
    place.raw.send("PUT", key, part, body=b"\0" * _PART)
    if not any(found == upload for _, found in place.unfinished()):
        # some servers list no uploads: then only another part can tell whether the upload is over
        place.raw.send("DELETE", key, {"uploadId": upload})
        left = place.raw.send("PUT", key, part, body=b"late").accepted
    else:
        place.raw.send("DELETE", key, {"uploadId": upload})
        left = any(found == upload for _, found in place.unfinished())
    if any(info.key == key for info in place.store.list(place.prefix("parts/"))):
        return problem(name, "an upload that was broken off is listed as an object", _OTHER_STORE, IntegrityError)
    if left:
        advice = "Give the bucket a lifecycle rule that ends unfinished uploads after a day."
        return warning(name, "the parts of an upload that was broken off stay", advice)
    return ok(name, "leaves nothing behind")


def _begin(raw: SignedClient, key: str) -> str:
    answer: Answer = raw.send("POST", key, {"uploads": ""})
    found = re.search(rb"<UploadId>(.*?)</UploadId>", answer.body)
    return found[1].decode() if answer.accepted and found else ""


def _no_raw(place: Scratch) -> str:
    return "a folder has none" if place.store.local_path(f"{place.bucket}/x") else "needs static keys to sign with"
