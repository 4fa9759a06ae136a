"""Namespaces: a view of the machine that is read-only outside of writable folders, and lacks hidden paths.

The lock for kernels whose Landlock is missing or old, where users may create namespaces (not in most containers). It
also restricts modes, owners and times, and shows no processes but the program's own. A network namespace is not used,
since programs may reach the network, and abstract sockets with it. Needs Linux 5.12 (`mount_setattr`).

    this process  →  the first process of the new namespaces  →  the program

When the middle process ends, the kernel kills everything that the program has left running.
"""

from __future__ import annotations

import ctypes
import os
import signal
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import NoReturn

from tuneyard.sandbox.calls import call, checked, give_up_privileges, libc
from tuneyard.sandbox.places import DEVICES, all_but

_NEW = 0x00020000 | 0x08000000 | 0x10000000 | 0x20000000  # mounts, IPC, users, processes
_MOUNT_SETATTR = 442  # the same on every architecture
_HERE, _RECURSIVE, _READ_ONLY = -100, 0x8000, 1
_BIND, _REC, _PRIVATE = 0x1000, 0x4000, 1 << 18
_NO_SUID, _NO_DEV, _NO_EXEC = 2, 4, 8
_DIE_WITH_PARENT = 1
_STAGE, _NOTHING, _NO_FOLDER = "/dev/shm", ".no-file", ".no-folder"  # noqa: S108


def enter(*, writable: Iterable[Path], hidden: Iterable[Path], shown: Iterable[Path]) -> None:
    """Return in a new, confined process; the calling process waits for it and ends as it does.

    Args:
        writable: Folders that may be written to.
        hidden: Files and folders to hide.
        shown: Files and folders within hidden ones to show.

    Raises:
        OSError: The kernel or its administrator does not allow it.
    """
    user, group, current = os.getuid(), os.getgid(), Path.cwd()
    checked(libc().unshare(_NEW))
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"{user} {user} 1")
    Path("/proc/self/gid_map").write_text(f"{group} {group} 1")
    _become_child()
    _mount("none", "/", None, _REC | _PRIVATE)
    _mount("proc", "/proc", "proc", _NO_SUID | _NO_DEV | _NO_EXEC)
    _devices()
    # Resolved before anything is covered.
    places = [path.resolve() for path in writable]
    covered = list(_covered(hidden, [*places, *(path.resolve() for path in shown)]))
    for path in places:
        _mount(str(path), str(path), None, _BIND | _REC)
    for path in covered:
        _mount(f"/dev/{_NO_FOLDER if path.is_dir() else _NOTHING}", str(path), None, _BIND)
    _set(Path("/"), read_only=True)
    for path in (*places, Path("/dev/shm")):  # noqa: S108
        _set(path, read_only=False)
    os.chdir(current)  # it still refers to the folder below the new mounts
    give_up_privileges(from_capability=0)
    _become_child()


def _covered(hidden: Iterable[Path], kept: Iterable[Path]) -> Iterable[Path]:
    """Yield the existing hidden paths, without what is kept of them."""
    keep = frozenset(kept)
    for path in {one.resolve() for one in hidden}:
        if path.exists() and not any(path == one or one in path.parents for one in keep):
            yield from all_but(path, keep)


def _devices() -> None:
    """Create a `/dev` of the few devices that any program may use, with its own shared memory."""
    _mount("none", _STAGE, "tmpfs", _NO_SUID | _NO_EXEC)
    stage = Path(_STAGE)
    for name in (Path(device).name for device in DEVICES if Path(device).is_char_device()):
        (stage / name).touch()
        _mount(f"/dev/{name}", str(stage / name), None, _BIND)
    for name, target in {"fd": "", "stdin": "/0", "stdout": "/1", "stderr": "/2"}.items():
        (stage / name).symlink_to(f"/proc/self/fd{target}")
    (stage / "shm").mkdir()
    (stage / _NO_FOLDER).mkdir(mode=0)
    (stage / _NOTHING).touch(mode=0)
    _mount("none", str(stage / "shm"), "tmpfs", _NO_SUID | _NO_DEV)
    _mount(_STAGE, "/dev", None, _BIND | _REC)


def _mount(source: str, target: str, kind: str | None, flags: int) -> None:
    given = [None if text is None else os.fsencode(text) for text in (source, target, kind)]
    checked(libc().mount(*given, ctypes.c_ulong(flags), None))


def _set(path: Path, *, read_only: bool) -> None:
    attributes = struct.pack("=QQQQ", _READ_ONLY if read_only else 0, 0 if read_only else _READ_ONLY, 0, 0)
    call(_MOUNT_SETATTR, _HERE, os.fsencode(path), _RECURSIVE, attributes, len(attributes))


def _become_child() -> None:
    """Continue in a child that dies with this process; this process waits for it and ends as it does."""
    child = os.fork()
    if child:
        _end_as(child)
    libc().prctl(_DIE_WITH_PARENT, signal.SIGKILL, 0, 0, 0)


def _end_as(child: int) -> NoReturn:
    ended, status = os.wait()
    while ended != child:  # the first process of a namespace inherits orphans
        ended, status = os.wait()
    code = os.waitstatus_to_exitcode(status)
    number = -code if code < 0 else max(0, code - 128)
    if number in signal.valid_signals():  # signals don't end the first process of a namespace: it returns the number
        os.kill(os.getpid(), number)
    os._exit(128 + number if code < 0 else code)
