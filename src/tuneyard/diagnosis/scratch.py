"""A prefix of a store for one probe, which leaves nothing behind: its objects, and its unfinished uploads.

What was written is remembered, so that it is removed where the server's listing can't be trusted too.
"""

from __future__ import annotations

import contextlib
import re
import secrets
from collections.abc import Generator
from html import unescape

from tuneyard.diagnosis.signed import SignedClient
from tuneyard.errors import cleaning_up
from tuneyard.store import Store

_UPLOAD = re.compile(rb"<Upload>.*?</Upload>", re.DOTALL)


class Scratch:
    """A place for probing.

    Args:
        store: The store probed.
        bucket: The bucket that the prefix lies in.
        raw: Signed requests to the same server, or None where there are none.
    """

    def __init__(self, store: Store, bucket: str, raw: SignedClient | None) -> None:
        self.store = store
        self.raw = raw
        self.bucket = bucket
        self.path = f".tuneyard-doctor/{secrets.token_hex(8)}/"
        self._written: set[str] = set()

    def key(self, name: str) -> str:
        """Give the key of a name, and remember to delete it.

        Args:
            name: A path below the prefix.
        """
        key = f"{self.bucket}/{self.path}{name}"
        self._written.add(key)
        return key

    def prefix(self, name: str = "") -> str:
        """Give the prefix of a folder below; it ends at a `/`."""
        return f"{self.bucket}/{self.path}{name}"

    def unfinished(self) -> list[tuple[str, str]]:
        """List the uploads below that were begun and never ended: path in the bucket, and id."""
        assert self.raw
        answer = self.raw.send("GET", self.bucket, {"uploads": "", "prefix": self.path})
        found = [_key_and_id(upload) for upload in _UPLOAD.findall(answer.body)]
        return [(path, upload) for path, upload in found if path.startswith(self.path)]

    def clean(self) -> None:
        """Remove everything below the prefix."""
        if self.raw:
            for path, upload in self.unfinished():
                self.raw.send("DELETE", f"{self.bucket}/{path}", {"uploadId": upload})
        listed = {info.key for info in self.store.list(self.prefix())}
        self.store.delete(sorted(listed | self._written))


@contextlib.contextmanager
def scratch(store: Store, bucket: str, raw: SignedClient | None) -> Generator[Scratch]:
    """Lend a place for probing, and clean it up however the block ends.

    Args:
        store: The store probed.
        bucket: The bucket that the prefix lies in.
        raw: Signed requests to the same server, or None where there are none.
    """
    place = Scratch(store, bucket, raw)
    with cleaning_up(place.clean):
        yield place


def _key_and_id(upload: bytes) -> tuple[str, str]:
    def between(name: bytes) -> str:
        found = re.search(rb"<" + name + rb">(.*?)</" + name + rb">", upload, re.DOTALL)
        return unescape(found[1].decode()) if found else ""

    return between(b"Key"), between(b"UploadId")
