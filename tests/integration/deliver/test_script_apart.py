"""The data script in a process without the store's keys, and the delivery that takes what it wrote."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from deliveries import Delivery

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
    command[2] = "tuneyard.deliver.script_process"
    secret = {"AWS_ACCESS_KEY_ID": "known", "AWS_SECRET_ACCESS_KEY": "secret"}
    return subprocess.run(command, env={**delivery.env, **secret}, capture_output=True, text=True, timeout=120)


def test_what_the_script_wrote_is_delivered_without_running_it_again(delivery: Delivery) -> None:
    given = {"dataScript": SCRIPT, "bucketDataDir": DATA}
    assert _run_script(delivery, **given).returncode == 0
    done = delivery.process(**given)
    assert done.returncode == 0, done.stderr
    assert "the script ran" not in done.stderr
    (dataset,) = json.loads(done.stdout.splitlines()[-1])["datasets"]
    assert (dataset["key"], dataset["status"]) == (f"{DATA}/rows.jsonl", "delivered")


def test_what_another_script_wrote_is_not_delivered(delivery: Delivery) -> None:
    assert _run_script(delivery, dataScript=SCRIPT, bucketDataDir=DATA).returncode == 0
    done = delivery.process(dataScript=SCRIPT.replace("ran", "changed"), bucketDataDir=DATA)
    assert done.returncode == 0, done.stderr
    assert "the script changed" in done.stderr


def test_a_script_that_fails_is_exit_3_and_leaves_nothing(delivery: Delivery, tmp_path: Path) -> None:
    failed = _run_script(delivery, dataScript="raise SystemExit(9)", bucketDataDir=DATA)
    assert failed.returncode == 3, failed.stderr
    assert "failed with exit code 9" in failed.stderr
    assert not (delivery.folder / "work" / "data-script.json").exists()


def test_without_a_script_there_is_nothing_to_do(delivery: Delivery) -> None:
    delivery.hub.add_model("org/tiny", {})
    assert _run_script(delivery).returncode == 0
