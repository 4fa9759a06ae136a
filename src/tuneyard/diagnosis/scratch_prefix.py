"""A temporary prefix of a store for one probe. Its objects and incomplete uploads are removed at the end.

Written keys are recorded, so that they are removed even where the server's listing is wrong.
"""

from __future__ import annotations

import contextlib
import re
import secrets
from collections.abc import Generator
from html import unescape

from tuneyard.diagnosis.sigv4 import SigV4Client
from tuneyard.errors import cleaning_up
from tuneyard.store import Store

_UPLOAD = re.compile(rb"<Upload>.*?</Upload>", re.DOTALL)


class ScratchPrefix:
    """A prefix that a probe writes below.

    Args:
        store: The store under test.
        bucket: The bucket of the prefix.
        raw: A client for signed requests to the same server; None where there is none.
    """

    def __init__(self, store: Store, bucket: str, raw: SigV4Client | None) -> None:
        self.store = store
        self.raw = raw
        self.bucket = bucket
        self.path = f".tuneyard-doctor/{secrets.token_hex(8)}/"
        self._written: set[str] = set()

    def key(self, name: str) -> str:
        """Return the key of a name, and record it for removal.

        Args:
            name: A path below the prefix.
        """
        key = f"{self.bucket}/{self.path}{name}"
        self._written.add(key)
        return key

    def prefix(self, name: str = "") -> str:
        """Return a prefix below this one; it ends with a `/`."""
        return f"{self.bucket}/{self.path}{name}"

    def incomplete_uploads(self) -> list[tuple[str, str]]:
        """List the incomplete multipart uploads below the prefix: path in the bucket, and upload id."""
        assert self.raw
        response = self.raw.send("GET", self.bucket, {"uploads": "", "prefix": self.path})
        found = [_key_and_id(upload) for upload in _UPLOAD.findall(response.body)]
        return [(path, upload) for path, upload in found if path.startswith(self.path)]

    def clean(self) -> None:
        """Remove everything below the prefix."""
        if self.raw:
            for path, upload in self.incomplete_uploads():
                self.raw.send("DELETE", f"{self.bucket}/{path}", {"uploadId": upload})
        listed = {info.key for info in self.store.list(self.prefix())}
        self.store.delete(sorted(listed | self._written))


@contextlib.contextmanager
def scratch_prefix(store: Store, bucket: str, raw: SigV4Client | None) -> Generator[ScratchPrefix]:
    """Provide a prefix to write below, and clean it up however the block ends.

    Args:
        store: The store under test.
        bucket: The bucket of the prefix.
        raw: A client for signed requests to the same server; None where there is none.
    """
    scratch = ScratchPrefix(store, bucket, raw)
    with cleaning_up(scratch.clean):
        yield scratch


def _key_and_id(upload: bytes) -> tuple[str, str]:
    def element(name: bytes) -> str:
        found = re.search(rb"<" + name + rb">(.*?)</" + name + rb">", upload, re.DOTALL)
        return unescape(found[1].decode()) if found else ""

    return element(b"Key"), element(b"UploadId")
