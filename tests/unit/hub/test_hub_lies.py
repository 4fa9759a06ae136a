"""What a Hub's answers have to hold, each rule by itself: behind each, another one stands that could hide its absence."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from typing import Any

import pytest
from hostile_hub import COMMIT, OTHER_COMMIT, Asked, Case, HostileHub, Pieces, facts, hostile_hub, json_reply
from huggingface_hub.utils import close_session

from tuneyard.errors import IntegrityError
from tuneyard.hub import Hub, Patience
from tuneyard.hub.listing import read_commit, read_row


@pytest.fixture
def hostile() -> Iterator[HostileHub]:
    with hostile_hub() as running:
        yield running
        close_session()
        gc.collect()


def test_another_commit_than_the_one_asked_for_is_refused_before_its_files_are_listed(hostile: HostileHub) -> None:
    def answer(asked: Asked) -> Pieces | None:
        return [json_reply({**facts(), "sha": OTHER_COMMIT})] if asked.stage == "facts" else None

    hostile.use(Case("another commit", answer))
    hub = Hub(endpoint=hostile.url, patience=Patience(attempts=1))
    assert hub.resolve("org/tiny", "main").commit == OTHER_COMMIT  # a branch is what the Hub says it is
    hostile.use(Case("another commit", answer))
    with pytest.raises(IntegrityError, match=f"answers with the commit {OTHER_COMMIT} of org/tiny, and {COMMIT}"):
        hub.resolve("org/tiny", COMMIT)
    assert [asked.stage for asked in hostile.asked] == ["facts"]


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
def test_a_row_of_any_other_form_is_none(odd: dict[str, Any]) -> None:
    with pytest.raises((ValueError, LookupError, TypeError, AttributeError)):
        read_row({**ROW, **odd})


@pytest.mark.parametrize("sha", [None, 7, "", "main", "a" * 39, "a" * 41, "A" * 40, "../etc"])
def test_a_commit_of_any_other_form_is_none(sha: object) -> None:
    assert read_commit({"sha": "a" * 40}) == "a" * 40
    with pytest.raises(ValueError, match="names no commit"):
        read_commit({"sha": sha})
