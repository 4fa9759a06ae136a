"""Which keys are allowed, and how others are refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuneyard.errors import InvalidValuesError
from tuneyard.store import check_relative, split_key, split_prefix


def test_the_first_part_of_a_key_is_its_bucket() -> None:
    assert split_key("default-bucket/models/tiny/config.json") == ("default-bucket", "models/tiny/config.json")
    assert split_prefix("default-bucket/models/") == ("default-bucket", "models/")
    assert split_prefix("default-bucket/") == ("default-bucket", "")


@pytest.mark.parametrize("key", ["", "bucket", "bucket/", "/bucket/x", "UPPER/x", "a/x", "-bucket/x", "../bucket/x"])
def test_a_key_without_a_bucket_and_a_path_is_refused(key: str) -> None:
    with pytest.raises(InvalidValuesError) as caught:
        split_key(key)
    assert repr(key) in caught.value.message
    assert "bucket/path" in caught.value.hint


@pytest.mark.parametrize("prefix", ["", "/", "bucket", "bucket/x", "bucket//", "bucket/../"])
def test_a_prefix_has_a_bucket_and_ends_with_a_slash(prefix: str) -> None:
    with pytest.raises(InvalidValuesError):
        split_prefix(prefix)


def test_a_key_that_is_too_long_for_s3_is_refused() -> None:
    parts = "/".join(["x" * 200] * 5)
    assert split_key(f"bucket/{parts}")[1] == parts
    with pytest.raises(InvalidValuesError, match="1024 bytes"):
        split_key(f"bucket/{parts}/{'x' * 100}")
    with pytest.raises(InvalidValuesError, match="255 bytes"):
        split_key("bucket/" + "é" * 128)


def test_an_unpaired_surrogate_is_refused() -> None:
    with pytest.raises(InvalidValuesError, match="Unicode"):
        split_key("bucket/\ud800")


@given(st.text())
def test_no_allowed_path_leaves_its_folder(path: str) -> None:
    try:
        check_relative(path)
    except InvalidValuesError:
        return
    assert not path.startswith("/")
    assert "\\" not in path
    assert "\0" not in path
    assert not {"", ".", ".."} & set(path.split("/"))
