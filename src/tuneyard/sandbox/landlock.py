"""Landlock: rules on paths that a process imposes permanently on itself and its children, without privileges.

What they restrict depends on the kernel's version of the interface (ABI), see
https://docs.kernel.org/userspace-api/landlock.html:

    1 (Linux 5.13)   writing, creating, renaming and removing outside the given folders; reading hidden paths;
                     inspecting processes outside (ptrace, /proc/<pid>/environ)
    2 (5.19)         as 1, but files may be moved between writable folders
    3 (6.2)          truncation too
    6 (6.12)         signals to processes outside, and their abstract sockets

No version restricts changes of mode, owner or times. 4, 5 and 7 add features that are not used here: TCP ports, ioctl,
audit.
"""

from __future__ import annotations

import os
import struct
import sys
from collections.abc import Iterable
from pathlib import Path

from tuneyard.sandbox.calls import call, give_up_privileges
from tuneyard.sandbox.places import DEVICES, all_but

TRUNCATION, SIGNALS = 3, 6
"""The first versions that restrict these."""

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446  # the same on every architecture
_VERSION_FLAG = 1
_PATH_BENEATH = 1
_WRITE_FILE, _READ_FILE, _TRUNCATE = 1 << 1, 1 << 2, 1 << 14
_FOLDERS = sum(1 << bit for bit in range(4, 13))  # remove and create
_REFER = 1 << 13
_SCOPED = 3  # abstract sockets and signals
_MOVING = 2
_KEPT_CAPABILITIES = 2  # root keeps its capabilities over owners and modes of files


def version() -> int:
    """Return the kernel's version of Landlock; 0 for none."""
    if sys.platform != "linux":
        return 0
    try:
        return call(_CREATE_RULESET, None, 0, _VERSION_FLAG)
    except OSError:
        return 0


def restrict(abi: int, *, writable: Iterable[Path], hidden: Iterable[Path], shown: Iterable[Path]) -> None:
    """Confine this process and its children permanently.

    Args:
        abi: The version to use, at most the kernel's.
        writable: Folders that may be written to.
        hidden: Files and folders that may not be read.
        shown: Files and folders within hidden ones that may be read.

    Raises:
        OSError: The kernel refuses.
    """
    truncate = _TRUNCATE if abi >= TRUNCATION else 0
    write = _WRITE_FILE | _FOLDERS | (_REFER if abi >= _MOVING else 0) | truncate
    handled = write | _READ_FILE
    attributes = struct.pack("=QQQ", handled, 0, _SCOPED)[: 24 if abi >= SIGNALS else 8]
    ruleset = call(_CREATE_RULESET, attributes, len(attributes), 0)
    on_files = _WRITE_FILE | _READ_FILE | truncate
    for path in (*map(Path, DEVICES), *writable):
        _allow(ruleset, path, write | _READ_FILE, on_files)
    away = frozenset(path.resolve() for path in (*hidden, Path("/dev")))
    for path in (*all_but(Path("/"), away), *shown):
        _allow(ruleset, path, _READ_FILE, on_files)
    give_up_privileges(from_capability=_KEPT_CAPABILITIES)
    call(_RESTRICT_SELF, ruleset, 0)
    os.close(ruleset)


def _allow(ruleset: int, path: Path, rights: int, on_files: int) -> None:
    try:
        where = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:  # missing, or not accessible
        return
    try:
        if not path.is_dir():
            rights &= on_files
        call(_ADD_RULE, ruleset, _PATH_BENEATH, struct.pack("=Qi", rights, where), 0)
    finally:
        os.close(where)
