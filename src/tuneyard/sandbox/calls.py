"""System calls that Python has no function for, with errors as exceptions."""

from __future__ import annotations

import ctypes
import os

_NO_NEW_PRIVILEGES, _DROP_BOUND = 38, 24
_CAPABILITIES = 64


def libc() -> ctypes.CDLL:
    """Open the C library of this process."""
    return ctypes.CDLL(None, use_errno=True)


def call(number: int, *arguments: int | bytes | None) -> int:
    """Make a system call by its number.

    Args:
        number: The call's number.
        arguments: Numbers, and bytes for what a pointer points to.

    Returns:
        What the kernel returns.

    Raises:
        OSError: The kernel refuses.
    """
    library = libc()
    library.syscall.restype = ctypes.c_long
    given = [ctypes.c_long(one) if isinstance(one, int) else one for one in arguments]
    return checked(int(library.syscall(ctypes.c_long(number), *given)))


def checked(result: int) -> int:
    """Give back what a call returned.

    Raises:
        OSError: It is negative: the call failed.
    """
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def give_up_privileges(*, from_capability: int) -> None:
    """Let no program that this process becomes gain or keep rights of root.

    Args:
        from_capability: The first capability to give up; those below it stay root's.

    Raises:
        OSError: The kernel refuses.
    """
    library = libc()
    for capability in range(from_capability, _CAPABILITIES):
        library.prctl(_DROP_BOUND, capability, 0, 0, 0)  # only root has any: they would let it look into processes
    checked(library.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0))
