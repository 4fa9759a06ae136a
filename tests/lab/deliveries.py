"""A delivery under test: a Hub with a small model, a store, and functions that deliver from one to the other."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from lab.hub_server import HubServer
from tuneyard.delivery import DeliverReport, deliver
from tuneyard.delivery.journal import read_journal
from tuneyard.hub import Hub, RetryPolicy
from tuneyard.store import Store
from tuneyard.values import DeliverValues

MODEL = "default-bucket/models/tiny"
MANIFEST = f"{MODEL}/.tuneyard/manifest.json"
JOURNAL = f"{MODEL}/.tuneyard/delivering.json"


def safetensors(name: str, body: bytes) -> bytes:
    """Return a safetensors file with one tensor of bytes."""
    header = json.dumps({name: {"dtype": "U8", "shape": [len(body)], "data_offsets": [0, len(body)]}}).encode()
    return len(header).to_bytes(8, "little") + header + body


FILES = {
    "config.json": b'{"model_type": "llama"}',
    "model-1.safetensors": safetensors("a.weight", bytes(range(256)) * 4096),
    "model-2.safetensors": safetensors("b.weight", bytes(reversed(range(256))) * 4096),
    "model.safetensors.index.json": json.dumps(
        {"weight_map": {"a.weight": "model-1.safetensors", "b.weight": "model-2.safetensors"}}
    ).encode(),
    "original/params.json": b"{}",
    "tokenizer.json": b'{"version": "1.0"}' * 100,
}


@dataclass
class Delivery:
    """Delivers from the test's Hub into the test's store."""

    hub: HubServer
    store: Store
    env: dict[str, str]
    folder: Path

    def values(self, **given: Any) -> DeliverValues:
        defaults = {} if "dataScript" in given else {"modelID": "org/tiny", "bucketModelPath": MODEL}
        return DeliverValues.model_validate({**defaults, **given})

    def run(self, **given: Any) -> DeliverReport:
        """Deliver in this process."""
        hub = Hub(endpoint=self.hub.url, token="hf_right", retry_policy=RetryPolicy(attempts=2, sleep=lambda _: None))
        return deliver(self.values(**given), self.store, workdir=self.folder / "work", hub=hub)

    def command(self, **given: Any) -> list[str]:
        path = self.folder / "values.json"
        path.write_text(json.dumps(self.values(**given).model_dump(mode="json")))
        return [sys.executable, "-m", "tuneyard.delivery", str(path), "--workdir", str(self.folder / "work")]

    def process(self, env: dict[str, str] | None = None, **given: Any) -> subprocess.CompletedProcess[str]:
        """Deliver in a process of its own and wait for its end."""
        return subprocess.run(
            self.command(**given), env={**self.env, **(env or {})}, capture_output=True, text=True, timeout=120
        )

    def start(self, **given: Any) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            self.command(**given), env=self.env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

    def wait_until_done(self, *paths: str) -> None:
        """Wait until the journal of a delivery lists these files as done."""
        for _ in range(3000):
            journal = read_journal(self.store, JOURNAL)
            if journal is not None and journal.done.keys() >= set(paths):
                return
            time.sleep(0.1)
        pytest.fail(f"the delivery never finished {paths}")

    def paths(self, prefix: str = f"{MODEL}/") -> list[str]:
        return [info.key.removeprefix(prefix) for info in self.store.list(prefix)]

    def body(self, path: str) -> bytes:
        return b"".join(self.store.read(f"{MODEL}/{path}"))
