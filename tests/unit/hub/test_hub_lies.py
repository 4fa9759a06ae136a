"""Each rule for a Hub's responses by itself: in the larger tests, another rule could hide that one is missing."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from typing import Any

import pytest
from huggingface_hub.utils import close_session

from lab.hostile_hub import (
    COMMIT,
    FILES,
    OTHER_COMMIT,
    Case,
    HostileHub,
    Pieces,
    Request,
    facts,
    hostile_hub,
    json_reply,
)
from tuneyard.errors import IntegrityError, UnavailableError
from tuneyard.hub import Hub, Limits, RetryPolicy
from tuneyard.hub.listing import read_commit, read_row


@pytest.fixture
def hostile() -> Iterator[HostileHub]:
    with hostile_hub() as running:
        yield running
        close_session()
        gc.collect()


def test_another_commit_than_the_one_requested_is_refused_before_its_files_are_listed(hostile: HostileHub) -> None:
    def answer(request: Request) -> Pieces | None:
        return [json_reply({**facts(), "sha": OTHER_COMMIT})] if request.stage == "facts" else None

    hostile.use(Case("another commit", answer))
    hub = Hub(endpoint=hostile.url, retry_policy=RetryPolicy(attempts=1))
    assert hub.resolve("org/tiny", "main").commit == OTHER_COMMIT  # the Hub decides what a branch is
    hostile.use(Case("another commit", answer))
    with pytest.raises(IntegrityError, match=f"commit '{OTHER_COMMIT}' of 'org/tiny' instead of '{COMMIT}'"):
        hub.resolve("org/tiny", COMMIT)
    assert [request.stage for request in hostile.requests] == ["facts"]


LIMITS = {
    "redirects": (Limits(redirects=0), "redirected more than 0 times"),
    "bytes of a page": (Limits(answer_bytes=10), "longer than 10 bytes"),
    "seconds of a page": (Limits(answer_seconds=0), "was not complete after 0 s"),
    "pages": (Limits(pages=0), "endless pages"),
    "files": (Limits(files=2), "more than 2 files"),
    "bytes in so many seconds": (Limits(slow_seconds=0, slow_bytes=1 << 30), "bytes arrived in"),
}


@pytest.mark.parametrize("limit", LIMITS)
def test_each_limit_applies_to_an_honest_hub(hostile: HostileHub, limit: str) -> None:
    """What costs more than a limit allows is refused, whoever answers; so nothing else can be the reason."""
    limits, words = LIMITS[limit]
    hostile.use(Case("honest", lambda request: None))
    weights = next(path for path in FILES if path.endswith(".safetensors"))

    def fetched(limits: Limits) -> bytes:
        hub = Hub(endpoint=hostile.url, retry_policy=RetryPolicy(attempts=1), limits=limits)
        model = hub.resolve("org/tiny", "")
        return b"".join(hub.read(model, next(file for file in model.files if file.path == weights)))

    assert fetched(Limits()) == FILES[weights]
    with pytest.raises(UnavailableError, match=words):
        fetched(limits)


def test_a_compressed_response_is_refused(hostile: HostileHub) -> None:
    """The body is correct: only the header claims that it is compressed."""

    def answer(request: Request) -> Pieces | None:
        return [json_reply(facts(), **{"Content-Encoding": "gzip"})] if request.stage == "facts" else None

    hostile.use(Case("packed", answer))
    with pytest.raises(UnavailableError, match="the encoding 'gzip', which was not requested"):
        Hub(endpoint=hostile.url, retry_policy=RetryPolicy(attempts=1)).resolve("org/tiny", "")


ROW: dict[str, Any] = {"type": "file", "path": "config.json", "size": 3, "oid": "a" * 40}
LFS: dict[str, Any] = {**ROW, "lfs": {"oid": "b" * 64, "size": 5}}


def test_a_row_of_a_file_has_its_size_and_one_hash() -> None:
    plain, large = read_row(ROW), read_row(LFS)
    assert plain and large
    assert (plain.path, plain.size, plain.sha256, plain.git_blob) == ("config.json", 3, None, "a" * 40)
    assert (large.size, large.sha256, large.git_blob) == (5, "b" * 64, None)
    assert all(read_row({**ROW, "type": kind}) is None for kind in ("directory", "submodule", "symlink"))


@pytest.mark.parametrize(
    "odd",
    [
        {"type": "executable"}, {"type": None}, {"path": 7}, {"path": None}, {"path": ["config.json"]}, {"size": -1},
        {"size": "3"}, {"size": True}, {"size": 2.5}, {"size": None}, {"size": 6 * 1024**4}, {"oid": None},
        {"oid": "a" * 39}, {"oid": "A" * 40}, {"oid": "a" * 41}, {"lfs": {"oid": "b" * 63, "size": 5}},
        {"lfs": {"oid": None, "size": 5}}, {"lfs": {"oid": "b" * 64, "size": -5}}, {"lfs": {}}, {"lfs": "b"},
    ],
)  # fmt: skip
def test_an_invalid_row_raises(odd: dict[str, Any]) -> None:
    with pytest.raises((ValueError, LookupError, TypeError, AttributeError)):
        read_row({**ROW, **odd})


@pytest.mark.parametrize("sha", [None, 7, "", "main", "a" * 39, "a" * 41, "A" * 40, "../etc"])
def test_an_invalid_commit_raises(sha: object) -> None:
    assert read_commit({"sha": "a" * 40}) == "a" * 40
    with pytest.raises(ValueError, match="has no commit"):
        read_commit({"sha": sha})
