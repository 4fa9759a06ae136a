"""Confines a `dataScript` to its own folder, and then becomes it: `python confine.py PLAN COMMAND…`.

Linux's Landlock does it, without rights of its own and for every process that the script starts: nothing outside of the
folders named can be written, made, renamed or removed, files with keys can't be read, and no process outside can be
looked into (`/proc/<pid>/environ`), traced or signalled. It does not hold against `chmod` and `utime`, nor against the
network. `landlock_version` is 0 where the kernel has none (macOS, old kernels): there a script has its user's rights.

It runs as a file, before anything of Tuneyard can be imported, so it imports nothing of Tuneyard.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import struct
import sys
from collections.abc import Iterator
from pathlib import Path

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446  # the same on every architecture
_VERSION_FLAG = 1
_PATH_BENEATH = 1
_NO_NEW_PRIVILEGES, _DROP_BOUND = 38, 24
_FILE_CAPABILITIES = 4  # those below are of owners and modes of files
_WRITE_FILE, _READ_FILE, _TRUNCATE = 1 << 1, 1 << 2, 1 << 14
_FOLDERS = sum(1 << bit for bit in range(4, 13))  # remove and make
_REFER = 1 << 13
_SCOPED = 3  # abstract sockets and signals
_DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty", "/dev/shm")  # noqa: S108


def landlock_version() -> int:
    """Ask the kernel which version of Landlock it has; 0 for none."""
    if sys.platform != "linux":
        return 0
    return max(0, _call(_CREATE_RULESET, None, 0, _VERSION_FLAG))


def confine(writable: list[str], hidden: list[str]) -> None:
    """Confine this process and all that it starts, for ever.

    Args:
        writable: Folders that may be written into.
        hidden: Files and folders that may not be read.

    Raises:
        OSError: The kernel refuses.
    """
    version = landlock_version()
    write = _WRITE_FILE | _FOLDERS | (_REFER if version >= 2 else 0) | (_TRUNCATE if version >= 3 else 0)
    handled = write | _READ_FILE
    attributes = struct.pack("=QQQ", handled, 0, _SCOPED)[: 24 if version >= 6 else 8]
    ruleset = _checked(_call(_CREATE_RULESET, attributes, len(attributes), 0))
    for path in _DEVICES:
        _allow(ruleset, Path(path), write | _READ_FILE)
    for path in writable:
        _allow(ruleset, Path(path), write | _READ_FILE)
    away = frozenset(Path(path).resolve() for path in hidden)
    for path in (*_all_but(Path("/"), away), Path(sys.prefix), Path(sys.base_prefix)):
        _allow(ruleset, path, _READ_FILE)
    libc = ctypes.CDLL(None, use_errno=True)
    for capability in range(_FILE_CAPABILITIES, 64):
        libc.prctl(_DROP_BOUND, capability, 0, 0, 0)  # only root has any: they would let it look into processes
    _checked(libc.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0))
    _checked(_call(_RESTRICT_SELF, ruleset, 0))
    os.close(ruleset)


def _all_but(folder: Path, hidden: frozenset[Path]) -> Iterator[Path]:
    """Give paths that together hold all there is, but for what is hidden."""
    if folder in hidden:
        return
    if not any(folder in path.parents for path in hidden):
        yield folder
        return
    with contextlib.suppress(OSError):
        for path in sorted(folder.iterdir()):
            if not path.is_symlink():  # where it leads is another one's to allow
                yield from _all_but(path, hidden)


def _allow(ruleset: int, path: Path, rights: int) -> None:
    try:
        where = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:  # not there, or not ours to look at
        return
    try:
        if not path.is_dir():
            rights &= _WRITE_FILE | _READ_FILE | _TRUNCATE
        rule = struct.pack("=Qi", rights, where)
        _checked(_call(_ADD_RULE, ruleset, _PATH_BENEATH, rule, 0))
    finally:
        os.close(where)


def _call(number: int, *arguments: int | bytes | None) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    given = [ctypes.c_long(one) if isinstance(one, int) else one for one in arguments]
    return int(libc.syscall(ctypes.c_long(number), *given))


def _checked(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


if __name__ == "__main__":
    plan = json.loads(sys.argv[1])
    confine(plan["writable"], plan["hidden"])
    os.execv(sys.argv[2], sys.argv[2:])  # noqa: S606  (an argument list, and no shell)
