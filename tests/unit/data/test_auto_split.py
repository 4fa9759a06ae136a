"""AUTO_SPLIT is decided by content and seed, and never validates on memorised rows."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuneyard.data import Encoded, split
from tuneyard.errors import InvalidDataError, InvalidValuesError


def rows(*numbers: int) -> list[list[Encoded]]:
    return [[Encoded([7, number], [False, True], 2), Encoded([8], [True], 1)] for number in numbers]


def test_the_share_is_kept_and_both_sides_are_in_order():
    train, validation = split(rows(*range(200)), 0.1, seed=42)
    assert (len(train), len(validation)) == (180, 20)
    assert sorted(train + validation) == list(range(200))
    assert train == sorted(train)
    assert validation == sorted(validation)


def test_the_same_seed_gives_the_same_sides_and_another_gives_others():
    data = rows(*range(200))
    assert split(data, 0.1, seed=1) == split(data, 0.1, seed=1)
    assert split(data, 0.1, seed=1) != split(data, 0.1, seed=2)


def test_the_sides_do_not_depend_on_the_order_of_the_rows():
    _, there = split(rows(*range(50)), 0.2, seed=3)
    _, back = split(rows(*reversed(range(50))), 0.2, seed=3)
    assert {49 - index for index in back} == set(there)


@given(
    numbers=st.lists(st.integers(0, 9), min_size=2, max_size=60).filter(lambda given: len(set(given)) > 1),
    ratio=st.floats(0.01, 0.99),
    seed=st.integers(0, 3),
)
def test_equal_rows_are_never_on_both_sides_and_no_side_is_empty(numbers, ratio, seed):
    train, validation = split(rows(*numbers), ratio, seed)
    assert train
    assert validation
    assert sorted(train + validation) == list(range(len(numbers)))
    assert not {numbers[index] for index in train} & {numbers[index] for index in validation}


def test_two_rows_go_one_to_each_side():
    train, validation = split(rows(1, 2), 0.01, seed=0)
    assert (len(train), len(validation)) == (1, 1)


@pytest.mark.parametrize("data", [rows(), rows(1), rows(4, 4, 4)])
def test_fewer_than_two_different_rows_cannot_be_split(data):
    with pytest.raises(InvalidDataError, match="at least two different rows") as caught:
        split(data, 0.1, seed=0)
    assert caught.value.hint == "Add data, or set finetuning_config.data_conf.validation_data.type=NONE"


@pytest.mark.parametrize("ratio", [0, 1, -0.1, 1.5])
def test_an_invalid_ratio_is_refused(ratio):
    with pytest.raises(InvalidValuesError, match=r"validation_data\.ratio is"):
        split(rows(1, 2), ratio, seed=0)
