"""No secret is shown on one machine: a gated delivery, a finetuning, a server and what fails of each; then everything
that they wrote, printed or were called with is searched. The cluster's form of it is `tests/cluster/test_canaries.py`.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import secrets
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub.utils import close_session

from lab.cluster.canaries import find
from lab.hub_server import hub_server
from lab.tiny_models import make_model
from lab.training import ARGUMENTS, changed, conversations

TUNEYARD = str(Path(sys.executable).with_name("tuneyard"))
SCRIPT = """
import json, os, pathlib
rows = json.loads(ROWS)
pathlib.Path("/downloads/datasets/chat.jsonl").write_text("".join(json.dumps(row) + "\\n" for row in rows))
print("the script's environment is", dict(os.environ))
"""


@dataclass
class Demo:
    """The command in its own home, and everything that it has printed."""

    folder: Path
    env: dict[str, str]
    secrets: dict[str, str]
    seen: dict[str, bytes] = field(default_factory=dict[str, bytes])

    def run(self, *words: str, code: int = 0, **env: str) -> str:
        command = [TUNEYARD, *words]
        done = subprocess.run(
            command,
            env={**self.env, **env},
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=300,
        )
        assert done.returncode == code, (words, done.stdout, done.stderr)
        self.seen[f"tuneyard {' '.join(words)} ({len(self.seen)})"] = done.stdout + b"\n" + done.stderr
        return done.stdout.decode()

    def values(self, name: str, values: dict[str, Any]) -> str:
        path = self.folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump(values))
        return str(path)


@contextlib.contextmanager
def every_command_line() -> Iterator[set[bytes]]:
    """Collect the arguments of every process that runs meanwhile."""
    found: set[bytes] = set()
    over = threading.Event()

    def look() -> None:
        while not over.wait(0.02):
            for path in Path("/proc").glob("[0-9]*/cmdline"):
                with contextlib.suppress(OSError):
                    found.add(path.read_bytes())

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield found
    finally:
        over.set()
        thread.join()


def request(info: dict[str, Any], key: str) -> int:
    body = {"model": "tune", "messages": [{"role": "user", "content": "a yard?"}], "max_tokens": 2}
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    request = urllib.request.Request(f"{info['url']}/chat/completions", json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request, timeout=60) as answer:
        return answer.status


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    folder = tmp_path_factory.mktemp("canaries")
    canaries = {
        "the hub's token": f"hf_{secrets.token_hex(12)}",
        "a wrong token": f"hf_{secrets.token_hex(12)}",
        "the access key": f"AK{secrets.token_hex(9)}",
        "the secret key": f"{secrets.token_hex(8)}+/{secrets.token_hex(8)}=",
        "the session token": f"{secrets.token_hex(20)}/+==",
        "the tracker's key": secrets.token_hex(20),
        "a variable of a training": secrets.token_hex(16),
        "a variable of a server": secrets.token_hex(16),
        "a password in a URL": secrets.token_hex(16),
    }
    kept = ("PATH", "LANG", "PYTHONPATH")
    env = {name: os.environ[name] for name in kept if name in os.environ} | {
        "HOME": str(folder / "user"),
        "TUNEYARD_HOME": str(folder / "home"),
        "OMP_NUM_THREADS": "1",
        "HF_TOKEN": canaries["the hub's token"],
        "AWS_ACCESS_KEY_ID": canaries["the access key"],
        "AWS_SECRET_ACCESS_KEY": canaries["the secret key"],
        "AWS_SESSION_TOKEN": canaries["the session token"],
        "WANDB_API_KEY": canaries["the tracker's key"],
    }
    model = make_model(folder / "model", hidden=32, layers=1)
    with hub_server() as hub, every_command_line() as arguments:
        hub.token = canaries["the hub's token"]
        hub.add_model("org/tiny", {path.name: path.read_bytes() for path in model.iterdir()}, gated=True)
        made = Demo(folder, {**env, "HF_ENDPOINT": hub.url}, canaries)
        go_through(made, hub.url)
        hub.release.set()
        made.seen["arguments"] = b"\n".join(arguments)
        yield made
        close_session()
        gc.collect()


def go_through(demo: Demo, hub: str) -> None:
    """Run every step of a demo, and let some of them fail, with tracebacks."""
    wrong, debug = {"HF_TOKEN": demo.secrets["a wrong token"]}, {"TUNEYARD_DEBUG": "1"}
    model = {"modelID": "org/tiny", "bucketModelPath": "default-bucket/models/tiny"}
    data = {
        "dataScript": SCRIPT.replace("ROWS", repr(json.dumps(conversations(25)))),
        "bucketDataDir": "default-bucket/datasets",
    }
    deliver = demo.values("deliver", {**model, **data})
    demo.run("deliver", "-f", deliver, "--name", "refused", code=5, **wrong, **debug)
    broken = demo.values("broken", {**data, "dataScript": "import os; raise ValueError(dict(os.environ))"})
    demo.run("deliver", "-f", broken, "--name", "broken", code=3, **debug)
    demo.run("deliver", "-f", deliver, "--dry-run")
    demo.run("deliver", "-f", deliver, "--name", "all", "--json")
    tracked = {
        "mlflow_server_uri": f"https://me:{demo.secrets['a password in a URL']}@x.example",
        "experiment_name": "x",
    }
    few = changed(**{ARGUMENTS + "max_steps": 2, ARGUMENTS + "eval_strategy": "no"}, checkpointsRemote=None)
    few["env"] = {"MY_KEY": demo.secrets["a variable of a training"], "NCCL_DEBUG": "WARN"}
    finetune = demo.values("finetune", few)
    shown = demo.values("shown", changed(few, **{"finetuning_config.tracking": tracked}))
    demo.run("finetune", "-f", shown, "--name", "tune", "--dry-run")
    demo.run("finetune", "-f", shown, "--name", "tune", "--dry-run", "--json")
    demo.run("finetune", "-f", shown, "--name", "untracked", code=8, **debug)
    wrong_env = demo.values("wrong-env", {**few, "env": f"MY_KEY={few['env']['MY_KEY']}"})
    demo.run("finetune", "-f", wrong_env, "--name", "wrong", code=3)
    demo.run("data", "check", "-f", finetune)
    demo.run("finetune", "-f", finetune, "--name", "tune", "--json", **debug)
    elsewhere = demo.values("elsewhere", {**few, "basemodel": "default-bucket/models/none"})
    demo.run("finetune", "-f", elsewhere, "--name", "lost", code=4, TUNEYARD_WAIT_SECONDS="0", **debug)
    again = demo.values("again", {**few, "env": {"MY_KEY": "changed", "NCCL_DEBUG": "INFO"}})
    demo.run("finetune", "-f", again, "--name", "tune", "--json")
    serving = demo.values("serving", {"gpuResource": "", "env_vars": {"S": demo.secrets["a variable of a server"]}})
    demo.run("serve", "tune", "-f", serving, "--dry-run", "--json")
    demo.run("serve", "tune", "-f", serving, "--json")
    try:
        info = json.loads(demo.run("runs", "show", "serve/tune", "--json"))["run"]
        key = Path(info["api_key_file"]).read_text().strip()
        demo.secrets["the server's key"] = key
        assert request(info, key) == 200
        with contextlib.suppress(OSError):
            request(info, "wrong")
        for words in (["runs"], ["logs", "serve/tune"], ["logs", "finetune/tune"], ["doctor"], ["verify", "tune"]):
            demo.run(*words)
        demo.run("runs", "--json")
    finally:
        demo.run("stop", "serve/tune")


def everything_written(demo: Demo) -> dict[str, bytes]:
    """Every file of the home and the store, but those that are there to hold a secret: a server's key, and the values
    that a process reads; and the values files of the user's own."""
    files = [
        path
        for path in demo.folder.rglob("*")
        if path.is_file() and "model" not in path.relative_to(demo.folder).parts[:1]
    ]
    return {str(path.relative_to(demo.folder)): path.read_bytes() for path in files if not is_to_hold(demo, path)}


