"""Runs a `dataScript`: the user's Python that writes files to `/downloads/datasets`.

It runs as its own process, in its own folder, with an allow-listed environment: without credentials of the bucket, and
without a token of the Hub unless the values configure one. On Linux, `tuneyard.sandbox` keeps it in its folder and away
from credentials and other processes, as far as the kernel can. Its network stays open: the boundary against hostile
code is a container without the Secret, as on Kubernetes.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterable, Mapping
from io import RawIOBase
from pathlib import Path

from tuneyard.delivery.selection import abbreviated
from tuneyard.errors import InvalidDataError, InvalidValuesError, Problem
from tuneyard.sandbox import HOLDS, Locks, Plan, command, find_locks, interpreter_places, private_places

logger = logging.getLogger(__name__)

DOWNLOADS = Path("/downloads")
"""The folder that a `dataScript` writes to, below `datasets`; the path is part of the specification."""

SUFFIXES = (".jsonl", ".parquet")
"""The suffixes of datasets."""

_ALLOWED = frozenset(
    {
        "PATH", "LANG", "LANGUAGE", "TZ", "TMPDIR", "LD_LIBRARY_PATH",
        "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "all_proxy", "no_proxy",
        "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE",
    }
)  # fmt: skip
_ALLOWED_BEGINNINGS = ("LC_", "HF_")
_SECRET = re.compile(r"TOKEN|SECRET|PASSWORD|CREDENTIAL|KEY(_|$)")
_TOKENS = frozenset({"HF_TOKEN", "HF_TOKEN_PATH", "HF_STORED_TOKENS_PATH"})
_NO_LOGIN = "HF_HUB_DISABLE_IMPLICIT_TOKEN"  # so that the token of a login, under HF_HOME, isn't sent either
_TAIL_BYTES = 16_384
_TAIL_LINES = 12
_STOP_SECONDS = 5.0

# `/downloads` at the start of an absolute path: not within one, nor within a URL, nor after `{root}`
_DOWNLOADS = re.compile(r"(?:(?<![\w.}/-])|(?<=file://))/downloads(?![\w.-])")
_UNQUOTABLE = re.compile(r"[\"'\\{}\n\r%$`]")


def check_sandbox(*, required: bool, locks: Locks | None = None) -> Locks:
    """Find the locks that confine a `dataScript`, and log them.

    Args:
        required: Whether it may run only where the sandbox is sufficient.
        locks: The locks to use; this machine's where None.

    Returns:
        The locks.

    Raises:
        InvalidValuesError: A sandbox is required, and this machine's is not sufficient.
    """
    locks = find_locks() if locks is None else locks
    away = ", ".join([*(hold for hold in HOLDS if hold not in locks.held), "the network"])
    if required and not locks.sufficient:
        what = f"is 'required', but this machine's sandbox ({locks}) does not restrict: {away}"
        raise InvalidValuesError(
            "The dataScriptSandbox is 'required', but this machine has no sufficient sandbox.",
            hint="Deliver on Linux 6.12 or newer, or where users may create namespaces; or trust the script: "
            "--set dataScriptSandbox=best-effort",
            problems=[Problem("dataScriptSandbox", what, "required", "best-effort")],
        )
    held = ", ".join(locks.held) or "nothing"
    logger.info("The dataScript is confined by %s; restricted: %s; not restricted: %s.", locks, held, away)
    return locks


def run_script(
    script: str,
    workdir: Path,
    *,
    with_hub_token: bool,
    environ: Mapping[str, str] | None = None,
    downloads: Path | None = None,
    locks: Locks | None = None,
) -> Path:
    """Run a `dataScript` and wait for its end.

    Its output is logged line by line. Where `/downloads` is mapped to another folder, the script's text is changed.

    Args:
        script: The Python text.
        workdir: The process's folder; each run gets a new folder in it, and runs of the same text share a home.
        with_hub_token: Whether the script gets the Hub's token.
        environ: The environment to choose from; the process's own where None.
        downloads: The folder that `/downloads` is mapped to; a new one under `workdir` where None.
        locks: What confines the script; this machine's locks where None.

    Returns:
        The folder that it wrote its files to.

    Raises:
        InvalidDataError: It failed, or wrote nothing.
        InvalidValuesError: `workdir` has a name that can't stand in a script.
    """
    known = os.environ if environ is None else environ
    workdir = workdir.absolute()
    workdir.mkdir(parents=True, exist_ok=True)
    job = Path(tempfile.mkdtemp(prefix="script-", dir=workdir))
    output, text = _output_folder(script, downloads or job / "downloads")
    path = job / "data_script.py"
    path.write_text(text, encoding="utf-8")
    # The home depends on the text, so that no script reads the settings and caches of another.
    home = workdir / f"home-{hashlib.sha256(script.encode()).hexdigest()[:12]}"
    temporary = job / "tmp"
    for folder in (home, temporary):
        folder.mkdir(exist_ok=True)
    environment = script_environment(known, home, with_hub_token=with_hub_token)
    logger.info("Running the dataScript (%d lines).", len(script.splitlines()))
    locks = find_locks() if locks is None else locks
    program = [sys.executable, "-I", "-u", "-X", "utf8", str(path)]
    if locks != Locks():
        # Rules follow a folder that is moved: what `_moved` takes away from the script must not have one.
        own = [job, home, *([output] if downloads else [])]
        hidden = [path for path in private_places(known, environment) if not any(one in path.parents for one in own)]
        given = [part for value in environment.values() for part in value.split(os.pathsep) if part.startswith("/")]
        plan = Plan(_texts(own), _texts(hidden), (*_texts(interpreter_places()), *given))
        program = command(plan, locks, program, file=job / "sandbox.json")
    code, tail = _run(program, job, {**environment, "TMPDIR": str(temporary)})
    if code != 0:
        raise _failed(code, tail, path)
    return output if downloads else _moved(output, workdir, job)


def _moved(output: Path, workdir: Path, job: Path) -> Path:
    """Move what a script wrote out of its reach: a process that it left running must not change it any more."""
    _refuse_link(output)
    moved = Path(tempfile.mkdtemp(prefix="written-", dir=workdir)) / output.name
    output.rename(moved)
    shutil.rmtree(job)
    return moved


def _refuse_link(output: Path) -> None:
    for folder in (output.parent, output):
        if folder.is_symlink() or not folder.is_dir():
            raise InvalidDataError(
                f"The dataScript replaced the folder '{folder.name}' that it has to write to.",
                hint="Write plain .jsonl or .parquet files to /downloads/datasets.",
            )


def _texts(paths: Iterable[Path]) -> tuple[str, ...]:
    return tuple(map(str, paths))


def empty(downloads: Path) -> Path:
    """Delete what an earlier script has written.

    Args:
        downloads: The folder whose `datasets` is delivered.

    Returns:
        The same folder.
    """
    datasets = downloads / "datasets"
    if datasets.is_symlink() or datasets.is_file():
        datasets.unlink()
    for folder, _, _ in os.walk(datasets):  # from the top: a folder may lack the rights to enter it
        Path(folder).chmod(0o700)
    if datasets.exists():
        shutil.rmtree(datasets)
    datasets.mkdir(parents=True)
    return downloads


def script_environment(environ: Mapping[str, str], home: Path, *, with_hub_token: bool) -> dict[str, str]:
    """Return the environment of a `dataScript`.

    The Hub's caches lie in the script's home instead of the user's, whose other programs would load what it puts there.

    Args:
        environ: The environment to choose from.
        home: The script's home folder.
        with_hub_token: Whether it has the Hub's token.
    """
    chosen = {
        name: value
        for name, value in environ.items()
        if name in _ALLOWED or (name.startswith(_ALLOWED_BEGINNINGS) and not _is_private(name, value))
    }
    tokens = _hub_tokens(environ) if with_hub_token else {_NO_LOGIN: "1"}
    return {**chosen, **tokens, "HOME": str(home)}


def _hub_tokens(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that set the Hub's token; without any, the path of the file that a login writes."""
    tokens = {name: environ[name] for name in _TOKENS if environ.get(name)}
    if tokens:
        return tokens
    caches = environ.get("XDG_CACHE_HOME") or Path(environ.get("HOME") or Path.home()) / ".cache"
    login = Path(environ.get("HF_HOME") or Path(caches) / "huggingface") / "token"
    return {"HF_TOKEN_PATH": str(login)} if login.is_file() else {}


