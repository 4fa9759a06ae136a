"""Runs a `dataScript`: Python of the user's that writes files into `/downloads/datasets`.

It runs as a process of its own, in a folder of its own, with an environment that names what it may know: no key of the
bucket, and no token of the Hub unless the values ask for one. On Linux `confine` holds it to its folder and away from
the usual files of keys and from other processes. What it may read besides, and the network, stay its user's: against
hostile code the boundary is a container without the Secret, as on Kubernetes.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from io import RawIOBase
from pathlib import Path

from tuneyard.deliver import confine
from tuneyard.deliver.confine import landlock_version
from tuneyard.deliver.report import tell
from tuneyard.errors import InvalidDataError, InvalidValuesError, Problem

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
_TOKENS = frozenset({"HF_TOKEN", "HF_TOKEN_PATH", "HF_STORED_TOKENS_PATH"})
_NO_LOGIN = "HF_HUB_DISABLE_IMPLICIT_TOKEN"  # a login's token, kept under HF_HOME, isn't sent either
_CACHES = ("_HOME", "_CACHE")
_KEY_FILES = ("TUNEYARD_HOME", "AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE", "AWS_WEB_IDENTITY_TOKEN_FILE", "NETRC")
_KEY_PLACES = (
    ".aws", ".kube", ".ssh", ".gnupg", ".docker", ".netrc", ".pypirc", ".git-credentials", ".config/gcloud",
    ".config/gh", ".config/tuneyard", ".local/share/tuneyard",
)  # fmt: skip
_SERVICE_ACCOUNT = Path("/var/run/secrets")
_TAIL_BYTES = 16_384
_TAIL_LINES = 12
_STOP_SECONDS = 5.0

# `/downloads` as the beginning of an absolute path: not the middle of one, nor of a URL, nor after `{root}`
_DOWNLOADS = re.compile(r"(?:(?<![\w.}/-])|(?<=file://))/downloads(?![\w.-])")
_UNQUOTABLE = re.compile(r"[\"'\\{}\n\r%$`]")


def run_script(script: str, workdir: Path, *, with_hub_token: bool, environ: Mapping[str, str] | None = None) -> Path:
    """Run a `dataScript` to its end.

    Its output goes to standard error as it comes. Where `/downloads/datasets` is a folder that may be written (in a
    container), the script writes there; elsewhere that path is replaced in its text by a folder under `workdir`.

    Args:
        script: The Python text.
        workdir: The job's folder; each run gets a new folder in it, and all of them share a `home`.
        with_hub_token: Whether it may know the Hub's token.
        environ: The environment to choose from; the process's own where None.

    Returns:
        The folder that it wrote its files into.

    Raises:
        InvalidDataError: It failed, or wrote nothing.
        InvalidValuesError: `workdir` has a name that can't stand in its text.
    """
    workdir = workdir.absolute()
    workdir.mkdir(parents=True, exist_ok=True)
    job = Path(tempfile.mkdtemp(prefix="script-", dir=workdir))
    output, text = _output_folder(script, job)
    path = job / "data_script.py"
    path.write_text(text, encoding="utf-8")
    home = workdir / "home"
    home.mkdir(exist_ok=True)
    environment = script_environment(os.environ if environ is None else environ, home, with_hub_token=with_hub_token)
    tell(f"running dataScript ({len(script.splitlines())} lines)")
    temporary = job / "tmp"
    temporary.mkdir()
    command = [sys.executable, "-I", "-u", "-X", "utf8", str(path)]
    known = os.environ if environ is None else environ
    writable = [job, home, output, *_caches(environment)]
    command = _confined(command, writable, keys_of(known, with_hub_token=with_hub_token))
    code, tail = _run(command, job, {**environment, "TMPDIR": str(temporary)})
    if code != 0:
        raise _failed(code, tail, path)
    return output


def clear_downloads() -> None:
    """Empty `/downloads/datasets` where `/downloads` may be written, as in a container: an earlier run's files go."""
    if not (DOWNLOADS.is_dir() and os.access(DOWNLOADS, os.W_OK)):
        return
    datasets = DOWNLOADS / "datasets"
    shutil.rmtree(datasets, ignore_errors=True)
    datasets.mkdir(exist_ok=True)


def script_environment(environ: Mapping[str, str], home: Path, *, with_hub_token: bool) -> dict[str, str]:
    """Choose what a `dataScript` may know of the environment.

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
        if (name in _ALLOWED or name.startswith(_ALLOWED_BEGINNINGS)) and (with_hub_token or name not in _TOKENS)
    }
    if not with_hub_token:
        chosen |= {_NO_LOGIN: "1"}
    return {**chosen, "HOME": str(home)}


def keys_of(environ: Mapping[str, str], *, with_hub_token: bool) -> list[Path]:
    """List the files of this machine that hold keys, as far as their places are known.

    Args:
        environ: The environment, which may name some.
        with_hub_token: Whether the Hub's token is none of them.
    """
    home = Path(environ.get("HOME") or Path.home())
    named = [environ[name] for name in _KEY_FILES if environ.get(name)]
    named += environ.get("KUBECONFIG", "").split(os.pathsep)
    found = [*(home / name for name in _KEY_PLACES), *(Path(name) for name in named if name), _SERVICE_ACCOUNT]
    if not with_hub_token:
        hub = Path(environ.get("HF_HOME") or home / ".cache" / "huggingface")
        found += [hub / "token", hub / "stored_tokens"]
        found += [Path(environ[name]) for name in ("HF_TOKEN_PATH", "HF_STORED_TOKENS_PATH") if environ.get(name)]
    return found


def _caches(environment: Mapping[str, str]) -> list[Path]:
    """The Hub's caches that the environment names; else they are in the script's home."""
    return [Path(value) for name, value in environment.items() if name.startswith("HF_") and name.endswith(_CACHES)]


def _confined(command: list[str], writable: list[Path], hidden: list[Path]) -> list[str]:
    if not landlock_version():
        tell("dataScript is not confined here (no Landlock): it may write wherever its user may")
        return command
    plan = {"writable": [str(path) for path in writable], "hidden": [str(path) for path in hidden]}
    return [sys.executable, "-I", confine.__file__, json.dumps(plan), *command]


def produced_files(output: Path) -> tuple[str, ...]:
    """List the files of data that a script wrote.

    Args:
        output: The folder it wrote into.

    Returns:
        Their paths relative to `output`, sorted; only `.jsonl` and `.parquet`. The others are named on standard error.

    Raises:
        InvalidDataError: There is none, one is empty, or one is a link or has a name that no dataset can have.
    """
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


def _output_folder(script: str, job: Path) -> tuple[Path, str]:
    datasets = DOWNLOADS / "datasets"
    if datasets.is_dir() and os.access(datasets, os.W_OK):
        return datasets, script
    downloads = job / "downloads"
    if _UNQUOTABLE.search(str(downloads)):
        raise InvalidValuesError(
            f"The job's folder {str(job)!r} has a character in its name that can't stand in a dataScript.",
            hint="Choose a --workdir without quotes, braces, backslashes, % and $.",
        )
    output = downloads / "datasets"
    output.mkdir(parents=True)
    text, count = _DOWNLOADS.subn(lambda _: str(downloads), script)
    if count:
        tell(f"dataScript: /downloads is {downloads} here")
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
        try:
            tail = _pass_on(said)
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
