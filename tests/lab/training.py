"""A small training for tests: a tiny model and conversations in a store, and a real process that trains on them.

Plain functions, not fixtures. The values are what a user writes; a test changes only the keys that it is about.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lab.faulty_store import Killed
from lab.tiny_models import make_model

if TYPE_CHECKING:
    from tuneyard.store import Store

MODEL = "default-bucket/models/tiny"
DATA = "default-bucket/datasets/chat.jsonl"
REMOTE = "default-bucket/experiments/run"

VALUES: dict[str, Any] = {
    "basemodel": MODEL,
    "checkpointsRemote": REMOTE,
    "gpuResource": "",
    "finetuningGpus": 1,
    "finetuning_config": {
        "method": "sft",
        "data_conf": {
            "training_data": {"type": "CONCATENATION", "datasets": [{"path": DATA}]},
            "validation_data": {"type": "AUTO_SPLIT", "ratio": 0.2},
            "chat_template_name": "keep-original",
            "missing_pad_token_strategy": "bos-repurpose",
        },
        "training_args": {
            "learning_rate": 1e-2,
            "num_train_epochs": 2,
            "logging_steps": 3,
            "eval_strategy": "steps",
            "eval_steps": 4,
            "save_strategy": "steps",
            "save_steps": 2,
            "save_total_limit": 2,
            "lr_scheduler_type": "linear",
            "report_to": ["none"],
            "seed": 7,
        },
        "batchsize_conf": {"total_train_batch_size": 4, "max_per_device_train_batch_size": 2},
        "peft_conf": {
            "peft_type": "LORA",
            "peft_kwargs": {
                "r": 4,
                "lora_alpha": 8,
                "lora_dropout": 0.1,
                "target_modules": ["q_proj", "v_proj", "down_proj"],
            },
        },
        "sft_args": {"max_seq_length": 256},
    },
}

WORDS = [
    "yard",
    "boat",
    "model",
    "data",
    "bucket",
    "rank",
    "loss",
    "token",
    "answer",
    "question",
    "adapter",
    "tune",
    "serve",
    "chat",
    "deliver",
]


def conversations(count: int, *, seed: int = 0) -> list[dict[str, Any]]:
    """Return rows of different lengths, the same for a seed."""
    rng = random.Random(seed)

    def text() -> str:
        return " ".join(rng.choices(WORDS, k=rng.randint(2, 12)))

    return [
        {"messages": [{"role": "user", "content": text()}, {"role": "assistant", "content": text()}]}
        for _ in range(count)
    ]


def preferences(count: int, *, seed: int = 0) -> list[dict[str, Any]]:
    """Return rows with a chosen and a rejected answer, as text."""
    return [
        {"prompt": one["messages"][0]["content"], "chosen": one["messages"][1]["content"], "rejected": f"{place} no"}
        for place, one in enumerate(conversations(count, seed=seed))
    ]


def deliver_inputs(
    store: Path, *, rows: list[dict[str, Any]] | None = None, folder: Path | None = None, **model: Any
) -> None:
    """Deliver a dataset and a model, a tiny one or that of a folder, into a store that is a local folder."""
    from tuneyard.store import open_store

    beside = store.parent / "inputs"
    deliver(open_store(store.as_uri()), beside, model=folder or make_model(beside / "model", **model), rows=rows)


def deliver(
    store: Store,
    folder: Path,
    *,
    model: Path,
    rows: list[dict[str, Any]] | None = None,
    model_key: str = MODEL,
    data_key: str = DATA,
) -> None:
    """Write a model and a dataset into a store with their manifests, as a delivery does.

    Args:
        store: The store.
        folder: A local folder to write the dataset's file in first.
        model: The folder of the model.
        rows: The dataset's rows; 25 conversations where None.
        model_key: The model's key.
        data_key: The dataset's key.
    """
    from tuneyard.store import Manifest, upload_tree, write_manifest

    files = upload_tree(store, model, f"{model_key}/")
    write_manifest(
        store, f"{model_key}/.tuneyard/manifest.json", Manifest(kind="model", files=tuple(files)), replace=True
    )
    data = folder / "data"
    data.mkdir(parents=True, exist_ok=True)
    where, _, name = data_key.rpartition("/")
    lines = [json.dumps(row) for row in (conversations(25) if rows is None else rows)]
    (data / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    files = upload_tree(store, data, f"{where}/")
    key = f"{where}/.tuneyard/{name}.manifest.json"
    write_manifest(store, key, Manifest(kind="dataset", files=tuple(files)), replace=True)


def changed(values: dict[str, Any] = VALUES, **changes: Any) -> dict[str, Any]:
    """Copy values with some keys changed, by dotted path: `changed(**{"a.b": 1})`; None removes a key."""
    values = deepcopy(values)
    for path, value in changes.items():
        *above, last = path.split(".")
        place = values
        for name in above:
            place = place.setdefault(name, {})
        if value is None:
            place.pop(last, None)
        else:
            place[last] = value
    return values


ARGUMENTS = "finetuning_config.training_args."


def write_values(path: Path, values: dict[str, Any]) -> Path:
    """Resolve values and write the file that a process reads."""
    from tuneyard.values import FinetuneValues, canonical_json

    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(canonical_json(FinetuneValues.model_validate(values)))
    return path


def environment(store: Path, **more: str) -> dict[str, str]:
    """Return the environment of a training process: its store, one thread, and none of this machine's own settings."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("TUNEYARD_", "AWS_", "HF_"))}
    return {**kept, "TUNEYARD_STORE": store.as_uri(), "OMP_NUM_THREADS": "1", **more}


