"""What every store promises, verb by verb, on a folder and on real S3 servers."""

from __future__ import annotations

import hashlib
import itertools
import secrets
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest

from lab.places import Place
from tuneyard.errors import AlreadyExistsError, ChangedError, InvalidValuesError, NotFoundError
from tuneyard.store import Stored, open_store

CONTENDERS = 32
ROUNDS = 3


def test_a_put_is_read_back_under_one_etag(place: Place) -> None:
    etag = place.store.put(place / "a/b.json", b"body")
    stored = place.store.get(place / "a/b.json")
    info = place.store.head(place / "a/b.json")
    assert stored.body == b"body"
    assert (info.key, info.size) == (place / "a/b.json", 4)
    assert stored.etag == info.etag == etag
    assert [listed.etag for listed in place.store.list(place / "a/")] == [etag]
    assert abs(datetime.now(UTC) - info.modified) < timedelta(minutes=5)


def test_a_put_replaces_body_and_etag(place: Place) -> None:
    first = place.store.put(place / "key", b"first")
    second = place.store.put(place / "key", b"second")
    assert first != second
    assert place.store.get(place / "key").body == b"second"


@pytest.mark.parametrize("verb", ["get", "head", "read"])
def test_a_missing_object_is_not_found(place: Place, verb: str) -> None:
    place.store.put(place / "there/below", b"")
    for key in (place / "nothing", place / "there"):
        with pytest.raises(NotFoundError, match=key):
            list(getattr(place.store, verb)(key))


def test_the_second_create_fails_and_changes_nothing(place: Place) -> None:
    etag = place.store.create(place / "key", b"mine")
    with pytest.raises(AlreadyExistsError, match=place / "key"):
        place.store.create(place / "key", b"yours")
    assert place.store.get(place / "key") == Stored(b"mine", etag)


def test_a_replace_accepts_only_the_version_that_it_names(place: Place) -> None:
    first = place.store.put(place / "key", b"first")
    second = place.store.replace(place / "key", b"second", etag=first)
    with pytest.raises(ChangedError, match=place / "key"):
        place.store.replace(place / "key", b"third", etag=first)
    assert place.store.get(place / "key").body == b"second"
    assert place.store.get(place / "key").etag == second


def test_a_replace_of_nothing_is_a_change(place: Place) -> None:
    with pytest.raises(ChangedError):
        place.store.replace(place / "key", b"body", etag='"0123456789abcdef0123456789abcdef"')
    assert list(place.store.list(place.prefix)) == []


@pytest.mark.parametrize("verb", ["create", "replace"])
def test_of_many_simultaneous_conditional_writes_exactly_one_wins(place: Place, verb: str) -> None:
    for number in range(ROUNDS):
        key = place / f"{verb}-{number}"
        etag = place.store.put(key, b"before") if verb == "replace" else ""
        start = threading.Barrier(CONTENDERS)

        def contend(
            _: int, key: str = key, etag: str = etag, start: threading.Barrier = start
        ) -> tuple[bytes, str] | None:
            body = secrets.token_bytes(32)
            start.wait()
            try:
                if verb == "create":
                    return body, place.store.create(key, body)
                return body, place.store.replace(key, body, etag=etag)
            except (AlreadyExistsError, ChangedError):
                return None

        with ThreadPoolExecutor(CONTENDERS) as pool:
            winners = [won for won in pool.map(contend, range(CONTENDERS)) if won]
        assert len(winners) == 1
        found = place.store.get(key)
        assert (found.body, found.etag) == winners[0]


def test_a_list_holds_whole_path_segments_sorted_by_bytes(place: Place) -> None:
    paths = ["a/2", "a/10", "a/b/c", "a/é", "a/Z", "ab/1", "a.b", "a/b.c"]
    for path in paths:
        place.store.put(place / path, path.encode())
    expected = sorted((place / path for path in paths if path.startswith("a/")), key=str.encode)
    assert [info.key for info in place.store.list(place / "a/")] == expected
    assert list(place.store.list(place / "nothing/")) == []


def test_a_list_goes_past_a_thousand_keys_and_so_does_a_delete(place: Place) -> None:
    keys = [place / f"many/{number:04d}" for number in range(1050)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda key: place.store.put(key, key.encode()), keys))
    place.store.put(place / "other", b"stays")
    assert [info.key for info in place.store.list(place / "many/")] == keys
    place.store.delete(keys)
    assert [info.key for info in place.store.list(place.prefix)] == [place / "other"]


def test_a_delete_of_a_missing_object_is_no_error(place: Place) -> None:
    place.store.put(place / "there", b"")
    place.store.delete([place / "not there", place / "there", place / "far/below"])
    assert list(place.store.list(place.prefix)) == []
    place.store.delete([])


