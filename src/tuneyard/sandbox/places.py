"""The private paths of a machine: keys, tokens, settings, other programs' state.

A list of names would never be complete, so rules decide. These are private:

* the hidden entries (`.aws`, `.config`, `.netrc`, …) at the top of a home, of the current folder and of its parents;
* every path in a variable of the environment that the program does not get (`KUBECONFIG`, `XDG_DATA_HOME`,
  `GOOGLE_APPLICATION_CREDENTIALS`, …), except for what the program needs of it;
* files in the shared temporary folders that only their owner may read (`/tmp/krb5cc_1000`);
* the targets of symbolic links in any of these.
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
"""Programs and the certificates of authorities, which are the same for every user and never hidden."""

_SYSTEM = ("/", "/etc", "/proc", "/sys", "/dev", "/run", "/var", "/tmp", "/home", "/opt", "/mnt", "/srv")  # noqa: S108
"""Folders too general to be hidden because a variable names them; what lies in them may be hidden."""

_ALWAYS = ("/var/run/secrets", "/run/secrets", "/run/user")
_TEMPORARY = ("/tmp", "/var/tmp")  # noqa: S108
_OF_THE_SHELL = frozenset({"HOME", "PWD", "OLDPWD", "_", "PATH", "SHELL", "PYTHONPATH", "VIRTUAL_ENV", "TMPDIR"})
"""Variables that name the user's folders and programs, and no secret."""

_PATH_IN_TEXT = re.compile(r"(?:^|(?<=[\s=:,;'\"]))[~/][^\s:,;'\"]*")
_PLACE_NAME = re.compile(r"(HOME|DIR|FILE|PATH|ROOT|FOLDER|STORE|CACHE|CONFIG|CREDENTIALS?|KEY|TOKEN)$")
_LINKS_DEPTH, _LINKS_ENTRIES = 2, 20_000
"""The depth, and the number of entries, up to which links in a private folder are followed: `~/.config/gh/hosts.yml` is
two deep; caches hold millions of files, and links into a workspace further down."""


def interpreter_places() -> list[Path]:
    """List the paths that this Python needs to start and to import packages, wherever it is installed."""
    found = [sys.prefix, sys.base_prefix, os.path.realpath(sys.executable), *sys.path]
    return [path for path in dict.fromkeys(map(Path, filter(None, found))) if path.exists()]


def private_places(environ: Mapping[str, str], given: Mapping[str, str], *, current: Path | None = None) -> list[Path]:
    """List the user's paths that a program must not read.

    Args:
        environ: The user's environment.
        given: The program's own; paths in its variables are not private, except its home, which it may write to.
        current: The user's current folder; the process's own where None.

    Returns:
        Files and folders, resolved, which need not exist. None contains the home itself, the current folder, or a path
        that the program is given.
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
    """Yield paths that together cover a folder, except for what is hidden.

    Args:
        folder: The folder.
        hidden: Resolved paths; everything within them is hidden too.
    """
    if folder in hidden:
        return
    if not any(folder in path.parents for path in hidden):
        yield folder
        return
    with contextlib.suppress(OSError):
        for path in sorted(folder.iterdir()):
            if not path.is_symlink():  # its target has to be allowed by itself
                yield from all_but(path, hidden)


def _hidden_entries(folder: Path) -> Iterator[Path]:
    with contextlib.suppress(OSError):
        yield from (entry for entry in sorted(folder.iterdir()) if entry.name.startswith("."))


def _home_of_user() -> Path:
    import pwd

    try:
        return Path(pwd.getpwuid(os.getuid()).pw_dir).resolve()
    except KeyError:  # a user that the machine lacks, as in a container
        return Path("/")


def _named(name: str, value: str, current: Path) -> Iterator[Path]:
    """Yield the paths in a variable: absolute ones in its text, a `file://` URL, or relative to `current`."""
    parts = value.split(os.pathsep)  # a part may contain spaces
    found = [unquote(urlsplit(value).path)] if value.startswith("file://") else []
    found += [part for part in parts if part.startswith(("/", "~"))] + _PATH_IN_TEXT.findall(value)
    for text in found:
        with contextlib.suppress(RuntimeError, OSError, ValueError):  # `~` of an unknown user, too long, or a null
            yield Path(text).expanduser().resolve()
    for part in filter(None, parts):
        with contextlib.suppress(OSError, ValueError):
            path = current / part
            # `USER=data` does not mean the folder of that name.
            if "/" in part or _PLACE_NAME.search(name) or path.is_file():
                yield from [path.resolve()] if path.exists() else []


def _parts(place: Path, kept: frozenset[Path]) -> Iterator[Path]:
    """Yield the private parts of a path: all of it except for what is kept, or nothing where it is public."""
    path = Path(os.path.realpath(place))
    public = path in kept or any(path == one or one in path.parents for one in map(Path, _PUBLIC))
    if not public and not path.is_symlink():  # a link to itself
        yield from all_but(path, kept)


def _own_files(folder: str) -> Iterator[Path]:
    """Yield the files at the top of a folder that only their owner may open."""
    with contextlib.suppress(OSError):
        for entry in os.scandir(folder or "/nowhere"):
            with contextlib.suppress(OSError):
                mode = entry.stat(follow_symlinks=False).st_mode
                if stat.S_ISREG(mode) and not mode & (stat.S_IRWXG | stat.S_IRWXO):
                    yield Path(entry.path)


def _links(place: Path) -> Iterator[Path]:
    """Yield the links in a folder, level by level, up to the limits."""
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
