"""How a process of Tuneyard ends: the documented exit code, and on a mistake one sentence and a hint.

One of the few outermost edges: `python -m tuneyard.delivery`, `.train` and `.serve` run their work through `run_main`,
so that they all end alike. Errors and their codes are in `errors`; the command line has its own edge.
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
from pathlib import Path
from types import FrameType
from typing import Any, cast

from tuneyard.errors import INTERRUPTED, TERMINATED, FullError, TuneyardError
from tuneyard.folders import refused
from tuneyard.terminal import prepare_text, show_logs, unencodable
from tuneyard.whereabouts import more_room

TRACEBACK_FILE = "traceback.txt"
TERMINATION_LOG = "TUNEYARD_TERMINATION_LOG"
"""Names the file of a process's last words."""
_NO_ROOM_BYTES = 64 * 1024
_WORDS_BYTES = 4096  # what Kubernetes keeps of them


class Terminated(BaseException):
    """Raised in the main thread when SIGTERM comes, so that `with` blocks end as they do for Ctrl-C."""


def run_main(main: Callable[[], int | None], *, workdir: Path | None = None) -> int:
    """Run what a process is for, and turn whatever happens into its exit code.

    SIGTERM ends it with 143, unless `main` takes the signal over. A mistake is told on standard error as
    `error: <sentence>`, one line for each problem, and `hint: <next step>`. A traceback is shown only where
    `TUNEYARD_DEBUG` is 1; that of an internal error is otherwise kept in a file.

    Args:
        main: Does the work; what it returns is the exit code, None is 0.
        workdir: Where the traceback of an internal error is kept; the folder for temporary files where None.

    Returns:
        The exit code.
    """
    prepare_text()
    show_logs()
    signal.signal(signal.SIGTERM, _raise_terminated)
    try:
        trust_authorities(workdir)
        _leave_words(b"")  # those of an earlier process
        code = main() or 0
        if code and _words_of(os.environ.get(TERMINATION_LOG)).get("exit_code") != code:
            _last_words(code)
    except TuneyardError as error:
        tell_error(error)
        _last_words(error.exit_code, str(error), error.hint)
        return error.exit_code
    except KeyboardInterrupt:
        _say("interrupted")
        _last_words(INTERRUPTED, "interrupted")
        return INTERRUPTED
    except Terminated:
        _say("terminated by SIGTERM")
        _last_words(TERMINATED, "terminated by SIGTERM")
        return TERMINATED
    except Exception as error:  # the outermost edge: whatever is left is ours to mend, and must not fill the screen
        if explained := explain(error, workdir):
            tell_error(explained)
            _last_words(explained.exit_code, str(explained), explained.hint)
            return explained.exit_code
        tell_internal(error, workdir or Path(tempfile.gettempdir()))
        _last_words(1, _internal(error))
        return 1
    return code


def trust_authorities(workdir: Path | None) -> None:
    """Let every TLS client of this process trust the authorities in `TUNEYARD_CA_FILE`, besides the system's.

    Both are written into one bundle that `SSL_CERT_FILE` and its like name, since that is all most clients read. A
    file that is not there changes nothing.

    Args:
        workdir: Where the bundle is written; the folder for temporary files where None.
    """
    site = os.environ.get("TUNEYARD_CA_FILE")
    if not site or not Path(site).is_file():
        return
    # the system's path is None where OpenSSL's own place is empty
    known = os.environ.get("SSL_CERT_FILE") or ssl.get_default_verify_paths().cafile or _packaged_authorities()
    folder = workdir or Path(tempfile.mkdtemp(prefix="tuneyard-"))
    folder.mkdir(parents=True, exist_ok=True)
    bundle = folder / "authorities.pem"
    if Path(known) == bundle:  # a child of a process that has done it
        return
    bundle.write_bytes(Path(known).read_bytes() + b"\n" + Path(site).read_bytes())
    for name in ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        os.environ[name] = str(bundle)


def _packaged_authorities() -> str:
    import certifi

    return certifi.where()


def _last_words(code: int, error: str = "", hint: str = "") -> None:
    """Leave the outcome where `TUNEYARD_TERMINATION_LOG` says: Kubernetes keeps a pod's last words from there."""
    words = b""
    while not words or len(words) > _WORDS_BYTES:
        if words:  # a list of many problems: its beginning is enough, and the log has them all
            error, hint = error[: len(error) * 3 // 4], hint[: max(400, len(hint) * 3 // 4)]
        words = json.dumps({"exit_code": code, "error": error, "hint": hint}, ensure_ascii=False).encode(
            "utf-8", "backslashreplace"
        )
    _leave_words(words)


def pass_on_last_words(code: int, files: Sequence[Path]) -> None:
    """Leave, as this process's own last words, what a child has said that ended with the same exit code.

    Args:
        code: How this process is about to end.
        files: What `TUNEYARD_TERMINATION_LOG` named for each child.
    """
    for words in map(_words_of, files):
        if words.get("exit_code") == code and words.get("error"):
            _last_words(code, str(words["error"]), str(words.get("hint", "")))
            return


def _words_of(path: str | Path | None) -> dict[str, Any]:
    try:
        words: Any = json.loads(Path(path).read_bytes()) if path else None
    except (OSError, ValueError):
        return {}
    return cast("dict[str, Any]", words) if isinstance(words, dict) else {}


def _leave_words(words: bytes) -> None:
    path = os.environ.get(TERMINATION_LOG)
    try:
        if path and (words or Path(path).exists()):
            Path(path).write_bytes(words)
    except OSError:  # there is nobody else to be told
        return


def tell_error(error: TuneyardError) -> None:
    """Tell a mistake on standard error: the sentence, each problem on a line, the hint.

    Args:
        error: What happened.
    """
    if _debug():
        traceback.print_exception(error)
    _say(f"error: {error.message}")
    for text in map(str, error.details.get("problems", ())):
        if text not in error.message:
            _say(f"  {text}")
    if error.hint:
        _say(f"hint: {error.hint}")


def explain(error: Exception, workdir: Path | None = None) -> TuneyardError | None:
    """Make the error to report of what the system, or a library in its words, refused.

    Args:
        error: What was raised, and is none of ours.
        workdir: The process's own folder, where it has one.

    Returns:
        The error; None where something in Tuneyard itself went wrong.
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
        f"This machine's disk has no room left ({type(error).__name__}: {_first_line(error)}).",
        hint=more_room(folder),
    )


def tell_internal(error: Exception, folder: Path, name: str = TRACEBACK_FILE) -> None:
    """Report an error of Tuneyard itself, with its traceback in a file, or above where none can be written.

    Args:
        error: What was raised.
        folder: Where the traceback is kept; made where it is missing.
        name: What its file is called.
    """
    text = "".join(traceback.format_exception(error))
    where = "above"
    if _debug():
        _say(text)
    else:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text, encoding="utf-8", errors="backslashreplace")
            where = f"in {folder / name}"
        except OSError:  # the disk may be the reason for the error
            _say(text)
    _say(f"error: {_internal(error)}")
    _say(f"hint: The traceback is {where}; please report it.")


def _internal(error: Exception) -> str:
    return f"Something in Tuneyard itself went wrong: {type(error).__name__}: {_first_line(error)}"


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [""])[0][:300]


def _debug() -> bool:
    return os.environ.get("TUNEYARD_DEBUG") == "1"


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _raise_terminated(number: int, frame: FrameType | None) -> None:
    del number, frame
    raise Terminated
