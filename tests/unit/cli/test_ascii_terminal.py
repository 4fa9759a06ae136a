"""Every command on a terminal that knows ASCII alone: it prints, and what it prints is ASCII."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.main import get_command

from lab.tiny_models import make_tokenizer
from tuneyard.cli.main import app

TUNEYARD = str(Path(sys.executable).with_name("tuneyard"))
ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii", "PYTHONCOERCECLOCALE": "0"}
TEXT = "Grüße… „naïve“ — 日本 😀"


def _run_folder(home: Path, verb: str, name: str, **end: Any) -> None:
    folder = home / "runs" / verb / name
    (folder / "work").mkdir(parents=True)
    now = datetime.now(UTC)
    record = {
        "format": 1,
        "verb": verb,
        "name": name,
        "values_sha256": "0" * 64,
        "store": "file:///tmp/grüße",
        "experiment": f"default-bucket/experiments/{TEXT}",
        "url": None,
        "argv": ["true"],
        "created_at": now.isoformat(),
        "attempts": 1,
        "log_offset": 0,
    }
    (folder / "run.json").write_text(json.dumps(record))
    (folder / "values.json").write_text(json.dumps({"labels": {"note": TEXT}}))
    (folder / "process.json").write_text(json.dumps({"started_at": (now - timedelta(minutes=3)).isoformat()}))
    (folder / "exit.json").write_text(json.dumps({"finished_at": now.isoformat(), "stop_asked": False, **end}))
    (folder / "log").write_text(f"{TEXT}\nerror: {TEXT}.\nhint: {TEXT}\n", encoding="utf-8")
    progress = {"step": 3, "max_steps": 9, "loss": 1.5, "seconds_per_step": 1.0, "phase": TEXT}
    (folder / "work" / "progress.json").write_text(json.dumps(progress))


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs, data, a tokenizer and values, all with characters that ASCII lacks."""
    folder = tmp_path_factory.mktemp("desk")
    _run_folder(folder / "home", "finetune", "failed", code=3)
    _run_folder(folder / "home", "finetune", "ended", code=0)
    _run_folder(folder / "home", "deliver", "delivered", code=5)
    make_tokenizer(folder / "model")
    rows = [
        {"messages": [{"role": "user", "content": TEXT * many}, {"role": "assistant", "content": TEXT}]}
        for many in range(1, 9)
    ]
    lines = [json.dumps(row, ensure_ascii=False) for row in [*rows, rows[0], {"messages": TEXT}]]
    (folder / "rows.jsonl").write_text("\n".join(lines), encoding="utf-8")
    values = {
        "basemodel": "default-bucket/models/grüße",
        "labels": {"note": "plain"},
        "finetuning_config": {
            "data_conf": {
                "training_data": {"type": "CONCATENATION", "datasets": [{"path": f"default-bucket/datasets/{TEXT}"}]}
            }
        },
    }
    (folder / "values.yaml").write_text(yaml.safe_dump(values, allow_unicode=True), encoding="utf-8")
    script = f"print({TEXT!r})"
    delivery = {"dataScript": script, "bucketDataDir": "default-bucket/datasets"}
    (folder / "deliver.yaml").write_text(yaml.safe_dump(delivery, allow_unicode=True), encoding="utf-8")
    return folder


DATA = ("rows.jsonl", "--model", "model")
COMMANDS: list[tuple[tuple[str, ...], int]] = [
    (("runs",), 0),
    (("runs", "--json"), 0),
    (("runs", "show", "failed"), 0),
    (("runs", "show", "failed", "--json"), 0),
    (("logs", "failed"), 0),
    (("watch", "failed"), 3),
    (("watch", "ended"), 0),
    (("watch", "ended", "--json"), 0),
    (("watch",), 4),
    (("stop", "failed"), 0),
    (("delete", "failed"), 2),
    (("data", "check", *DATA, "--json"), 3),
    (("data", "show", *DATA), 0),
    (("deliver", "-f", "deliver.yaml", "--dry-run"), 0),
    (("deliver", "-f", "deliver.yaml", "--dry-run", "--json"), 0),
    (("finetune", "-f", "values.yaml", "--dry-run"), 0),
    (("finetune", "-f", "values.yaml"), 4),
    (("plan", "-f", "values.yaml"), 4),
    (("serve", "failed"), 4),
    (("serve", "--set", "model=s3://default-bucket/models/x", "--dry-run"), 0),
    (("chat", "--compare"), 4),
    (("verify", "default-bucket/models"), 4),
    (("gc", "default-bucket/models", "--dry-run"), 4),
    (("doctor", "store"), 0),
    (("values", "schema", "finetune"), 0),
    (("version",), 0),
    (("finetune", "--set", "grüße=1"), 3),
    (("logs", "grüße"), 2),
    (("deliver", "-f", "deliver.yaml", "--dry-run", "--set", "bucketDataDir=default-bucket/grüße"), 0),
    (("deliver", "-f", "grüße.yaml"), 4),
]
VERBS = sorted(get_command(app).commands)  # pyright: ignore[reportAttributeAccessIssue]


