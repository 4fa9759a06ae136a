"""How a process of Tuneyard ends: the documented exit code and, after an error, one sentence and a hint.

`outermost` is the edge of every process: `ending` turns whatever was raised into an exit code and its messages. The
command line calls it directly, `python -m tuneyard.delivery`, `.train`, `.serving` and their like through `run_main`,
which also handles SIGTERM and the termination message of a pod. Errors and their codes are in `errors`.
"""

from __future__ import annotations

import errno
import json
import os
import signal
import ssl
import sys
import tempfile
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, cast

from tuneyard.errors import INTERRUPTED, TERMINATED, FullError, TuneyardError
from tuneyard.folders import refused
from tuneyard.terminal import prepare_text, show_logs, unencodable
from tuneyard.whereabouts import more_room

TRACEBACK_FILE = "traceback.txt"
TERMINATION_LOG = "TUNEYARD_TERMINATION_LOG"
"""Names the file that a process leaves its termination message in: Kubernetes keeps it for an ended pod."""
_NO_ROOM_BYTES = 64 * 1024
_MESSAGE_BYTES = 4096  # what Kubernetes keeps of a termination message


class Terminated(BaseException):
    """Raised in the main thread on SIGTERM, so that `with` blocks end as they do for Ctrl-C."""


@dataclass(frozen=True, slots=True)
class Ending:
    """How a process ends.

    Attributes:
        exit_code: Its exit code.
        error: What it reports, with each problem on a line.
        hint: What to do next; may be empty.
    """

    exit_code: int
    error: str
    hint: str = ""


def run_main(main: Callable[[], int | None], *, workdir: Path | None = None) -> int:
    """Run the work of a process, and turn whatever it raises into an exit code.

    SIGTERM ends the process with 143, unless `main` handles the signal itself. An error is printed to standard error as
    `error: <sentence>`, one line for each problem, and `hint: <next step>`. A traceback is printed only where
    `TUNEYARD_DEBUG` is 1; that of an internal error is otherwise written to a file.

    Args:
        main: Does the work; what it returns is the exit code, None is 0.
        workdir: Where the traceback of an internal error is written; the folder for temporary files where None.

    Returns:
        The exit code.
    """
    signal.signal(signal.SIGTERM, _raise_terminated)

    def work() -> int:
        trust_authorities(workdir)
        _write_message(b"")  # an earlier process may have left one
        code = main() or 0
        if code and _read_message(os.environ.get(TERMINATION_LOG)).get("exit_code") != code:
            _leave_message(Ending(code, ""))
        return code

    return outermost(work, workdir=workdir, leave=_leave_message)


def outermost(
    main: Callable[[], int],
    *,
    workdir: Path | None = None,
    traceback_file: Callable[[], Path] | None = None,
    leave: Callable[[Ending], None] | None = None,
) -> int:
    """Run the whole work of a process, with its log shown; the one place that catches everything.

    Args:
        main: Does the work, and returns the exit code.
        workdir: As for `ending`.
        traceback_file: Returns where the traceback of an internal error is written; as for `ending` where None.
        leave: Called with how the process ends if something was raised.

    Returns:
        The exit code.
    """
    prepare_text()
    show_logs()
    try:
        return main()
    except BaseException as error:  # the outermost edge
        end = ending(error, workdir=workdir, traceback_file=traceback_file and traceback_file())
        if leave:
            leave(end)
        return end.exit_code


def ending(error: BaseException, *, workdir: Path | None = None, traceback_file: Path | None = None) -> Ending:
    """Report what was raised on standard error, and decide how the process ends.

    Args:
        error: What was raised.
        workdir: The process's own folder, where it has one.
        traceback_file: Where the traceback of an internal error is written; `traceback.txt` in `workdir`, or in the
            folder for temporary files, where None.

    Raises:
        BaseException: The one given, where it is neither an error, nor Ctrl-C, nor SIGTERM.
    """
    if isinstance(error, KeyboardInterrupt):
        return _notice(Ending(INTERRUPTED, "Interrupted."))
    if isinstance(error, Terminated):
        return _notice(Ending(TERMINATED, "Terminated by SIGTERM."))
    if not isinstance(error, Exception):
        raise error
    explained = error if isinstance(error, TuneyardError) else explain(error, workdir)
    if explained:
        print_error(explained)
        return Ending(explained.exit_code, str(explained), explained.hint)
    print_internal(error, traceback_file or (workdir or Path(tempfile.gettempdir())) / TRACEBACK_FILE)
    return Ending(TuneyardError.exit_code, _internal(error))


def _notice(end: Ending) -> Ending:
    _print(end.error)
    return end


