"""Runs a `dataScript`: Python of the user's that writes files into `/downloads/datasets`.

It runs as a process of its own, in a folder of its own, with an environment that names what it may know: no key of the
bucket, and no token of the Hub unless the values ask for one. On Linux `tuneyard.sandbox` holds it to its folder and
away from keys and other processes, as far as the kernel goes. The network stays open to it: against hostile code the
boundary is a container without the Secret, as on Kubernetes.
"""

from __future__ import annotations

import contextlib
import hashlib
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

from tuneyard.delivery.report import tell
from tuneyard.errors import InvalidDataError, InvalidValuesError, Problem
from tuneyard.sandbox import HOLDS, Locks, Plan, command, find_locks, interpreter_places, private_places

DOWNLOADS = Path("/downloads")
"""Where a `dataScript` writes, below `datasets`, as the specification has it."""

SUFFIXES = (".jsonl", ".parquet")
"""The files of data that are delivered."""

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
_NO_LOGIN = "HF_HUB_DISABLE_IMPLICIT_TOKEN"  # a login's token, kept under HF_HOME, isn't sent either
_TAIL_BYTES = 16_384
_TAIL_LINES = 12
_STOP_SECONDS = 5.0

# `/downloads` as the beginning of an absolute path: not the middle of one, nor of a URL, nor after `{root}`
_DOWNLOADS = re.compile(r"(?:(?<![\w.}/-])|(?<=file://))/downloads(?![\w.-])")
_UNQUOTABLE = re.compile(r"[\"'\\{}\n\r%$`]")


def check_sandbox(*, required: bool, locks: Locks | None = None) -> Locks:
    """Find what will hold a `dataScript`, and say it.

    Args:
        required: Whether it may only run where enough is held.
        locks: The locks to use; this machine's where None.

    Returns:
        The locks.

    Raises:
        InvalidValuesError: A sandbox is required, and this machine's does not hold enough.
    """
    locks = find_locks() if locks is None else locks
    away = ", ".join([*(hold for hold in HOLDS if hold not in locks.held), "the network"])
    if required and not locks.sufficient:
        what = f"is 'required', and on this machine ({locks}) a dataScript is not held from: {away}"
        raise InvalidValuesError(
            "dataScriptSandbox is 'required', and this machine has no sandbox that holds enough.",
            hint="Deliver on Linux 6.12 or newer, or where users may make namespaces; or trust the script: "
            "--set dataScriptSandbox=best-effort",
            problems=[Problem("dataScriptSandbox", what, "required", "best-effort")],
        )
    held = ", ".join(locks.held) or "nothing: it has its user's rights"
    tell(f"dataScript is confined by {locks}; held: {held}; not held: {away}")
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
    """Run a `dataScript` to its end.

    Its output goes to standard error as it comes. `/downloads` in its text is the folder it writes below; where that
    is another one, the text is changed.

    Args:
        script: The Python text.
        workdir: The job's folder; each run gets a new folder in it, and runs of the same text share a home.
        with_hub_token: Whether it may know the Hub's token.
        environ: The environment to choose from; the process's own where None.
        downloads: The folder that `/downloads` stands for; a new one under `workdir` where None.
        locks: What confines it; this machine's locks where None.

    Returns:
        The folder that it wrote its files into.

    Raises:
        InvalidDataError: It failed, or wrote nothing.
        InvalidValuesError: `workdir` has a name that can't stand in its text.
    """
    known = os.environ if environ is None else environ
    workdir = workdir.absolute()
    workdir.mkdir(parents=True, exist_ok=True)
    job = Path(tempfile.mkdtemp(prefix="script-", dir=workdir))
    output, text = _output_folder(script, downloads or job / "downloads")
    path = job / "data_script.py"
    path.write_text(text, encoding="utf-8")
    # Another script's settings and caches are no business of this one.
    home = workdir / f"home-{hashlib.sha256(script.encode()).hexdigest()[:12]}"
    temporary = job / "tmp"
    for folder in (home, temporary):
        folder.mkdir(exist_ok=True)
    environment = script_environment(known, home, with_hub_token=with_hub_token)
    tell(f"running dataScript ({len(script.splitlines())} lines)")
    locks = find_locks() if locks is None else locks
    program = [sys.executable, "-I", "-u", "-X", "utf8", str(path)]
    if locks != Locks():
        # A rule on a folder follows it: what is moved away from the script's own may not have one.
        own = [job, home, *([output] if downloads else [])]
        hidden = [path for path in private_places(known, environment) if not any(one in path.parents for one in own)]
        given = [part for value in environment.values() for part in value.split(os.pathsep) if part.startswith("/")]
        plan = Plan(_texts(own), _texts(hidden), (*_texts(interpreter_places()), *given))
        program = command(plan, locks, program, file=job / "sandbox.json")
    code, tail = _run(program, job, {**environment, "TMPDIR": str(temporary)})
    if code != 0:
        raise _failed(code, tail, path)
    return output if downloads else _taken_away(output, workdir, job)


