"""Work on several files at once: every result in order, and the first error cancels the rest."""

from __future__ import annotations

import threading
from concurrent.futures import CancelledError

import pytest

from tuneyard.progress import Advance
from tuneyard.store import in_parallel
from tuneyard.store.limits import PARALLEL_FILES


def test_results_come_in_the_order_of_the_items_and_progress_is_passed_on() -> None:
    amounts: list[float] = []

    def double(item: int, advance: Advance) -> int:
        advance(item)
        return 2 * item

    assert in_parallel(double, range(20), amounts.append) == [2 * item for item in range(20)]
    assert sorted(amounts) == list(range(20))


def test_several_items_are_worked_on_at_once_and_no_more_than_the_limit() -> None:
    together = threading.Barrier(PARALLEL_FILES)
    running, most = 0, 0
    lock = threading.Lock()

    def meet(item: int, advance: Advance) -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        together.wait(60)
        with lock:
            running -= 1

    in_parallel(meet, range(2 * PARALLEL_FILES))
    assert most == PARALLEL_FILES


def test_the_first_error_cancels_work_in_progress_and_work_not_begun() -> None:
    stop, began, cancelled = threading.Event(), threading.Event(), threading.Event()
    others: list[int] = []

    def fail_or_go_on(item: int, advance: Advance) -> None:
        if item == 1:
            assert began.wait(60)
            raise ValueError("the first error")
        if item == 0:
            began.set()
            try:
                for _ in range(5_000):
                    advance(1)
                    threading.Event().wait(0.001)
            except CancelledError:
                cancelled.set()
                raise
        others.append(item)

    with pytest.raises(ValueError, match="the first error"):
        in_parallel(fail_or_go_on, [0, 1, *range(2, 500)], stop=stop)
    assert cancelled.is_set()
    assert stop.is_set()
    assert len(others) < 498


def test_a_stop_from_outside_cancels_and_success_leaves_it_unset() -> None:
    stop = threading.Event()
    assert in_parallel(lambda item, advance: item, [1, 2], stop=stop) == [1, 2]
    assert not stop.is_set()
    stop.set()
    with pytest.raises(CancelledError):
        in_parallel(lambda item, advance: item, [1, 2], stop=stop)
