"""Steps do not depend on the number of processes, and each conversation is in exactly one step of an epoch."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuneyard.train.plan import StepPlan

ORDERS = ["random", "sequential", "group_by_length"]


def steps_of(lengths, *, per_device, accumulation, processes, epoch=0, order="random", drop_last=False):
    """Each step's conversations as a set, put together from every process's micro-batches."""
    total = per_device * accumulation * processes
    shares = []
    for process in range(processes):
        plan = StepPlan(
            lengths,
            total=total,
            per_device=per_device,
            accumulation=accumulation,
            process=process,
            processes=processes,
            order=order,
            drop_last=drop_last,
        )
        plan.set_epoch(epoch)
        shares.append(list(plan))
        assert len(shares[-1]) == len(plan)
    steps = []
    for step in range(len(shares[0]) // accumulation):
        mine = slice(step * accumulation, (step + 1) * accumulation)
        members = [index for share in shares for micro in share[mine] for index in micro]
        assert len(members) == len(set(members))
        steps.append(frozenset(members))
    return steps


@given(
    count=st.integers(1, 60),
    per_device=st.integers(1, 4),
    accumulation=st.integers(1, 4),
    processes=st.integers(1, 4),
    epoch=st.integers(0, 3),
    order=st.sampled_from(ORDERS),
)
def test_every_conversation_is_in_one_step_and_any_number_of_processes_agrees(
    count, per_device, accumulation, processes, epoch, order
):
    lengths = [1 + (7 * index) % 13 for index in range(count)]
    alone = steps_of(
        lengths, per_device=per_device, accumulation=accumulation * processes, processes=1, epoch=epoch, order=order
    )
    together = steps_of(
        lengths, per_device=per_device, accumulation=accumulation, processes=processes, epoch=epoch, order=order
    )
    assert together == alone
    assert sorted(index for step in alone for index in step) == list(range(count))


def test_the_order_of_an_epoch_is_reproducible():
    first, repeated, second = (
        steps_of([1] * 40, per_device=2, accumulation=2, processes=1, epoch=epoch) for epoch in (0, 0, 1)
    )
    assert first == repeated
    assert first != second


def test_sequential_keeps_the_order_of_the_data():
    assert steps_of([1] * 5, per_device=2, accumulation=1, processes=1, order="sequential") == [{0, 1}, {2, 3}, {4}]


@pytest.mark.parametrize(("drop_last", "steps"), [(True, 2), (False, 3)])
def test_a_last_step_that_is_not_full_is_kept_unless_values_drop_it(drop_last, steps):
    assert len(steps_of([1] * 10, per_device=2, accumulation=2, processes=1, drop_last=drop_last)) == steps


def test_dropping_the_last_step_keeps_at_least_one_step():
    assert len(steps_of([1] * 3, per_device=4, accumulation=1, processes=1, drop_last=True)) == 1