def _taken_away(output: Path, workdir: Path, job: Path) -> Path:
    """Move what a script wrote to where it may not write: something that it left running must not change it now."""
    _refuse_link(output)
    taken = Path(tempfile.mkdtemp(prefix="written-", dir=workdir)) / output.name
    output.rename(taken)
    shutil.rmtree(job)
    return taken


def _refuse_link(output: Path) -> None:
    for folder in (output.parent, output):
        if folder.is_symlink() or not folder.is_dir():
            raise InvalidDataError(
                f"dataScript replaced the folder {folder.name}, which it was given to write into.",
                hint="Let it write plain .jsonl or .parquet files into /downloads/datasets.",
            )


def _texts(paths: Iterable[Path]) -> tuple[str, ...]:
    return tuple(map(str, paths))


def emptied(downloads: Path) -> Path:
    """Empty the folder that scripts write below, and give it back: what an earlier one left there goes.

    Args:
        downloads: The folder; its `datasets` is what is delivered.
    """
    datasets = downloads / "datasets"
    if datasets.is_symlink() or datasets.is_file():
        datasets.unlink()
    for folder, _, _ in os.walk(datasets):  # top down: a folder may have been closed against us
        Path(folder).chmod(0o700)
    if datasets.exists():
        shutil.rmtree(datasets)
    datasets.mkdir(parents=True)
    return downloads


def script_environment(environ: Mapping[str, str], home: Path, *, with_hub_token: bool) -> dict[str, str]:
    """Choose what a `dataScript` may know of the environment.

    The Hub's caches are not the user's own but in the script's home: whatever is put there, others would load.

    Args:
        environ: The environment to choose from.
        home: The script's home folder.
        with_hub_token: Whether the Hub's token is among it.

    Returns:
        The script's whole environment.
    """
    chosen = {
        name: value
        for name, value in environ.items()
        if name in _ALLOWED or (name.startswith(_ALLOWED_BEGINNINGS) and not _is_private(name, value))
    }
    tokens = _hub_tokens(environ) if with_hub_token else {_NO_LOGIN: "1"}
    return {**chosen, **tokens, "HOME": str(home)}


def _hub_tokens(environ: Mapping[str, str]) -> dict[str, str]:
    """Give what the environment says of the Hub's token; where it says nothing, the file that a login leaves."""
    said = {name: environ[name] for name in _TOKENS if environ.get(name)}
    if said:
        return said
    caches = environ.get("XDG_CACHE_HOME") or Path(environ.get("HOME") or Path.home()) / ".cache"
    login = Path(environ.get("HF_HOME") or Path(caches) / "huggingface") / "token"
    return {"HF_TOKEN_PATH": str(login)} if login.is_file() else {}


def _is_private(name: str, value: str) -> bool:
    """Whether a variable is a secret by its name or its form, or names a place."""
    secret = _SECRET.search(name) is not None or value.startswith("hf_")
    return secret or value.startswith(("/", "~", ".")) or "file:" in value