def _is_private(name: str, value: str) -> bool:
    """Whether a variable is a secret by its name or form, or names a path."""
    secret = _SECRET.search(name) is not None or value.startswith("hf_")
    return secret or value.startswith(("/", "~", ".")) or "file:" in value


def produced_files(output: Path) -> tuple[str, ...]:
    """List the datasets that a script wrote.

    Args:
        output: The folder that it wrote to.

    Returns:
        Their paths relative to `output`, sorted: `.jsonl` and `.parquet` alone. Other files are logged.

    Raises:
        InvalidDataError: There is none, one is empty or a link, or has a name that no dataset can have.
    """
    _refuse_link(output)
    found: list[str] = []
    others: list[str] = []
    problems: list[Problem] = []
    for path in sorted(output.rglob("*")):
        name = path.relative_to(output).as_posix()
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            problems.append(Problem(where=repr(name), what="is a link or not a plain file", allowed="a plain file"))
        elif path.is_file() and not name.endswith(SUFFIXES):
            others.append(name)
        elif path.is_file() and (wrong := _wrong_name(name) or ("is empty" if not path.stat().st_size else "")):
            problems.append(Problem(where=repr(name), what=wrong))
        elif path.is_file():
            found.append(name)
    if problems:
        raise InvalidDataError(
            f"The dataScript wrote {len(problems)} files that can't be delivered.",
            hint="Write plain .jsonl or .parquet files to /downloads/datasets.",
            problems=problems,
        )
    if not found:
        wrote = f"only {abbreviated(others)}" if others else "nothing"
        raise InvalidDataError(
            f"The dataScript succeeded, but wrote {wrote} to /downloads/datasets.",
            hint="Write a .jsonl or .parquet file there, for example /downloads/datasets/train.jsonl.",
        )
    if others:
        logger.info("Not delivered, since only .jsonl and .parquet files are datasets: %s.", abbreviated(others))
    return tuple(found)


