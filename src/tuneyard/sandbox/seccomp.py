"""A filter of system calls for what Landlock does not restrict before its version 3: truncation.

A file can be truncated by its path alone (`truncate`), and by opening it for reading with O_TRUNC, which old Landlock
allows as reading. A filter can't distinguish files: the program truncates its own by opening them for writing. Calls
whose arguments a filter can't read (`openat2`, io_uring) fail as on a kernel without them.
See https://docs.kernel.org/userspace-api/seccomp_filter.html.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct

from tuneyard.sandbox.calls import checked, give_up_privileges, libc

_SET_SECCOMP, _FILTER = 22, 2
_ALLOW, _ERROR = 0x7FFF0000, 0x00050000
_LOAD, _EQUAL, _AT_LEAST, _AND, _RETURN = 0x20, 0x15, 0x35, 0x54, 0x06
_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, 16  # places in `struct seccomp_data`
_X32 = 0x40000000  # numbers of another set of calls, on x86 alone
_ABSENT = 0xFFFFFFFF
_NO_CALL = _ERROR | errno.ENOSYS
_TRUNCATE = os.O_TRUNC
_OPENAT2, _IO_URING_SETUP = 437, 425  # the same on every architecture

# architecture as auditing names it, then truncate, open, openat
_CALLS = {"x86_64": (0xC000003E, 76, 2, 257), "aarch64": (0xC00000B7, 45, _ABSENT, 56)}


def is_known() -> bool:
    """Return whether the filter supports this machine."""
    return platform.machine() in _CALLS and platform.system() == "Linux"


def forbid_truncation() -> None:
    """Keep this process and its children from truncating what they may not open for writing.

    Raises:
        OSError: The kernel refuses.
    """
    program = _program(*_CALLS[platform.machine()])
    body = ctypes.create_string_buffer(program, len(program))
    header = struct.pack("HP", len(program) // 8, ctypes.addressof(body))
    give_up_privileges(from_capability=64)
    checked(libc().prctl(_SET_SECCOMP, _FILTER, header, 0, 0))


def _program(architecture: int, truncate: int, open_: int, openat: int) -> bytes:
    """Return the filter; a jump skips so many lines where its test is true, or where it is false."""
    allow, denied, unknown = (_RETURN, 0, 0, _ALLOW), (_RETURN, 0, 0, _ERROR | errno.EACCES), (_RETURN, 0, 0, _NO_CALL)
    lines = [(_LOAD, 0, 0, _ARCHITECTURE), (_EQUAL, 1, 0, architecture), unknown, (_LOAD, 0, 0, _NUMBER)]
    lines += [(_AT_LEAST, 0, 1, _X32), unknown]
    for number, answer in ((_OPENAT2, unknown), (_IO_URING_SETUP, unknown), (truncate, denied)):
        lines += [(_EQUAL, 0, 1, number), answer]
    for number, flags in ((open_, 1), (openat, 2)):
        lines += [(_EQUAL, 0, 6, number), (_LOAD, 0, 0, _ARGUMENTS + 8 * flags), (_AND, 0, 0, _TRUNCATE | os.O_ACCMODE)]
        # Opening for writing is left to Landlock; this is without writing.
        lines += [(_EQUAL, 1, 0, _TRUNCATE | os.O_RDONLY), (_EQUAL, 0, 1, _TRUNCATE | os.O_ACCMODE), denied, allow]
    return b"".join(struct.pack("HBBI", *line) for line in [*lines, allow])
