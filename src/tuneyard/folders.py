"""Tuneyard's own folders on this machine, and the errors for files that can't be created, written or read.

<home>/store/                    the default store of the local target
<home>/runs/<verb>/<name>/       one run (tuneyard.runners.local.folder)
<home>/launch.lock               held while a run is launched or deleted
<home>/errors/                   tracebacks of internal errors

A process also has its own folder (`--workdir`) and one for temporary files. An error's hint depends on which of them a
path belongs to. This module sits at the bottom.
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
"""The prefix of the names of temporary folders."""

_DENIED = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})
_IN_THE_WAY = frozenset({errno.ENOTDIR, errno.EEXIST, errno.EISDIR, errno.ENOTEMPTY})
_IMPOSSIBLE = frozenset({errno.ENAMETOOLONG, errno.EINVAL, errno.ELOOP, errno.EILSEQ})
_NOT_ABOUT_A_FILE = frozenset({errno.EIO, errno.EMFILE, errno.ENFILE, errno.ESTALE})
FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


def home_folder(environ: Mapping[str, str] | None = None) -> Path:
    """Return the folder of local state, absolute; it need not exist.

    Args:
        environ: Where `TUNEYARD_HOME` is read from; the process's own environment where None.

    Returns:
        `TUNEYARD_HOME`, or `tuneyard` in the platform's folder for a user's data (`XDG_DATA_HOME`, else below `HOME`).

    Raises:
        InvalidValuesError: Neither names a folder, since an unknown user has no home.
    """
    named = (os.environ if environ is None else environ).get(HOME_VARIABLE)
    if named:
        path, what = Path(named), f"{HOME_VARIABLE} is '{named}', which"
    else:
        import platformdirs

        path = platformdirs.user_data_path("tuneyard", appauthor=False)
        what = f"{HOME_VARIABLE} is not set, and the user's data folder '{path}'"
    try:
        return path.expanduser().absolute()
    except RuntimeError:
        raise InvalidValuesError(f"{what} is below the home of an unknown user.", hint=_move_home()) from None


def refused(error: OSError, *, workdir: Path | None = None) -> TuneyardError | None:
    """Return the error for a file or folder that the system refused, with the hint how to use another.

    Args:
        error: What the system raised.
        workdir: The process's own folder, where it has one.

    Returns:
        The error; None where the refusal is not about a file, or about one of Tuneyard's installation.
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
        within = f" in '{folder}'" if folder and folder in path.parents else ""
        if issubclass(kind, FullError):
            move = more_room(path.parent)
        move = move or fitting(f"Check it, or use another: ls -ld {path}", _move_workdir())
        return kind(f"The path '{path}'{within} can't be used: {why}.", hint=move)
    if error.errno in FULL | _NOT_ABOUT_A_FILE:
        kind, hint = kind_of(error), more_room(workdir or Path.cwd())
        hint = hint if issubclass(kind, FullError) else "Check the disk and the system's limits: ulimit -a"
        return kind(f"The system can't open a file: {why}.", hint=hint)
    return None


@contextlib.contextmanager
def refusals(*, workdir: Path | None = None) -> Generator[None]:
    """Raise Tuneyard's error where the system refuses a file within the block; see `refused`."""
    try:
        yield
    except TuneyardError:
        raise
    except OSError as error:
        if explained := refused(error, workdir=workdir):
            raise explained from error
        raise


def kind_of(error: OSError) -> type[TuneyardError]:
    """Return the class of Tuneyard's error for an error of the system about a file or folder.

    Args:
        error: What the system raised.

    Returns:
        `DeniedError` for missing rights and a read-only file system, `ConflictError` for a file instead of a folder or
        the reverse, `FullError`, `NotFoundError`, `InvalidValuesError` for an impossible path, otherwise
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
    """Return Tuneyard's folder that contains a path, or that the path contains, and the hint how to use another."""
    places: list[tuple[Path, str]] = []
    with contextlib.suppress(InvalidValuesError):
        places.append((home_folder(), _move_home()))
    if workdir:  # that of a launched run lies in the folder of local state, and moves with it
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
    return fitting(f"Use another folder: {assignment(HOME_VARIABLE, '/path/to/folder')}", _move_workdir())


def _move_workdir() -> str:
    return fitting(
        "Use another folder: --workdir /path/to/folder", "Check the pod's volume and podSecurityContext.fsGroup."
    )


def _move_temporary() -> str:
    return fitting("Use another folder: export TMPDIR=/path/to/folder", "Check that the pod has a writable /tmp.")


def _is_without_temporary_folder(error: OSError) -> bool:
    if error.errno != errno.ENOENT or error.filename is not None:
        return False
    try:
        tempfile.gettempdir()
    except OSError:
        return True
    return False