def _output_folder(script: str, downloads: Path) -> tuple[Path, str]:
    if _UNQUOTABLE.search(str(downloads)):
        raise InvalidValuesError(
            f"The folder '{downloads.parent}' has a character in its name that can't be used in a dataScript.",
            hint="Choose a --workdir without quotes, braces, backslashes, % and $.",
        )
    output = downloads / "datasets"
    output.mkdir(parents=True, exist_ok=True)
    text, count = _DOWNLOADS.subn(lambda _: str(downloads), script)
    if count and downloads != DOWNLOADS:
        logger.info("The dataScript's folder '%s' is mapped to '%s'.", DOWNLOADS, downloads)
    return output, text


def _run(command: list[str], folder: Path, environment: dict[str, str]) -> tuple[int, str]:
    """Run a command and log its output; return its exit code and the end of its output."""
    reading, writing = os.pipe()
    with (
        os.fdopen(reading, "rb", buffering=0) as output,
        subprocess.Popen(
            command,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=writing,
            stderr=writing,
            start_new_session=True,  # so that its child processes can be stopped with it
        ) as process,
    ):
        os.close(writing)
        cleaner = threading.Thread(target=_end_with, args=(process.pid,), daemon=True)
        cleaner.start()
        try:
            tail = _log_lines(output)
            cleaner.join()  # before its process id can be reused
            return process.wait(), tail
        except BaseException:
            _stop(process)
            raise


def _log_lines(stream: RawIOBase) -> str:
    tail = line = b""
    while chunk := stream.read(65_536):
        *lines, line = (line + chunk).split(b"\n")
        for whole in lines:
            _log_line(whole)
        tail = (tail + chunk)[-_TAIL_BYTES:]
    if line:
        _log_line(line)
    return tail.decode(errors="replace")


def _log_line(line: bytes) -> None:
    shown = line.rstrip(b"\r").rpartition(b"\r")[2]  # of a progress bar, its last state
    logger.info("%s", shown.decode(errors="replace"))


def _end_with(script: int) -> None:
    """Kill the processes that a script leaves behind as soon as it has ended, before its files are read."""
    with contextlib.suppress(ChildProcessError, ProcessLookupError):
        os.waitid(os.P_PID, script, os.WEXITED | os.WNOWAIT)
        os.killpg(script, signal.SIGKILL)


def _stop(process: subprocess.Popen[bytes]) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            continue
        except ProcessLookupError:
            return


def _failed(code: int, tail: str, path: Path) -> InvalidDataError:
    lines = [line for line in tail.replace("\r", "\n").splitlines() if line.strip()]
    last = lines[-1].strip() if lines else ""
    how = f"was killed by signal {-code}" if code < 0 else f"failed with exit code {code}"
    hint = f"Correct the dataScript and deliver again. It was run as '{path}'."
    if "ModuleNotFoundError" in last:
        hint = "Install the package into Tuneyard's environment (python -m pip install PACKAGE), or do without it."
    elif "PermissionError" in last:
        hint = (
            "A dataScript can read neither hidden files nor paths that a variable of your environment names: "
            "copy its data to another folder, or unset the variable."
        )
    elif "GatedRepo" in tail or "401" in last:
        hint = "A gated or private dataset needs a token: set HF_TOKEN, and hfTokenSecret.name in the values."
    return InvalidDataError(
        f"The dataScript {how}" + (f": {last}" if last else "."), hint=hint, exit_code=code, tail=lines[-_TAIL_LINES:]
    )


def _wrong_name(name: str) -> str:
    for part in name.split("/"):
        if part.startswith("."):
            return "has a name that begins with a dot"
        if not all(character.isprintable() for character in part) or "\\" in part:
            return "has a character in its name that no dataset can have"
        if len(part.encode()) > 200:
            return "has a name of more than 200 bytes"
    return ""
