"""A server with the Hub's API inside the cluster: the walkthrough's model id and dataset, in small.

The model is a tiny Llama with TinyLlama's layout; the dataset has the columns of Argilla's, and real questions where
they are available. Both are copied by `kubectl exec`, so any cluster can run it.
"""

from __future__ import annotations

import io
import json
import subprocess
import tarfile
from pathlib import Path
from typing import Any

from lab.cluster.workspaces import kubectl
from lab.tiny_models import make_model
from lab.training import conversations
from tuneyard.values import DeliverValues

MODEL = "TinyLlama/TinyLlama-1.1B-Chat-v1.0"
DATASET = "argilla/10k_prompts_ranked_mistral_large_responses"
ROWS = 160
SEEDS = Path(__file__).parents[4] / "shared" / "data" / "self-instruct-seed-tasks.jsonl"

_PROGRAM = """
import os, pathlib, sys, time
sys.path.insert(0, "/tmp/hub")
while not os.path.exists("/tmp/hub/all-here"):
    time.sleep(0.2)
from lab.hub_server import hub_server

def files(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}

with hub_server("0.0.0.0", (8000, 8001), os.environ["HOST"]) as hub:
    hub.add_model(os.environ["MODEL"], files(pathlib.Path("/tmp/hub/model")))
    hub.add_dataset(os.environ["DATASET"], files(pathlib.Path("/tmp/hub/dataset")))
    pathlib.Path("/tmp/hub/ready").touch()
    time.sleep(86400)
"""
_UNPACK = "import sys, tarfile; tarfile.open(fileobj=sys.stdin.buffer, mode='r|').extractall('/tmp/hub')"


def start_hub(namespace: str, folder: Path) -> str:
    """Run the Hub in a namespace of its own and return its address.

    Args:
        namespace: The namespace, which is there.
        folder: Where the model and the dataset are made.
    """
    make_model(folder / "model", style="zephyr", hidden=128, layers=2, tied=False)
    (folder / "model" / "original").mkdir()
    (folder / "model" / "original" / "params.json").write_text("{}")
    _make_dataset(folder / "dataset")
    variables = {"HOST": f"hub.{namespace}", "MODEL": MODEL, "DATASET": DATASET}
    container = {
        "name": "hub",
        "image": DeliverValues.model_fields["image"].default,
        "command": ["python", "-c", _PROGRAM],
        "env": [{"name": name, "value": value} for name, value in variables.items()],
        "readinessProbe": {"exec": {"command": ["cat", "/tmp/hub/ready"]}, "periodSeconds": 1},
    }
    metadata = {"name": "hub", "labels": {"run": "hub"}}
    pod = {"spec": {"containers": [container], "terminationGracePeriodSeconds": 0}}
    ports = [{"name": f"p{port}", "port": port} for port in (8000, 8001)]
    service = {"spec": {"selector": {"run": "hub"}, "ports": ports}}
    items = [
        {"apiVersion": "v1", "kind": kind, "metadata": metadata, **rest}
        for kind, rest in (("Pod", pod), ("Service", service))
    ]
    both = json.dumps({"apiVersion": "v1", "kind": "List", "items": items})
    kubectl("apply", "-n", namespace, "-f", "-", given=both)
    kubectl("wait", "pod/hub", "-n", namespace, "--for=jsonpath={.status.phase}=Running", "--timeout=100s")
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w|") as archive:
        for module in ("hub_server.py", "web_servers.py"):
            archive.add(Path(__file__).parents[1] / module, f"lab/{module}")
        archive.add(folder / "model", "model")
        archive.add(folder / "dataset", "dataset")
        archive.addfile(tarfile.TarInfo("all-here"))
    command = ["kubectl", "exec", "-i", "-n", namespace, "hub", "--", "python", "-c", _UNPACK]
    subprocess.run(command, input=packed.getvalue(), check=True, timeout=100)
    kubectl("wait", "pod/hub", "-n", namespace, "--for=condition=Ready", "--timeout=60s")
    return f"http://hub.{namespace}:8000"


def _questions() -> list[tuple[str, str]]:
    if not SEEDS.is_file():
        rows = [row["messages"] for row in conversations(ROWS)]
        return [(question["content"], answer["content"]) for question, answer in rows]
    tasks = [json.loads(line) for line in SEEDS.read_text(encoding="utf-8").splitlines()]
    return [(task["instruction"][:300], task["instances"][0]["output"][:200]) for task in tasks]


def _make_dataset(folder: Path) -> None:
    """Write rows with the columns that the walkthrough's dataScript reads, a few of them not written by people."""
    import pyarrow as arrow
    import pyarrow.parquet as parquet

    rows: list[dict[str, Any]] = []
    pairs = _questions()
    for number in range(ROWS + 20):
        question, answer = pairs[number % len(pairs)]
        rows.append(
            {
                "kind": "human" if number < ROWS else "synthetic",
                "generation_prompt": [[{"role": "user", "content": question}]],
                "generations": [answer or "Yes.", "another answer"],
            }
        )
    (folder / "data").mkdir(parents=True)
    parquet.write_table(arrow.Table.from_pylist(rows), folder / "data" / "train-00000-of-00001.parquet")
