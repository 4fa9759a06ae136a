"""The delivery as a process: killed and run again, terminated, and how its mistakes end."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from pathlib import Path

import pytest

from lab.deliveries import FILES, MANIFEST, MODEL, Delivery
from lab.hub_server import Fault
from tuneyard.errors import NotFoundError
from tuneyard.store import read_manifest, verify


@pytest.mark.parametrize("held", ["config.json", "model-2.safetensors"])
def test_a_killed_delivery_resumes_with_the_missing_files(delivery: Delivery, held: str) -> None:
    delivery.hub.add_model("org/tiny", FILES)
    delivery.hub.faults[held] = Fault(times=1, hold_after=len(FILES[held]) // 2)
    others = [path for path in FILES if path != held]
    process = delivery.start()
    try:
        assert delivery.hub.holding.wait(300)
        delivery.wait_until_done(*others)
    finally:
        process.kill()
        process.wait()
    with pytest.raises(NotFoundError):
        read_manifest(delivery.store, MANIFEST)
    assert held not in delivery.paths()
    delivery.hub.release.set()
    report = delivery.run().model
    assert report is not None
    assert (report.status, report.transferred_files) == ("delivered", 1)
    assert {path: delivery.hub.fetched(path) for path in FILES} == {**dict.fromkeys(others, 1), held: 2}
    verify(delivery.store, f"{MODEL}/", read_manifest(delivery.store, MANIFEST))


def test_a_killed_delivery_of_another_commit_leaves_nothing_of_itself(delivery: Delivery) -> None:
    delivery.hub.add_model("org/tiny", {**FILES, "only-before.json": b"{}", "tokenizer.json": b"before"})
    delivery.hub.faults["model-2.safetensors"] = Fault(times=1, hold_after=10)
    process = delivery.start()
    try:
        delivery.wait_until_done("only-before.json", "tokenizer.json", "model-1.safetensors")
    finally:
        process.kill()
        process.wait()
    delivery.hub.release.set()
    delivery.hub.add_model("org/tiny", FILES)
    delivery.run()
    manifest = read_manifest(delivery.store, MANIFEST)
    verify(delivery.store, f"{MODEL}/", manifest)
    assert delivery.paths() == [".tuneyard/manifest.json", *FILES]
    assert delivery.hub.fetched("model-1.safetensors") == 1
    assert delivery.hub.fetched("tokenizer.json") == 2


def test_sigterm_ends_a_delivery_with_143_and_without_a_manifest(delivery: Delivery) -> None:
    delivery.hub.add_model("org/tiny", FILES)
    delivery.hub.faults["model-1.safetensors"] = Fault(times=1, hold_after=500_000)
    process = delivery.start()
    try:
        assert delivery.hub.holding.wait(300)
        process.send_signal(signal.SIGTERM)
        delivery.hub.release.set()
        assert process.wait(300) == 143
    finally:
        process.kill()
        process.wait()
    assert ".tuneyard/manifest.json" not in delivery.paths()
    assert delivery.run().model is not None


def test_sigterm_ends_the_data_script_too(delivery: Delivery) -> None:
    script = 'import os, time; open("pid.new", "w").write(str(os.getpid())); os.rename("pid.new", "pid")'
    process = delivery.start(dataScript=f"{script}; time.sleep(300)", bucketDataDir="default-bucket/datasets")
    try:
        for _ in range(3000):
            found = list((delivery.folder / "work").glob("script-*/pid"))
            if found:
                break
            time.sleep(0.1)
        pid = found[0].read_text()
        process.send_signal(signal.SIGTERM)
        assert process.wait(300) == 143
    finally:
        process.kill()
        process.wait()
    assert not Path(f"/proc/{pid}").exists()


@pytest.mark.parametrize(
    ("faults", "code", "sentence"),
    [
        ({}, 4, "error: There is no model 'org/none' on 'http"),
        ({"HF_HUB_OFFLINE": "1"}, 8, "error: The model 'org/none' can't be downloaded from 'http"),
        ({"HF_TOKEN": "hf_wrong"}, 5, "refuses the token that was sent for 'org/none'"),
    ],
)
def test_an_error_is_one_sentence_and_a_hint_without_a_traceback(
    delivery: Delivery, faults: dict[str, str], code: int, sentence: str
) -> None:
    result = delivery.process(faults, modelID="org/none", bucketModelPath=MODEL)
    assert result.returncode == code
    assert sentence in result.stderr
    assert result.stderr.splitlines()[-1].startswith("hint: ")
    assert "Traceback" not in result.stderr
    assert "hf_wrong" not in result.stderr
    assert result.stdout == ""


def test_values_that_are_not_resolved_values_are_refused(delivery: Delivery) -> None:
    command = delivery.command(modelID="org/tiny", bucketModelPath=MODEL)
    values = delivery.folder / "values.json"
    values.write_text(json.dumps({**json.loads(values.read_text()), "modelld": "x"}))
    result = subprocess.run(command, env=delivery.env, capture_output=True, text=True, timeout=120)
    assert result.returncode == 3
    assert "modelld" in result.stderr
