"""Text in and out of a process: UTF-8 inside, whatever the locale; on the terminal, what its encoding can show.

Every process of Tuneyard calls `prepare_text` first. File names, keys, values and messages may contain any character;
this module decides how they appear in a locale or on a terminal of another encoding (`LC_ALL=C`,
`PYTHONIOENCODING=ascii`, latin-1). It sits at the bottom.
"""

from __future__ import annotations

import codecs
import io
import logging
import os
import sys

from tuneyard.errors import InvalidValuesError
from tuneyard.interpreter import python

_HANDLER = "tuneyard.degrade"
_ASCII = str.maketrans(
    {
        "…": "...",
        "–": "-",
        "—": "-",
        "«": "<<",
        "»": ">>",
        "→": "->",
        "×": "x",
        "‘": "'",
        "’": "'",
        "“": '"',
        "”": '"',
        "•": "*",
        "·": "*",
        "─": "-",
        "━": "-",
        "╸": "-",
        "╺": "-",
        "│": "|",
        "├": "|",
        "└": "`",
        **dict.fromkeys("▏▎▍", "."),
        **dict.fromkeys("▌▋▊▉█", "#"),
    }
)


def show_logs() -> None:
    """Write the package's log, from INFO up, to standard error: one line each, without a prefix.

    For entry points and commands; a program that imports the package configures `logging` itself, and until then sees
    nothing below WARNING.
    """
    logger = logging.getLogger("tuneyard")
    logger.setLevel(logging.INFO)
    if not any(isinstance(handler, _StandardError) for handler in logger.handlers):
        logger.addHandler(_StandardError())


class _StandardError(logging.Handler):
    """Writes to the current `sys.stderr`, so that lines appear above a progress bar."""

    def emit(self, record: logging.LogRecord) -> None:
        print(self.format(record), file=sys.stderr, flush=True)


def prepare_text() -> None:
    """Make file names UTF-8, and standard output and error robust; a second call changes nothing.

    Where the locale has another encoding for file names, the process is restarted in Python's UTF-8 mode (PEP 540) with
    the terminal's encoding. Of the characters that the terminal can't show, typographic ones become similar ASCII and
    all others Python's escapes, so that nothing is lost. Standard input becomes UTF-8 where its encoding is ASCII.
    """
    if sys.getfilesystemencoding() != "utf-8" and sys.executable:
        shown = os.environ.get("PYTHONIOENCODING") or getattr(sys.stdout, "encoding", None) or "utf-8"
        environ = {**os.environ, "PYTHONIOENCODING": shown, "PYTHONUTF8": "1"}
        os.execve(sys.executable, python("-X", "utf8", *sys.orig_argv[1:]), environ)  # noqa: S606
    codecs.register_error(_HANDLER, _degraded)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=_HANDLER)
    if isinstance(sys.stdin, io.TextIOWrapper) and _is_ascii(sys.stdin.encoding):
        sys.stdin.reconfigure(encoding="utf-8")


def shows_unicode(stream: object) -> bool:
    """Whether a stream can write every character; otherwise a JSON document for it must be ASCII.

    Args:
        stream: `sys.stdout`, or its replacement.
    """
    encoding = getattr(stream, "encoding", None) or "utf-8"
    return codecs.lookup(encoding).name.startswith("utf")


def unencodable(error: UnicodeEncodeError) -> InvalidValuesError:
    """Return the error for a name or value that its encoding can't represent.

    Args:
        error: What Python raised for a file name that the locale lacks, or an argument that is not UTF-8.
    """
    return InvalidValuesError(
        f"A name or value can't be encoded as {error.encoding}: {error.object[error.start : error.end]!a}.",
        hint="Use UTF-8 for names and values, in a UTF-8 locale: export LC_ALL=C.UTF-8 PYTHONUTF8=1",
    )


def _is_ascii(encoding: str) -> bool:
    return codecs.lookup(encoding).name == "ascii"


def _degraded(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end].translate(_ASCII)
    return text.encode("ascii", "backslashreplace").decode("ascii"), error.end
