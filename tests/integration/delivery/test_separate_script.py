"""The data script in a process without the store's keys, and the delivery that takes what it wrote."""

from __future__ import annotations

import json
import subprocess

from lab.deliveries import Delivery

SCRIPT = """
import json, os
from pathlib import Path

assert not [name for name in os.environ if name.startswith(("AWS_", "TUNEYARD_"))], sorted(os.environ)
row = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}
Path("/downloads/datasets/rows.jsonl").write_text(json.dumps(row) + "\\n")
print("the script ran")
"""
DATA = "default-bucket/datasets"


def _run_script(delivery: Delivery, **given: object) -> subprocess.CompletedProcess[str]:
    command = delivery.command(**given)
    command[2] = "tuneyard.delivery.script_process"
    command[-1] = str(delivery.folder / "script-work")
    command += ["--downloads", str(delivery.folder / "downloads")]
    secret = {"AWS_ACCESS_KEY_ID": "known", "AWS_SECRET_ACCESS_KEY": "secret"}
    return subprocess.run(command, env={**delivery.env, **secret}, capture_output=True, text=True, timeout=120)


def _deliver(delivery: Delivery, **given: object) -> subprocess.CompletedProcess[str]:
    command = [*delivery.command(**given), "--downloads", str(delivery.folder / "downloads")]
    return subprocess.run(command, env=delivery.env, capture_output=True, text=True, timeout=120)


def test_the_scripts_files_are_delivered_without_running_it_again(delivery: Delivery) -> None:
    given = {"dataScript": SCRIPT, "bucketDataDir": DATA}
    assert _run_script(delivery, **given).returncode == 0
    done = _deliver(delivery, **given)
    assert done.returncode == 0, done.stderr
    assert "the script ran" not in done.stderr
    (dataset,) = json.loads(done.stdout.splitlines()[-1])["datasets"]
    assert (dataset["key"], dataset["status"]) == (f"{DATA}/rows.jsonl", "delivered")


def test_a_script_of_another_container_is_never_run_beside_the_stores_keys(delivery: Delivery) -> None:
    done = _deliver(delivery, dataScript=SCRIPT, bucketDataDir=DATA)
    assert done.returncode == 3, done.stderr
    assert "the script ran" not in done.stderr
    assert not (delivery.folder / "work").exists()


def test_files_of_an_earlier_script_are_deleted_before_the_next_runs(delivery: Delivery) -> None:
    assert _run_script(delivery, dataScript=SCRIPT, bucketDataDir=DATA).returncode == 0
    other = SCRIPT.replace("rows.jsonl", "other.jsonl")
    assert _run_script(delivery, dataScript=other, bucketDataDir=DATA).returncode == 0
    assert [path.name for path in (delivery.folder / "downloads" / "datasets").iterdir()] == ["other.jsonl"]


def test_a_script_that_fails_is_exit_3_and_leaves_nothing(delivery: Delivery) -> None:
    failed = _run_script(delivery, dataScript="raise SystemExit(9)", bucketDataDir=DATA)
    assert failed.returncode == 3, failed.stderr
    assert "failed with exit code 9" in failed.stderr
    assert list((delivery.folder / "downloads" / "datasets").iterdir()) == []


def test_the_sandbox_of_the_script_is_logged(delivery: Delivery) -> None:
    done = _run_script(delivery, dataScript=SCRIPT, bucketDataDir=DATA)
    assert "dataScript is confined by" in done.stderr
    assert "not restricted: " in done.stderr
    assert "the network" in done.stderr


def test_without_a_script_there_is_nothing_to_do(delivery: Delivery) -> None:
    delivery.hub.add_model("org/tiny", {})
    assert _run_script(delivery).returncode == 0
