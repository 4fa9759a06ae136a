"""Which places of a machine hold what is not everyone's: keys, tokens, settings, other programs' state.

A list of names would never be complete, so rules decide. Private are:

* the hidden entries (`.aws`, `.config`, `.netrc`, …) at the top of a home, of the current folder and of those above it;
* every place that a variable of the environment names which the program itself is not given (`KUBECONFIG`,
  `XDG_DATA_HOME`, `GOOGLE_APPLICATION_CREDENTIALS`, …), but for what in it the program needs;
* files of the shared temporary folders that their owner alone may read (`/tmp/krb5cc_1000`);
* what a symbolic link in any of these leads to.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import unquote, urlsplit

DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty", "/dev/shm")  # noqa: S108
"""The devices that any program may use."""

_PUBLIC = (
    "/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/nix/store",
    "/etc/ssl/certs", "/etc/ssl/cert.pem", "/etc/pki/tls/certs", "/etc/pki/ca-trust/extracted", "/etc/ca-certificates",
)  # fmt: skip
"""Where programs and the certificates of authorities lie, the same for every user; never hidden."""

_SYSTEM = ("/", "/etc", "/proc", "/sys", "/dev", "/run", "/var", "/tmp", "/home", "/opt", "/mnt", "/srv")  # noqa: S108
"""Places too wide to be what a variable means; what lies in them may be hidden."""

_ALWAYS = ("/var/run/secrets", "/run/secrets", "/run/user")
_TEMPORARY = ("/tmp", "/var/tmp")  # noqa: S108
_OF_THE_SHELL = frozenset({"HOME", "PWD", "OLDPWD", "_", "PATH", "SHELL", "PYTHONPATH", "VIRTUAL_ENV", "TMPDIR"})
"""Variables that name the user's own folders and programs, and no secret."""

_PATH_IN_TEXT = re.compile(r"(?:^|(?<=[\s=:,;'\"]))[~/][^\s:,;'\"]*")
_PLACE_NAME = re.compile(r"(HOME|DIR|FILE|PATH|ROOT|FOLDER|STORE|CACHE|CONFIG|CREDENTIALS?|KEY|TOKEN)$")
_LINKS_DEPTH, _LINKS_ENTRIES = 2, 20_000
"""How deep, and among how many entries, links are looked for in a private place: `~/.config/gh/hosts.yml` is two deep;
caches hold millions of files, and links into a workspace further down."""


def interpreter_places() -> list[Path]:
    """List what this Python needs to start and to import packages, wherever it is installed."""
    found = [sys.prefix, sys.base_prefix, os.path.realpath(sys.executable), *sys.path]
    return [path for path in dict.fromkeys(map(Path, filter(None, found))) if path.exists()]


def private_places(environ: Mapping[str, str], given: Mapping[str, str], *, current: Path | None = None) -> list[Path]:
    """List what a program should not read of the user's.

    Args:
        environ: The user's environment.
        given: The program's own; what its variables name is not private, but for its home, which it may write.
        current: The folder that the user is in; the process's own where None.

    Returns:
        Files and folders, resolved, each there or not. None of them holds the home itself, the current folder, or a
        place that the program is given.
    """
    current = (current or Path.cwd()).resolve()
    homes = {Path(environ.get("HOME") or "~").expanduser().resolve(), _home_of_user()}
    known = {path for name, value in given.items() if name != "HOME" for path in _named(name, value, current)}
    kept = frozenset({*known, *homes, current, *map(Path, _SYSTEM)})
    private = [entry for folder in (*homes, current, *current.parents) for entry in _hidden_entries(folder)]
    for name, value in environ.items():
        if name not in given and name not in _OF_THE_SHELL:
            private += _named(name, value, current)
    for folder in (*_TEMPORARY, environ.get("TMPDIR", "")):
        private += _own_files(folder)
    private += map(Path, _ALWAYS)
    private += [link for place in private for link in _links(place)]
    parts = dict.fromkeys(part for place in private for part in _parts(place, kept))
    return [part for part in parts if not any(above in parts for above in part.parents)]


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


def _named(name: str, value: str, current: Path) -> Iterator[Path]:
    """Give the places that a variable names: paths anywhere in its text, a `file://` URL, or one from here."""
    parts = value.split(os.pathsep)  # a part may have spaces in it
    found = [unquote(urlsplit(value).path)] if value.startswith("file://") else []
    found += [part for part in parts if part.startswith(("/", "~"))] + _PATH_IN_TEXT.findall(value)
    for text in found:
        with contextlib.suppress(RuntimeError, OSError, ValueError):  # `~` of nobody, too long, or with a null in it
            yield Path(text).expanduser().resolve()
    for part in filter(None, parts):
        with contextlib.suppress(OSError, ValueError):
            path = current / part
            # `USER=data` does not mean the folder of that name.
            if "/" in part or _PLACE_NAME.search(name) or path.is_file():
                yield from [path.resolve()] if path.exists() else []


def _parts(place: Path, kept: frozenset[Path]) -> Iterator[Path]:
    """Give what of a place is private: all of it, but for what is kept, or nothing where it is public."""
    path = Path(os.path.realpath(place))
    public = path in kept or any(path == one or one in path.parents for one in map(Path, _PUBLIC))
    if not public and not path.is_symlink():  # one that leads to itself
        yield from all_but(path, kept)


def _own_files(folder: str) -> Iterator[Path]:
    """Give the files at the top of a folder that their owner alone may open."""
    with contextlib.suppress(OSError):
        for entry in os.scandir(folder or "/nowhere"):
            with contextlib.suppress(OSError):
                mode = entry.stat(follow_symlinks=False).st_mode
                if stat.S_ISREG(mode) and not mode & (stat.S_IRWXG | stat.S_IRWXO):
                    yield Path(entry.path)


def _links(place: Path) -> Iterator[Path]:
    """Give the links in a place, one level after the other, as far as the limits go."""
    level, left = [str(place)], _LINKS_ENTRIES
    for _ in range(_LINKS_DEPTH):
        below: list[str] = []
        for folder in level:
            with contextlib.suppress(OSError), os.scandir(folder) as entries:
                for entry in entries:
                    left -= 1
                    if left < 0:
                        return
                    if entry.is_symlink():
                        yield Path(entry.path)
                    elif entry.is_dir():
                        below.append(entry.path)
        level = below
