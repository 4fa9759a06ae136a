"""Measure the cost of waiting for a save's commit at the next step, compared with not waiting and waiting at the save.

    python benchmarks/commit_wait.py [--model FOLDER] [--store URL] [--every STEPS] [--rounds N]

Trains an adapter for 16 steps of 4 conversations with each of the three variants in turn, each time in a new process.
Prints the training seconds from the metrics: the median, and the ratio to the variant that never waits. Without
--model, it trains a tiny model whose steps take about 25 ms, which is the worst case. The store is a folder, unless
--store names a server.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from lab.tiny_models import make_model
from lab.training import ARGUMENTS, changed, conversations, deliver, write_values
from tuneyard.store import open_store

PUBLISHER = "from tuneyard.checkpoints import Publisher\n"
WAYS = {
    "never waits": PUBLISHER + "Publisher.await_commit = lambda self, *, timeout_seconds: True\n",
    "waits before the next step's weights change": "",
    "waits at the save": PUBLISHER
    + """
submit = Publisher.submit
def submit_and_wait(self, *given):
    submit(self, *given)
    self.flush(timeout_seconds=600)
Publisher.submit = submit_and_wait
""",
}
TRAIN = """
import sys
from tuneyard.train.__main__ import main
sys.exit(main())
"""


def main() -> None:
    """Train with each variant in turn and print a row for each."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", type=Path)
    parser.add_argument("--store")
    parser.add_argument("--every", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        beside = Path(folder)
        store = open_store(options.store or (beside / "store").as_uri())
        prefix = f"default-bucket/.tuneyard-benchmarks/{secrets.token_hex(4)}"
        try:
            model, data = f"{prefix}/models/tiny", f"{prefix}/datasets/chat.jsonl"
            folder_of_model = options.model or make_model(beside / "model")
            deliver(store, beside, model=folder_of_model, rows=conversations(40), model_key=model, data_key=data)
            found: dict[str, list[float]] = {way: [] for way in WAYS}
            for number in range(options.rounds):
                for way, change in WAYS.items():
                    run = f"{list(WAYS).index(way)}-{number}"
                    given = changed(
                        **{
                            "basemodel": model,
                            "checkpointsRemote": f"{prefix}/experiments/{run}",
                            "finetuning_config.data_conf.training_data.datasets": [{"path": data}],
                            ARGUMENTS + "save_steps": options.every,
                            ARGUMENTS + "eval_strategy": "no",
                        }
                    )
                    found[way].append(seconds(given, change + TRAIN, store.url, beside / run))
                    store.delete([info.key for info in store.list(f"{prefix}/experiments/{run}/")])
        finally:
            store.delete([info.key for info in store.list(f"{prefix}/")])
    rival = statistics.median(found["never waits"])
    for way, taken in found.items():
        middle = statistics.median(taken)
        print(f"{way:44} median {middle:7.2f} s  from {min(taken):.2f} to {max(taken):.2f}  {middle / rival:.3f} x")


def seconds(given: dict[str, Any], script: str, url: str, workdir: Path) -> float:
    """Train once and return the seconds it took."""
    path = workdir / "values.json"
    write_values(path, given)
    environ = {**os.environ, "TUNEYARD_STORE": url, "TUNEYARD_DEVICE": "cpu"}
    command = [sys.executable, "-c", script, str(path), "--workdir", str(workdir)]
    done = subprocess.run(command, env=environ, stderr=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(done.stderr)
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return next(row["seconds"] for row in rows if row["kind"] == "summary")


if __name__ == "__main__":
    main()
