"""System calls that Python lacks, with errors as exceptions."""

from __future__ import annotations

import ctypes
import os

_NO_NEW_PRIVILEGES, _DROP_BOUND = 38, 24
_CAPABILITIES = 64


def libc() -> ctypes.CDLL:
    """Return the C library of this process."""
    return ctypes.CDLL(None, use_errno=True)


def call(number: int, *arguments: int | bytes | None) -> int:
    """Make a system call by its number.

    Args:
        number: The call's number.
        arguments: Numbers, and bytes for pointers.

    Returns:
        The kernel's result.

    Raises:
        OSError: The kernel refuses.
    """
    library = libc()
    library.syscall.restype = ctypes.c_long
    given = [ctypes.c_long(one) if isinstance(one, int) else one for one in arguments]
    return checked(int(library.syscall(ctypes.c_long(number), *given)))


def checked(result: int) -> int:
    """Return the result of a call, if it did not fail.

    Raises:
        OSError: The result is negative.
    """
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def give_up_privileges(*, from_capability: int) -> None:
    """Keep programs that this process executes from gaining or keeping privileges of root.

    Args:
        from_capability: The first capability to drop; root keeps those below it.

    Raises:
        OSError: The kernel refuses.
    """
    library = libc()
    for capability in range(from_capability, _CAPABILITIES):
        library.prctl(_DROP_BOUND, capability, 0, 0, 0)  # root's, which reach other processes
    checked(library.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0))
