"""Text in and out of a process: UTF-8 inside, whatever the locale; on the terminal, what its encoding has.

Every process of Tuneyard calls `prepare_text` first thing. Names of files, keys and values may have any character, and
so may messages; only here is known what becomes of them in a locale or on a terminal of another encoding (`LC_ALL=C`,
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
    """Write what the package logs, from INFO up, to standard error: one line each, without a prefix.

    For entry points and commands; a program that imports the package configures `logging` by itself and sees nothing
    below WARNING until it does.
    """
    logger = logging.getLogger("tuneyard")
    logger.setLevel(logging.INFO)
    if not any(isinstance(handler, _StandardError) for handler in logger.handlers):
        logger.addHandler(_StandardError())


class _StandardError(logging.Handler):
    """Writes to whatever `sys.stderr` is at that moment, so that lines appear above a progress bar."""

    def emit(self, record: logging.LogRecord) -> None:
        print(self.format(record), file=sys.stderr, flush=True)


def prepare_text() -> None:
    """Make file names UTF-8, and let standard output and error write what they can; a second call changes nothing.

    Where the locale has another encoding for file names, the process starts anew in Python's UTF-8 mode (PEP 540), with
    the terminal's encoding kept. Of what the terminal can't show, typographic characters become their ASCII likeness,
    all others Python's escapes, so that nothing is lost. Standard input is UTF-8 where its encoding is only ASCII.
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
    """Whether a stream can write every character; a JSON document for another one has to be in ASCII.

    Args:
        stream: `sys.stdout`, or what stands in its place.
    """
    encoding = getattr(stream, "encoding", None) or "utf-8"
    return codecs.lookup(encoding).name.startswith("utf")


def unencodable(error: UnicodeEncodeError) -> InvalidValuesError:
    """Make the error for a name or a value that has no form in the encoding that it has to be written in.

    Args:
        error: What Python raised: a file's name in a locale that can't hold it, or an argument that is not UTF-8.
    """
    return InvalidValuesError(
        f"A name or value can't be written in {error.encoding}: {error.object[error.start : error.end]!a}.",
        hint="Give names and values as UTF-8, in a UTF-8 locale: export LC_ALL=C.UTF-8 PYTHONUTF8=1",
    )


def _is_ascii(encoding: str) -> bool:
    return codecs.lookup(encoding).name == "ascii"


def _degraded(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end].translate(_ASCII)
    return text.encode("ascii", "backslashreplace").decode("ascii"), error.end
