"""A small server for tests: a tiny base model and adapters in a folder store, and a real process that serves them.

Plain functions, no fixtures. The adapters' weights are random and large enough to change the answers.
"""

from __future__ import annotations

import http.client
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lab.tiny_models import make_model

BASE = "default-bucket/models/tiny"
TUNED = "default-bucket/experiments/tuned/checkpoint-final"
OTHER = "default-bucket/experiments/other/checkpoint-final"
BRIEF = "default-bucket/experiments/brief/checkpoint-final"
FULL = "default-bucket/experiments/full/checkpoint-final"
KEY = "a-key-of-this-test"


def make_adapter(base: Path, folder: Path, *, seed: int, rank: int = 4, **config: Any) -> Path:
    """Write a LoRA adapter with random weights, and its tokenizer as a training would."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    wanted = {"target_modules": ["q_proj", "v_proj", "down_proj"], "lora_alpha": 4 * rank, **config}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = get_peft_model(
            AutoModelForCausalLM.from_pretrained(base), LoraConfig(task_type="CAUSAL_LM", r=rank, **wanted)
        )
        for name, weight in model.named_parameters():
            if "lora_" in name:
                torch.nn.init.normal_(weight, std=0.3)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(base).save_pretrained(folder)
    return folder


def put(store: Path, key: str, folder: Path, *, kind: str = "final", about: dict[str, Any] | None = None) -> str:
    """Write a folder to the store with its manifest last, and return its content hash."""
    from tuneyard.store import Manifest, open_store, upload_tree, write_manifest

    opened = open_store(store.as_uri())
    files = tuple(upload_tree(opened, folder, f"{key}/"))
    manifest = Manifest(kind=kind, files=files, about=about or {})
    where = f"{key}/.tuneyard/manifest.json" if kind == "model" else f"{key}/manifest.json"
    write_manifest(opened, where, manifest, replace=True)
    return manifest.content_sha256


def put_models(store: Path, beside: Path, **model: Any) -> None:
    """Write a base, two adapters on it, one that ends each answer at once, and a full model to the store."""
    base = make_model(beside / "base", **model)
    trained_on = {"key": BASE, "content_sha256": put(store, BASE, base, kind="model")}
    for key, seed in ((TUNED, 1), (OTHER, 2), (BRIEF, 3)):
        folder = make_adapter(base, beside / f"adapter-{seed}", seed=seed)
        if key == BRIEF:
            tokens = json.loads((base / "config.json").read_text())["vocab_size"]
            (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": list(range(tokens))}))
        put(store, key, folder, about={"type": "adapter", "run": key.split("/")[2], "base": trained_on})
    put(
        store,
        FULL,
        make_model(beside / "full", seed=9, **model),
        about={"type": "model", "run": "full", "base": trained_on},
    )


def values(model: str = f"s3://{TUNED}", **more: Any) -> dict[str, Any]:
    """Return the values of a server on the CPU."""
    return {"model": model, "gpuResource": "", **more}


def environment(store: Path, key: str = KEY, **more: str) -> dict[str, str]:
    """Return the environment of a serving process: its store, its key, one thread."""
    dropped = ("TUNEYARD_", "AWS_", "HF_", "VLLM_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(dropped)}
    keys = {"TUNEYARD_API_KEY": key} if key else {}
    return {**kept, "TUNEYARD_STORE": store.as_uri(), "OMP_NUM_THREADS": "1", **keys, **more}


@dataclass
class Server:
    """A serving process."""

    process: subprocess.Popen[str]
    ready_file: Path
    log: Path
    key: str

    def ready(self, seconds: float = 300) -> dict[str, Any]:
        """Wait for its ready file, and read it."""
        until = time.monotonic() + seconds
        while not self.ready_file.exists():
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < until, self.log.read_text()
            time.sleep(0.05)
        return json.loads(self.ready_file.read_text())

    @property
    def url(self) -> str:
        """Its endpoint, with `/v1`."""
        return str(self.ready()["url"])

    def ask(
        self, path: str, body: Any = None, *, method: str | None = None, key: str | None = None
    ) -> tuple[int, dict[str, Any]]:
        """Send a request; return the status and the JSON of the response."""
        status, text = self.raw(
            path, body if isinstance(body, bytes | None) else json.dumps(body).encode(), method, key
        )
        return status, json.loads(text or "{}")

    def raw(self, path: str, body: bytes | None, method: str | None = None, key: str | None = None) -> tuple[int, str]:
        """Send a request with raw bytes; return the status and the text of the response."""
        host, port = self.url.split("/")[2].split(":")
        connection = http.client.HTTPConnection(host, int(port), timeout=300)
        key = self.key if key is None else key
        headers = {"Content-Type": "application/json", **({"Authorization": f"Bearer {key}"} if key else {})}
        connection.request(method or ("GET" if body is None else "POST"), path, body, headers)
        response = connection.getresponse()
        answer = response.status, response.read().decode()
        connection.close()
        return answer

    def stop(self) -> int:
        """Stop it, and return its exit code."""
        self.process.terminate()
        return self.process.wait(300)


def start(
    values: dict[str, Any],
    store: Path,
    workdir: Path,
    *,
    key: str = KEY,
    port: int = 0,
    python: str = sys.executable,
    **more: str,
) -> Server:
    """Start `python -m tuneyard.serving`, on a free port by default."""
    from tuneyard.values import InferenceValues, canonical_json

    workdir.mkdir(parents=True, exist_ok=True)
    path = workdir / "values.json"
    path.write_bytes(canonical_json(InferenceValues.model_validate(values)))
    ready, log = workdir / "ready.json", workdir / "log"
    command = [python, "-m", "tuneyard.serving", str(path), "--workdir", str(workdir / "work")]
    with log.open("w") as out:
        process = subprocess.Popen(
            [*command, "--port", str(port), "--ready-file", str(ready)],
            env=environment(store, key, **more),
            stdout=out,
            stderr=out,
            text=True,
        )
    return Server(process, ready, log, key)