def _environment(desk: Path, **more: str) -> dict[str, str]:
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("TUNEYARD_", "LC_", "LANG", "PYTHON", "AWS_"))
    }
    return {**kept, "TUNEYARD_HOME": str(desk / "home"), **more}


def _on_a_pipe(desk: Path, words: tuple[str, ...], **environment: str) -> tuple[int, bytes, bytes]:
    done = subprocess.run(
        [TUNEYARD, *words],
        env=_environment(desk, **environment),
        cwd=desk,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


def _on_a_terminal(desk: Path, words: tuple[str, ...], **environment: str) -> tuple[int, bytes]:
    ours, theirs = pty.openpty()
    environ = _environment(desk, **environment, TERM="xterm", COLUMNS="100", LINES="40")
    process = subprocess.Popen(
        [TUNEYARD, *words], env=environ, cwd=desk, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True
    )
    os.close(theirs)
    seen = b""
    try:
        while piece := os.read(ours, 65536):
            seen += piece
    except OSError:  # the other end is closed
        pass
    finally:
        os.close(ours)
    return process.wait(), seen


def _is_ascii(shown: bytes) -> None:
    assert shown.isascii(), [line for line in shown.splitlines() if not line.isascii()]
    for failure in (b"Traceback", b"UnicodeEncodeError", b"Internal error"):
        assert failure not in shown, shown.decode()


def test_every_command_is_covered_here() -> None:
    assert {words[0] for words, _ in COMMANDS} == set(VERBS)


@pytest.mark.parametrize(("words", "code"), COMMANDS, ids=[" ".join(words)[:60] for words, _ in COMMANDS])
def test_a_command_prints_on_a_pipe_of_ascii(desk: Path, words: tuple[str, ...], code: int) -> None:
    ended, out, err = _on_a_pipe(desk, words, **ASCII)
    _is_ascii(out)
    _is_ascii(err)
    assert ended == code, err.decode()
    if "--json" in words:
        _, plain, _ = _on_a_pipe(desk, words, LC_ALL="C.UTF-8")
        assert not plain.isascii()
        assert json.loads(out) == json.loads(plain)


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("runs",), 0),
        (("watch", "ended"), 0),
        (("data", "check", *DATA, "--html", "page.html"), 3),
        (("doctor", "store"), 0),
    ],
    ids=lambda value: " ".join(value[:2]) if isinstance(value, tuple) else "",
)
def test_tables_bars_and_colours_are_drawn_on_a_terminal_of_ascii(
    desk: Path, words: tuple[str, ...], code: int
) -> None:
    ended, shown = _on_a_terminal(desk, words, **ASCII)
    _is_ascii(shown)
    assert ended == code, shown.decode()


@pytest.mark.parametrize("verb", VERBS)
def test_help_is_in_ascii(desk: Path, verb: str) -> None:
    ended, out, err = _on_a_pipe(desk, (verb, "--help"), **ASCII)
    _is_ascii(out + err)
    assert ended == 0


def test_the_table_of_runs_has_its_text_in_ascii(desk: Path) -> None:
    _, out, _ = _on_a_pipe(desk, ("runs",), **ASCII)
    assert b"Gr\\xfc\\xdfe..." in out
    _, out, _ = _on_a_pipe(desk, ("runs",), LC_ALL="C.UTF-8")
    assert TEXT in out.decode()
