"""Which places of a machine hold what is not everyone's: keys, tokens, settings, other programs' state.

A list of names would never be complete, so two rules decide: the hidden entries (`.aws`, `.config`, `.netrc`, …) at the
top of a home and of the current folder, and every place that a variable of the environment names which the program
itself is not given (`KUBECONFIG`, `XDG_DATA_HOME`, `GOOGLE_APPLICATION_CREDENTIALS`, …).
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from urllib.parse import unquote, urlsplit

DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty", "/dev/shm")  # noqa: S108
"""The devices that any program may use."""

_PROGRAMS = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/nix/store")
"""Where programs lie, the same for every user; never hidden."""

_SYSTEM = ("/", "/etc", "/proc", "/sys", "/dev", "/run", "/var", "/tmp", "/home", "/opt", "/mnt", "/srv")  # noqa: S108
"""Places too wide to be what a variable means; what lies in them may be hidden."""

_ALWAYS = ("/var/run/secrets", "/run/secrets")
_OF_THE_SHELL = frozenset({"HOME", "PWD", "OLDPWD", "_", "PATH", "SHELL", "PYTHONPATH", "VIRTUAL_ENV", "TMPDIR"})
"""Variables that name the user's own folders and programs, and no secret."""


def interpreter_places() -> list[Path]:
    """List what this Python needs to start and to import packages, wherever it is installed."""
    found = [sys.prefix, sys.base_prefix, os.path.realpath(sys.executable), *sys.path]
    return [path for path in dict.fromkeys(map(Path, filter(None, found))) if path.exists()]


def private_places(environ: Mapping[str, str], given: Mapping[str, str], *, current: Path | None = None) -> list[Path]:
    """List what a program should not read of the user's.

    Args:
        environ: The user's environment.
        given: The program's own; what its variables name is not private.
        current: The folder that the user is in; the process's own where None.

    Returns:
        Files and folders, each there or not; none of them holds the home itself or the current folder.
    """
    current = (current or Path.cwd()).resolve()
    homes = {Path(environ.get("HOME") or "~").expanduser().resolve(), _home_of_user()}
    hidden = [entry for folder in (*homes, current) for entry in _hidden_entries(folder)]
    known = {path for value in given.values() for path in _named(value)}
    needed = {*known, *homes, current, *map(Path, _SYSTEM)}
    for name, value in environ.items():
        if name in given or name in _OF_THE_SHELL:
            continue
        for path in _named(value):
            wide = any(path == one or path in one.parents for one in needed)
            if not wide and not _is_below(path, _PROGRAMS):
                hidden.append(path)
    return [*dict.fromkeys([*hidden, *map(Path, _ALWAYS)])]


def all_but(folder: Path, hidden: frozenset[Path]) -> Iterator[Path]:
    """Give paths that together hold all there is in a folder, but for what is hidden.

    Args:
        folder: The folder.
        hidden: Resolved paths; what lies in one of them is hidden too.
    """
    if folder in hidden:
        return
    if not any(folder in path.parents for path in hidden):
        yield folder
        return
    with contextlib.suppress(OSError):
        for path in sorted(folder.iterdir()):
            if not path.is_symlink():  # where it leads is another one's to allow
                yield from all_but(path, hidden)


def _hidden_entries(folder: Path) -> Iterator[Path]:
    with contextlib.suppress(OSError):
        yield from (entry for entry in sorted(folder.iterdir()) if entry.name.startswith("."))


def _home_of_user() -> Path:
    import pwd

    try:
        return Path(pwd.getpwuid(os.getuid()).pw_dir).resolve()
    except KeyError:  # a user that the machine does not know, as in a container
        return Path("/")


def _named(value: str) -> Iterator[Path]:
    """Give the places that a variable's value names: a path, several of them, or a `file://` URL."""
    if value.startswith("file://"):
        yield Path(unquote(urlsplit(value).path)).resolve()
        return
    for part in value.split(os.pathsep):
        if part.startswith(("/", "~")) and "\0" not in part:
            with contextlib.suppress(RuntimeError, OSError):  # `~` of nobody, or longer than a path may be
                yield Path(part).expanduser().resolve()


def _is_below(path: Path, places: Iterable[str]) -> bool:
    return any(path == one or one in path.parents for one in map(Path, places))
