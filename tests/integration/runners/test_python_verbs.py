"""The verbs from Python, with real deliveries."""

from __future__ import annotations

import pytest

import tuneyard
from tuneyard.errors import ConflictError, InvalidValuesError, NotFoundError, UsageError
from tuneyard.runners.waiting import RunEndedError

ROWS = """
import pathlib
row = '{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]}'
pathlib.Path("/downloads/datasets/facts.jsonl").write_text(row + "\\\\n")
"""
WAITS = "import time\nprint('waiting', flush=True)\ntime.sleep(600)\n"


def _values(script: str) -> dict[str, str]:
    return {"dataScript": script, "bucketDataDir": "default-bucket/datasets"}


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("TUNEYARD_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("TUNEYARD_STORE", raising=False)
    yield
    for run in tuneyard.runs():
        tuneyard.stop(str(run.key), force=True, timeout_seconds=5)


def test_deliver_waits_and_the_handle_has_the_final_state(capfd, caplog):
    caplog.set_level("INFO", "tuneyard")
    run = tuneyard.deliver(values={**_values(ROWS), "storageClass": "fast"}, name="facts")
    info = run.info()
    assert (info.status, info.exit_code, info.verb) == ("succeeded", 0, "deliver")
    assert any("dataScript wrote 'facts.jsonl'" in line for line in run.logs())
    assert [each.name for each in tuneyard.runs("deliver")] == ["facts"]
    assert tuneyard.find("facts").key == run.key
    assert [each.status for each in tuneyard.watch("facts")] == ["succeeded"]
    assert "These keys have no effect on this machine: storageClass." in caplog.messages
    assert capfd.readouterr() == ("", "")  # notices are logged, not printed
    assert tuneyard.delete("facts").name == "facts"
    assert tuneyard.runs() == []


def test_a_failed_run_raises_its_error():
    with pytest.raises(RunEndedError, match="'deliver/facts' failed") as caught:
        tuneyard.deliver(values=_values("raise SystemExit('no rows today')"), name="facts")
    assert caught.value.info.exit_code == 3
    assert "no rows today" in str(caught.value)


def test_a_detached_run_can_be_followed_and_stopped():
    run = tuneyard.deliver(values=_values(WAITS), name="facts", wait=False)
    lines = tuneyard.logs("facts", follow=True)
    assert any("waiting" in line for line in lines)
    assert run.info().status == "running"
    with pytest.raises(ConflictError):
        tuneyard.deliver(values=_values(ROWS), name="facts", wait=False)
    assert tuneyard.stop("deliver/facts").status == "stopped"
    with pytest.raises(RunEndedError, match="was stopped"):
        run.wait()


def test_files_values_and_sets_win_in_that_order(tmp_path):
    file = tmp_path / "facts.yaml"
    file.write_text("dataScript: broken\nbucketDataDir: default-bucket/one\n")
    run = tuneyard.deliver(
        file,
        values={"bucketDataDir": "default-bucket/two", "dataScript": ROWS},
        set=["bucketDataDir=default-bucket/three"],
    )
    assert run.key.name == "facts"
    store = tmp_path / "home" / "store" / "default-bucket"
    assert [path.name for path in store.iterdir()] == ["three"]


def test_invalid_arguments_raise_with_a_hint_before_anything_is_launched(monkeypatch, tmp_path):
    with pytest.raises(InvalidValuesError, match="did you mean bucketDataDir"):
        tuneyard.deliver(values={**_values(ROWS), "bucketDatDir": "x"}, name="facts")
    with pytest.raises(UsageError, match="needs a name"):
        tuneyard.deliver(values=_values(ROWS))
    with pytest.raises(NotFoundError, match="no finetuning run named 'lora'"):
        tuneyard.serve("lora")
    with pytest.raises(NotFoundError, match="No server is running"):
        tuneyard.chat("What is a yard?")
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    with pytest.raises(NotFoundError, match="kubeconfig"):
        tuneyard.deliver(values=_values(ROWS), name="facts", on="kubernetes")
    assert tuneyard.runs() == []
