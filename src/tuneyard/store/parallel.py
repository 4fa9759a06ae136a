"""Work on a few files at once: on `limits.PARALLEL_FILES` threads, of which the first error cancels all.

For transfers and checks of files alone: a thread notices the cancellation when it next reports progress.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_EXCEPTION, CancelledError, ThreadPoolExecutor, wait
from typing import TypeVar

from tuneyard.progress import Advance
from tuneyard.store.limits import PARALLEL_FILES

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def in_parallel(
    work: Callable[[_Item, Advance], _Result],
    items: Iterable[_Item],
    advance: Advance | None = None,
    *,
    stop: threading.Event | None = None,
) -> list[_Result]:
    """Do the same work for each item on a few threads; the first error, or Ctrl-C, cancels the rest.

    Args:
        work: Takes an item and the function to report progress to, which raises `CancelledError` once the work is
            cancelled.
        items: What to work on, in this order.
        advance: Called, from several threads, with each amount done.
        stop: Set when the work is cancelled, and cancels it when set from outside.

    Returns:
        What `work` returned for each item, in their order.

    Raises:
        CancelledError: `stop` was set from outside.
        Exception: The first error of `work`, in the order of the items, after every thread has ended.
    """
    cancelled = stop or threading.Event()

    def advance_or_cancel(amount: float) -> None:
        if cancelled.is_set():
            raise CancelledError
        if advance:
            advance(amount)

    def one(item: _Item) -> _Result:
        if cancelled.is_set():
            raise CancelledError
        return work(item, advance_or_cancel)

    with ThreadPoolExecutor(PARALLEL_FILES, thread_name_prefix="files") as pool:
        futures = [pool.submit(one, item) for item in items]
        try:
            wait(futures, return_when=FIRST_EXCEPTION)
        finally:
            if any(not future.done() or future.exception() for future in futures):
                cancelled.set()
            for future in futures:
                future.cancel()
    errors = [error for future in futures if not future.cancelled() and (error := future.exception())]
    for error in sorted(errors, key=lambda error: isinstance(error, CancelledError)):
        raise error
    return [future.result() for future in futures]