def produced_files(output: Path) -> tuple[str, ...]:
    """List the files of data that a script wrote.

    Args:
        output: The folder it wrote into.

    Returns:
        Their paths relative to `output`, sorted; only `.jsonl` and `.parquet`. The others are named on standard error.

    Raises:
        InvalidDataError: There is none, one is empty, or one is a link or has a name that no dataset can have.
    """
    _refuse_link(output)
    found: list[str] = []
    others: list[str] = []
    problems: list[Problem] = []
    for path in sorted(output.rglob("*")):
        name = path.relative_to(output).as_posix()
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            problems.append(Problem(where=repr(name), what="is a link or no plain file", allowed="a plain file"))
        elif path.is_file() and not name.endswith(SUFFIXES):
            others.append(name)
        elif path.is_file() and (wrong := _wrong_name(name) or ("is empty" if not path.stat().st_size else "")):
            problems.append(Problem(where=repr(name), what=wrong))
        elif path.is_file():
            found.append(name)
    if problems:
        raise InvalidDataError(
            f"dataScript wrote {len(problems)} files that can't be delivered.",
            hint="Let it write plain .jsonl or .parquet files into /downloads/datasets.",
            problems=problems,
        )
    if not found:
        wrote = f"only {', '.join(others[:4])}" if others else "nothing"
        raise InvalidDataError(
            f"dataScript ended well, but wrote {wrote} into /downloads/datasets.",
            hint="Let it write a .jsonl or .parquet file there, for example /downloads/datasets/train.jsonl.",
        )
    if others:
        tell(f"not delivered, since only .jsonl and .parquet are data: {', '.join(others[:4])}")
    return tuple(found)


def _output_folder(script: str, downloads: Path) -> tuple[Path, str]:
    if _UNQUOTABLE.search(str(downloads)):
        raise InvalidValuesError(
            f"The job's folder {str(downloads.parent)!r} has a character in its name that can't stand in a dataScript.",
            hint="Choose a --workdir without quotes, braces, backslashes, % and $.",
        )
    output = downloads / "datasets"
    output.mkdir(parents=True, exist_ok=True)
    text, count = _DOWNLOADS.subn(lambda _: str(downloads), script)
    if count and downloads != DOWNLOADS:
        tell(f"dataScript: {DOWNLOADS} is {downloads} here")
    return output, text


def _run(command: list[str], folder: Path, environment: dict[str, str]) -> tuple[int, str]:
    """Run a command to its end, passing its output on; give its exit code and the last of what it said."""
    reading, writing = os.pipe()
    with (
        os.fdopen(reading, "rb", buffering=0) as said,
        subprocess.Popen(
            command,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=writing,
            stderr=writing,
            start_new_session=True,  # so that what the script starts can be stopped with it
        ) as process,
    ):
        os.close(writing)
        cleaner = threading.Thread(target=_end_with, args=(process.pid,), daemon=True)
        cleaner.start()
        try:
            tail = _pass_on(said)
            cleaner.join()  # before its number is free for another process
            return process.wait(), tail
        except BaseException:
            _stop(process)
            raise


def _pass_on(stream: RawIOBase) -> str:
    tail = b""
    while chunk := stream.read(65_536):
        sys.stderr.write(chunk.decode(errors="replace"))
        sys.stderr.flush()
        tail = (tail + chunk)[-_TAIL_BYTES:]
    return tail.decode(errors="replace")


def _end_with(script: int) -> None:
    """End what a script has started and left behind, as soon as it has ended itself: its files are read then."""
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
    how = f"was ended by signal {-code}" if code < 0 else f"failed with exit code {code}"
    hint = f"Correct dataScript and run it again; it was run as {path}."
    if "ModuleNotFoundError" in last:
        hint = "Use what is installed beside Tuneyard, or install it there: python -m pip install <package>"
    elif "PermissionError" in last:
        hint = (
            "A dataScript reads no hidden files, and no place that a variable of your environment names: "
            "copy its data to another folder, or unset that variable."
        )
    elif "GatedRepo" in tail or "401" in last:
        hint = "A gated or private dataset needs a token: set HF_TOKEN, and hfTokenSecret.name in the values."
    return InvalidDataError(
        f"dataScript {how}" + (f": {last}" if last else "."), hint=hint, exit_code=code, tail=lines[-_TAIL_LINES:]
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
