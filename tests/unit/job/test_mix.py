"""A weighted mix: exact shares, no row drawn twice before every row was drawn once, the same on any machine."""

from collections import Counter
from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from tuneyard.job.mix import describe, mix_counts, mix_rows


def test_shares_are_exact_by_the_largest_remainder():
    assert mix_counts(10, [1, 1, 1]) == [4, 3, 3]
    assert mix_counts(7, [0.5, 0.3, 0.2]) == [4, 2, 1]  # 3.5, 2.1, 1.4: one row is left, for the first
    assert mix_counts(100, [3, 1]) == [75, 25]
    assert mix_counts(3, [1000, 1]) == [3, 0]


@given(st.integers(0, 500), st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=6))
def test_counts_add_up_and_differ_by_less_than_a_row_from_their_shares(total, weights):
    counts = mix_counts(total, weights)
    assert sum(counts) == total
    whole = sum(map(Fraction, weights))
    assert all(abs(count - total * Fraction(weight) / whole) < 1 for count, weight in zip(counts, weights, strict=True))


@given(st.lists(st.tuples(st.integers(1, 30), st.integers(0, 90)), min_size=1, max_size=4), st.integers(0, 9))
def test_rows_are_drawn_as_evenly_as_possible(files, seed):
    sizes, counts = zip(*files, strict=True)
    rows = mix_rows(sizes, counts, seed)
    assert mix_rows(sizes, counts, seed) == rows
    drawn = Counter(rows)
    for file, (size, count) in enumerate(files):
        times = [drawn[file, row] for row in range(size)]
        assert sum(times) == count
        assert max(times) - min(times) <= 1


def test_a_mix_is_stable_across_versions():
    assert mix_rows([3, 2], [2, 5], 7) == GOLDEN
    assert mix_rows([3, 2], [2, 5], 8) != GOLDEN


def test_the_description_names_what_is_drawn():
    assert describe(["a.jsonl", "b.jsonl"], [30, 10], [20, 20]) == (
        "An epoch mixes 20 rows (50.0%) of a.jsonl, which has 30, each at most once; 20 rows (50.0%) of b.jsonl, which"
        " has 10, each up to 2 times."
    )


GOLDEN = [(1, 0), (0, 1), (1, 1), (1, 1), (1, 0), (0, 2), (1, 0)]