def start(values: dict[str, Any], store: Path, workdir: Path, **more: str) -> subprocess.Popen[str]:
    """Start `python -m tuneyard.train`."""
    path = write_values(workdir / "values.json", values)
    command = [sys.executable, "-m", "tuneyard.train", str(path), "--workdir", str(workdir)]
    return subprocess.Popen(command, env=environment(store, **more), stderr=subprocess.PIPE, text=True)


def train(values: dict[str, Any], store: Path, workdir: Path, *, code: int = 0, **more: str) -> str:
    """Train to the end of the process, check its exit code, and return what it logged."""
    process = start(values, store, workdir, **more)
    _, logged = process.communicate(timeout=500)
    assert process.returncode == code, logged
    return logged


def until_step(process: subprocess.Popen[str], workdir: Path, step: int, *, seconds: float = 300) -> None:
    """Wait until a training has completed a step."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if json.loads((workdir / "progress.json").read_text()).get("step", 0) >= step:
                return
        except (FileNotFoundError, ValueError):
            pass
        time.sleep(0.005)
    raise AssertionError(f"step {step} was not reached: {process.communicate()[1]}")


def train_here(
    values: dict[str, Any],
    store: Path,
    workdir: Path,
    *,
    kill_at: int = 0,
    by: type[BaseException] = Killed,
    through: Callable[[Store], Store] = lambda real: real,
) -> int:
    """Train in this process, which saves the seconds that loading torch takes, and return the exit code.

    Args:
        values: The values.
        store: The folder of the store.
        workdir: The run's folder, which a kill removes: a resume has nothing but the store.
        kill_at: The step to end after; 0 for the end of the training.
        by: The error that ends it; `Killed` stands for SIGKILL.
        through: Wraps the store that the training uses.

    Returns:
        The exit code, 137 after a kill.
    """
    from tuneyard.job.inputs import find_inputs, is_complete
    from tuneyard.store import open_store
    from tuneyard.train.prepare import prepare
    from tuneyard.train.worker import work
    from tuneyard.values import FinetuneValues, read_values

    read = read_values(FinetuneValues, write_values(workdir / "values.json", values))
    opened = through(open_store(store.as_uri()))
    before = Path.cwd()
    polls = 0

    def stop() -> bool:
        nonlocal polls
        polls += 1
        if polls == kill_at:
            raise by
        return False

    inputs = find_inputs(read, opened)
    assert not is_complete(read, opened)
    prepare(read, inputs, opened, workdir, lambda _: None).write(workdir)
    try:
        return work(read, opened, workdir, stop)  # pyright: ignore[reportArgumentType] - polled the same way
    except Killed:
        shutil.rmtree(workdir)
        return 137
    finally:
        os.chdir(before)


def killed_and_resumed(values: dict[str, Any], store: Path, folder: Path, *, kill_at: int) -> None:
    """Check that a killed training resumes and ends with the metrics and weights of an undisturbed one."""
    train_here(values, store, folder / "whole")
    remote = values["checkpointsRemote"]
    whole = metrics(store, remote), final_sha256(store, remote)
    shutil.rmtree(store / remote)
    assert train_here(values, store, folder / "killed", kill_at=kill_at) == 137
    assert not (store / remote / "checkpoint-final").exists()
    assert list((store / remote).glob("checkpoint-*-1/manifest.json")), "there is no checkpoint to resume from"
    assert train_here(values, store, folder / "resumed") == 0
    assert json.loads((store / remote / "HEAD").read_text())["attempt"] == 2
    assert (metrics(store, remote), final_sha256(store, remote)) == whole


def metrics(store: Path, remote: str = REMOTE) -> list[dict[str, Any]]:
    """Return a run's published rows of metrics without what depends on the clock; the store is a local folder."""
    from tuneyard.store import open_store

    return published_metrics(open_store(store.as_uri()), remote)


def final_sha256(store: Path, remote: str = REMOTE, name: str = "checkpoint-final") -> dict[str, str]:
    """Return the SHA-256 of each file of published weights; the store is a local folder."""
    from tuneyard.store import open_store

    return published_weights(open_store(store.as_uri()), remote, name)


def published_metrics(store: Store, remote: str) -> list[dict[str, Any]]:
    """Return a run's published rows of metrics without what depends on the clock."""
    text = store.get(f"{remote}/metrics.jsonl").body.decode()
    rows = [json.loads(line) for line in text.splitlines()]
    return [{name: value for name, value in row.items() if not _depends_on_clock(name)} for row in rows]


def published_weights(store: Store, remote: str, name: str = "checkpoint-final") -> dict[str, str]:
    """Return the SHA-256 of each file of published weights."""
    from tuneyard.store import read_manifest

    manifest = read_manifest(store, f"{remote}/{name}/manifest.json")
    return {entry.path: entry.sha256 for entry in manifest.files if entry.path.endswith(".safetensors")}


def _depends_on_clock(name: str) -> bool:
    return name in ("time", "seconds") or name.endswith(("_runtime", "_second"))