def is_to_hold(demo: Demo, path: Path) -> bool:
    own = path.parent == demo.folder and path.suffix == ".yaml"
    return own or path.name == "api-key" or path.match("home/runs/*/*/values.json")


def test_the_demo_has_written_what_is_searched(demo: Demo) -> None:
    written = "\n".join(everything_written(demo))
    for where in ("experiments/tune/run.json", "checkpoint-final/manifest.json", "models/tiny/.tuneyard/manifest.json",
                  "chat.jsonl.manifest.json", "metrics.jsonl", "runs/serve/tune/", "runs/finetune/tune/"):  # fmt: skip
        assert where in written, where
    seen = b"".join(demo.seen.values())
    assert b"the script's environment is" in seen
    assert b"Traceback" in seen, "a part of it failed with one"
    for module in (b"tuneyard.delivery", b"tuneyard.train", b"tuneyard.serving", b"tuneyard.sandbox"):
        assert module in demo.seen["arguments"], module
    assert len(demo.secrets) == 10


def test_no_secret_is_in_anything_that_a_demo_writes_prints_or_is_called_with(demo: Demo) -> None:
    assert find(demo.secrets, {**demo.seen, **everything_written(demo)}) == []


def test_files_with_secrets_are_readable_by_their_owner_only(demo: Demo) -> None:
    (key,) = demo.folder.rglob("api-key")
    values = list((demo.folder / "home" / "runs").rglob("values.json"))
    assert len(values) >= 4
    for path in (key, *values):
        assert path.stat().st_mode & 0o077 == 0
        assert path.parent.stat().st_mode & 0o077 == 0


def test_names_of_variables_and_public_texts_are_in_the_record(demo: Demo) -> None:
    written = everything_written(demo)
    (record,) = [json.loads(body) for name, body in written.items() if name.endswith("experiments/tune/run.json")]
    assert record["values"]["env"] == {"MY_KEY": "(not shown)", "NCCL_DEBUG": "WARN"}
    printed = next(body for name, body in demo.seen.items() if "shown.yaml" in name and "--dry-run" in name)
    assert b"MY_KEY: (not shown)" in printed
    assert b"https://(not shown)@x.example" in printed


def test_the_search_would_find_each_of_them(demo: Demo) -> None:
    planted = {"planted": json.dumps(demo.secrets).encode()}
    assert len(find(demo.secrets, planted)) == len(demo.secrets)