def pieces(total: int, size: int) -> Iterator[bytes]:
    block = hashlib.sha256(str(total).encode()).digest() * (size // 32 + 1)
    for start in range(0, total, size):
        yield block[start % 32 : start % 32 + min(size, total - start)]


@pytest.mark.parametrize("total", [0, 1, 16 * 1024 * 1024, 40_000_001])
def test_a_stream_is_written_and_read_back_completely(place: Place, total: int) -> None:
    digest = place.store.write(place / "stream", pieces(total, 1_000_000))
    expected = b"".join(pieces(total, 1_000_000))
    assert (digest.size, digest.sha256) == (total, hashlib.sha256(expected).hexdigest())
    assert b"".join(place.store.read(place / "stream")) == expected
    assert place.store.head(place / "stream").size == total


def test_a_read_starts_at_its_offset(place: Place) -> None:
    body = b"".join(pieces(3_000_000, 700_000))
    place.store.put(place / "key", body)
    for offset in (0, 1, 2_000_000, 2_999_999, 3_000_000, 4_000_000):
        assert b"".join(place.store.read(place / "key", offset=offset)) == body[offset:]


def test_a_read_continues_within_its_version(place: Place) -> None:
    old, new = (b"".join(pieces(total, 1_000_000)) for total in (24_000_000, 24_000_032))
    place.store.put(place / "key", old)
    chunks = place.store.read(place / "key")
    first = next(chunks)
    with ThreadPoolExecutor(1) as pool:  # MinIO lets a writer wait until its readers are done
        writing = pool.submit(place.store.put, place / "key", new)
        assert first + b"".join(chunks) == old
        writing.result()
    assert b"".join(place.store.read(place / "key")) == new


class MakerError(Exception):
    pass


@pytest.mark.parametrize("error", [MakerError, FileNotFoundError, NotFoundError])
@pytest.mark.parametrize("after", [0, 40])
def test_a_broken_stream_leaves_the_old_object(place: Place, error: type[Exception], after: int) -> None:
    def broken() -> Iterator[bytes]:
        yield from itertools.repeat(b"x" * 1_000_000, after)
        raise error("the source broke")

    place.store.put(place / "before", b"before")
    for key in (place / "before", place / "nothing"):
        with pytest.raises(error, match="the source broke"):
            place.store.write(key, broken())
    assert [info.key for info in place.store.list(place.prefix)] == [place / "before"]
    assert place.store.get(place / "before").body == b"before"


def test_keys_of_any_allowed_spelling_are_kept_as_they_are(place: Place) -> None:
    paths = [
        "a b/c#d",
        "ä/ü?x=1&y",
        "p%20q/%2F",
        "plus+",
        "tilde~*'()!",
        "x:y@z$,;=",
        '[x]{y}|^`"<>',
        "trailing. ",
        "日本",
        ".tuneyard/manifest.json",
        "...",
        "#1",
    ]
    for path in paths:
        place.store.put(place / path, path.encode())
    assert {info.key for info in place.store.list(place.prefix)} == {place / path for path in paths}
    for path in paths:
        assert place.store.get(place / path).body == path.encode()
        assert place.store.head(place / path).size == len(path.encode())
    place.store.delete(place / path for path in paths)
    assert list(place.store.list(place.prefix)) == []


@pytest.mark.parametrize("path", ["../x", "a/../../x", "a//b", "a/", "/etc", "./a", "a\\b", "a\0b", "a\nb", "x" * 256])
def test_invalid_keys_are_refused_by_every_method(place: Place, path: str) -> None:
    key = f"{place.prefix.partition('/')[0]}/{path}"
    verbs: list[Callable[[], object]] = [
        lambda: place.store.get(key),
        lambda: place.store.put(key, b""),
        lambda: place.store.create(key, b""),
        lambda: place.store.replace(key, b"", etag="x"),
        lambda: place.store.head(key),
        lambda: place.store.delete([key]),
        lambda: place.store.write(key, [b""]),
        lambda: list(place.store.read(key)),
        lambda: place.store.local_path(key),
    ]
    for verb in verbs:
        with pytest.raises(InvalidValuesError, match="The object store's"):
            verb()


def test_a_prefix_without_its_slash_is_refused(place: Place) -> None:
    with pytest.raises(InvalidValuesError, match="does not end with"):
        place.store.list(place.prefix + "models")


def test_the_url_of_a_store_opens_it(place: Place) -> None:
    place.store.put(place / "key", b"body")
    assert open_store(place.store.url, environ=place.env).get(place / "key").body == b"body"
