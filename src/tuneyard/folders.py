"""Tuneyard's own folders on this machine, and the error where one can't be made, written or read.

<home>/store/                    the default store of the local target
<home>/runs/<verb>/<name>/       one run (tuneyard.runners.local.folder)
<home>/launch.lock               held for the moments in which a run is launched or deleted
<home>/errors/                   tracebacks of errors nobody expected

Besides these, a process has a folder of its own (`--workdir`) and one for temporary files. Which of them a path belongs
to decides what an error's hint names. It sits at the bottom.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import tempfile
from collections.abc import Generator, Mapping
from pathlib import Path

from tuneyard.errors import (
    ConflictError,
    DeniedError,
    FullError,
    InvalidValuesError,
    NotFoundError,
    TuneyardError,
    UnavailableError,
)
from tuneyard.whereabouts import assignment, fitting, more_room

HOME_VARIABLE = "TUNEYARD_HOME"
PREFIX = "tuneyard-"
"""What every temporary folder of ours begins with."""

_DENIED = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})
_IN_THE_WAY = frozenset({errno.ENOTDIR, errno.EEXIST, errno.EISDIR, errno.ENOTEMPTY})
_IMPOSSIBLE = frozenset({errno.ENAMETOOLONG, errno.EINVAL, errno.ELOOP, errno.EILSEQ})
_OF_NO_FILE = frozenset({errno.EIO, errno.EMFILE, errno.ENFILE, errno.ESTALE})
FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


def home_folder(environ: Mapping[str, str] | None = None) -> Path:
    """Give the folder of local state, absolute; it need not exist yet.

    Args:
        environ: Where `TUNEYARD_HOME` is looked up; the process's own environment where None.

    Returns:
        `TUNEYARD_HOME`, or `tuneyard` in the platform's folder for a user's data (`XDG_DATA_HOME`, else below `HOME`).

    Raises:
        InvalidValuesError: Neither names a folder: a user who is not known here has no home.
    """
    named = (os.environ if environ is None else environ).get(HOME_VARIABLE)
    if named:
        path, what = Path(named), f"{HOME_VARIABLE} is {named!r}, which"
    else:
        import platformdirs

        path = platformdirs.user_data_path("tuneyard", appauthor=False)
        what = f"{HOME_VARIABLE} is not set, and the user's data folder {str(path)!r}"
    try:
        return path.expanduser().absolute()
    except RuntimeError:
        raise InvalidValuesError(f"{what} is below the home of an unknown user.", hint=_move_home()) from None


def refused(error: OSError, *, workdir: Path | None = None) -> TuneyardError | None:
    """Make the error for a file or folder that the system refused, with how to use another.

    Args:
        error: What the system raised.
        workdir: The process's own folder, where it has one.

    Returns:
        The error; None where the refusal is about no file, or about a file of Tuneyard's own installation.
    """
    why = error.strerror or str(error)
    if _is_without_temporary_folder(error):
        return NotFoundError(f"No folder for temporary files can be used: {why}.", hint=_move_temporary())
    if isinstance(error.filename, str | bytes):
        path = Path(os.fsdecode(error.filename)).absolute()
        if Path(sys.prefix) in path.parents:
            return None
        kind = kind_of(error)
        folder, move = _owner_of(path, workdir)
        of = f" of {folder}" if folder and folder in path.parents else ""
        if issubclass(kind, FullError):
            move = more_room(path.parent)
        move = move or fitting(f"Check it, or name another: ls -ld {path}", _move_workdir())
        return kind(f"The path {path}{of} can't be used: {why}.", hint=move)
    if error.errno in FULL | _OF_NO_FILE:
        kind, hint = kind_of(error), more_room(workdir or Path.cwd())
        hint = hint if issubclass(kind, FullError) else "Check the disk and the system's limits: ulimit -a"
        return kind(f"The system refuses a file: {why}.", hint=hint)
    return None


@contextlib.contextmanager
def refusals(*, workdir: Path | None = None) -> Generator[None]:
    """Raise our error where the system refuses a file within the block; see `refused`."""
    try:
        yield
    except TuneyardError:
        raise
    except OSError as error:
        if explained := refused(error, workdir=workdir):
            raise explained from error
        raise


def kind_of(error: OSError) -> type[TuneyardError]:
    """Return which of our errors stands for what the system reports of a file or folder.

    Args:
        error: What the system raised.

    Returns:
        `DeniedError` for missing rights and a read-only file system, `ConflictError` where a file lies in a folder's
        place or the other way round, `FullError`, `NotFoundError`, `InvalidValuesError` for an impossible path, else
        `UnavailableError`.
    """
    kinds: tuple[tuple[frozenset[int], type[TuneyardError]], ...] = (
        (FULL, FullError),
        (_DENIED, DeniedError),
        (_IN_THE_WAY, ConflictError),
        (frozenset({errno.ENOENT}), NotFoundError),
        (_IMPOSSIBLE, InvalidValuesError),
    )
    return next((kind for numbers, kind in kinds if error.errno in numbers), UnavailableError)


def _owner_of(path: Path, workdir: Path | None) -> tuple[Path | None, str]:
    """Find the folder of ours that a path lies in, or that lies below it, and how to use another."""
    places: list[tuple[Path, str]] = []
    with contextlib.suppress(InvalidValuesError):
        places.append((home_folder(), _move_home()))
    if workdir:  # a launched run's lies in the folder of local state, and moves with it
        places.append((workdir.absolute(), _move_workdir()))
    with contextlib.suppress(OSError):
        temporary = Path(tempfile.gettempdir())
        ours = [folder for folder in (path, *path.parents) if folder.parent == temporary]
        if ours and ours[0].name.startswith(PREFIX):
            places.append((temporary, _move_temporary()))
    for folder, move in places:
        if path == folder or folder in path.parents or path in folder.parents:
            return folder, move
    return None, ""


def _move_home() -> str:
    return fitting(f"Name a folder of yours: {assignment(HOME_VARIABLE, '/path/to/folder')}", _move_workdir())


def _move_workdir() -> str:
    return fitting("Name another: --workdir /path/to/folder", "Check the pod's volume, and podSecurityContext.fsGroup.")


def _move_temporary() -> str:
    return fitting("Name another: export TMPDIR=/path/to/folder", "Check that the pod has a writable /tmp.")


def _is_without_temporary_folder(error: OSError) -> bool:
    if error.errno != errno.ENOENT or error.filename is not None:
        return False
    try:
        tempfile.gettempdir()
    except OSError:
        return True
    return False