def trust_authorities(workdir: Path | None) -> None:
    """Make every TLS client of this process trust the authorities in `TUNEYARD_CA_FILE`, besides the system's.

    Both are written to one bundle, which `SSL_CERT_FILE`, `REQUESTS_CA_BUNDLE` and `CURL_CA_BUNDLE` then name: most
    clients read nothing else. A missing file changes nothing.

    Args:
        workdir: Where the bundle is written; the folder for temporary files where None.
    """
    site = os.environ.get("TUNEYARD_CA_FILE")
    if not site or not Path(site).is_file():
        return
    # None where OpenSSL's own location has no certificates
    known = os.environ.get("SSL_CERT_FILE") or ssl.get_default_verify_paths().cafile or _packaged_authorities()
    folder = workdir or Path(tempfile.mkdtemp(prefix="tuneyard-"))
    folder.mkdir(parents=True, exist_ok=True)
    bundle = folder / "authorities.pem"
    if Path(known) == bundle:  # the parent process has already written it
        return
    bundle.write_bytes(Path(known).read_bytes() + b"\n" + Path(site).read_bytes())
    for name in ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        os.environ[name] = str(bundle)


def _packaged_authorities() -> str:
    import certifi

    return certifi.where()


def _leave_message(end: Ending) -> None:
    """Leave a termination message of at most `_MESSAGE_BYTES`; a list of many problems is cut, the log has all."""
    error, hint = end.error, end.hint
    while len(message := _message(end.exit_code, error, hint)) > _MESSAGE_BYTES:
        error, hint = error[: len(error) * 3 // 4], hint[: max(400, len(hint) * 3 // 4)]
    _write_message(message)


def _message(exit_code: int, error: str, hint: str) -> bytes:
    facts = {"exit_code": exit_code, "error": error, "hint": hint}
    return json.dumps(facts, ensure_ascii=False).encode("utf-8", "backslashreplace")


def forward_message(code: int, files: Sequence[Path]) -> None:
    """Leave the termination message of a child that ended with the same exit code as this process's own.

    Args:
        code: How this process is about to end.
        files: The file that `TUNEYARD_TERMINATION_LOG` names for each child.
    """
    for message in map(_read_message, files):
        if message.get("exit_code") == code and message.get("error"):
            _leave_message(Ending(code, str(message["error"]), str(message.get("hint", ""))))
            return


def _read_message(path: str | Path | None) -> dict[str, Any]:
    try:
        message: Any = json.loads(Path(path).read_bytes()) if path else None
    except (OSError, ValueError):
        return {}
    return cast("dict[str, Any]", message) if isinstance(message, dict) else {}


def _write_message(message: bytes) -> None:
    path = os.environ.get(TERMINATION_LOG)
    try:
        if path and (message or Path(path).exists()):
            Path(path).write_bytes(message)
    except OSError:  # nowhere else to report to
        return


def print_error(error: TuneyardError) -> None:
    """Print an error to standard error: the sentence, each problem on a line, the hint.

    Args:
        error: What happened.
    """
    if _debug():
        traceback.print_exception(error)
    _print(f"error: {error.message}")
    for text in map(str, error.details.get("problems", ())):
        if text not in error.message:
            _print(f"  {text}")
    if error.hint:
        _print(f"hint: {error.hint}")


def explain(error: Exception, workdir: Path | None = None) -> TuneyardError | None:
    """Return the error to report for one that the system or a library raised.

    Args:
        error: What was raised, not a `TuneyardError`.
        workdir: The process's own folder, where it has one.

    Returns:
        The error; None where it is an internal one.
    """
    if isinstance(error, UnicodeEncodeError):
        return unencodable(error)
    if isinstance(error, OSError) and (explained := refused(error, workdir=workdir)):
        return explained
    try:
        folder = workdir or Path(tempfile.gettempdir())
    except OSError as no_folder:
        return refused(no_folder)
    is_full = os.strerror(errno.ENOSPC) in str(error)
    if not is_full and folder.exists():
        status = os.statvfs(folder)
        is_full = status.f_bavail * status.f_frsize < _NO_ROOM_BYTES
    if not is_full:
        return None
    return FullError(
        f"This machine's disk is full ({type(error).__name__}: {_first_line(error)}).",
        hint=more_room(folder),
    )


def print_internal(error: Exception, file: Path) -> None:
    """Report an internal error, with its traceback in a file, or printed above where that can't be written.

    Args:
        error: What was raised.
        file: Where the traceback is written; its folder is made where it is missing.
    """
    text = "".join(traceback.format_exception(error))
    where = "the traceback above"
    if _debug():
        _print(text)
    else:
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text, encoding="utf-8", errors="backslashreplace")
            where = f"the traceback in {file}"
        except OSError:  # the disk may be the reason for the error
            _print(text)
    _print(f"error: {_internal(error)}")
    _print(f"hint: Please report it with {where}")


def _internal(error: Exception) -> str:
    return f"Internal error: {type(error).__name__}: {_first_line(error)}"


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [""])[0][:300]


def _debug() -> bool:
    return os.environ.get("TUNEYARD_DEBUG") == "1"


def _print(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _raise_terminated(number: int, frame: FrameType | None) -> None:
    del number, frame
    raise Terminated
