"""Real runs through the real `tuneyard` command: deliveries, as they need no accelerator and no torch."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

TUNEYARD = str(Path(sys.executable).with_name("tuneyard"))
ROWS = """
import json
with open("/downloads/datasets/facts.jsonl", "w") as file:
    for number in range(3):
        question = {"role": "user", "content": f"What is {number}?"}
        file.write(json.dumps({"messages": [question, {"role": "assistant", "content": "A yard."}]}) + "\\n")
"""
WAITS = """
import time, pathlib
print("waiting", flush=True)
while not pathlib.Path(HERE, "go").exists():
    time.sleep(0.05)
"""


class Desk:
    """The command, with its own home and store."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.env = {**os.environ, "TUNEYARD_HOME": str(folder / "home")}
        self.env.pop("TUNEYARD_STORE", None)

    def values(self, script: str) -> str:
        path = self.folder / "facts.yaml"
        path.write_text(yaml.safe_dump({"dataScript": script, "bucketDataDir": "default-bucket/datasets"}))
        return str(path)

    def waiting(self) -> str:
        return self.values(WAITS.replace("HERE", repr(str(self.folder))) + ROWS)

    def start(self, *words: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [TUNEYARD, *words],
            env=self.env,
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *words: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        process = self.start(*words)
        out, err = process.communicate()
        assert process.returncode == code, f"{process.returncode}\n{out}\n{err}"
        assert "Traceback" not in err
        return subprocess.CompletedProcess(words, code, out, err)

    def status(self, name: str = "facts") -> str:
        return json.loads(self.run("runs", "show", name, "--json").stdout)["run"]["status"]


@pytest.fixture
def desk(tmp_path):
    made = Desk(tmp_path)
    yield made
    (tmp_path / "go").touch()
    for run in json.loads(made.run("runs", "--json").stdout)["runs"]:
        made.run("stop", f"{run['verb']}/{run['name']}", "--force", "--timeout", "5")


def test_a_delivery_is_followed_to_its_end_and_listed(desk):
    done = desk.run("deliver", "-f", desk.values(ROWS))
    assert done.stdout.startswith("deliver/facts  succeeded  file://")
    assert "dataScript wrote 'facts.jsonl'" in done.stderr
    assert '{"store"' not in done.stderr
    (run,) = json.loads(desk.run("runs", "--json").stdout)["runs"]
    assert (run["verb"], run["name"], run["status"], run["exit_code"]) == ("deliver", "facts", "succeeded", 0)
    assert desk.run("runs", "--quiet").stdout == "deliver/facts\n"
    assert "succeeded" in desk.run("runs").stdout
    again = json.loads(desk.run("deliver", "-f", desk.values(ROWS), "--json").stdout)
    assert (again["schema"], again["run"]["attempts"]) == (1, 2)


def test_a_failed_run_ends_the_command_with_its_exit_code_and_one_error(desk):
    done = desk.run("deliver", "-f", desk.values("raise SystemExit('no rows today')"), code=3)
    assert done.stdout == ""
    assert done.stderr.count("error: ") == 1
    assert "error: The run 'deliver/facts' failed: " in done.stderr
    assert done.stderr.splitlines()[-1].startswith("hint: ")
    assert desk.run("watch", "facts", code=3).stderr.count("error: ") == 1


def test_ctrl_c_does_not_stop_the_run_and_prints_how_to_follow_it(desk):
    command = desk.start("deliver", "-f", desk.waiting())
    for line in command.stderr:
        if "waiting" in line:
            break
    command.send_signal(signal.SIGINT)
    _, err = command.communicate()
    assert command.returncode == 130
    assert "The run 'deliver/facts' continues." in err
    assert "tuneyard watch deliver/facts" in err
    assert "tuneyard stop deliver/facts" in err
    assert desk.status() == "running"
    (desk.folder / "go").touch()
    assert desk.run("watch", "facts").stdout == "deliver/facts  succeeded\n"


def test_a_detached_run_is_followed_stopped_and_launched_again(desk):
    assert "running" in desk.run("deliver", "-f", desk.waiting(), "--detach").stdout
    log = desk.start("logs", "facts", "-f")
    for line in log.stdout:
        if "waiting" in line:
            break
    refused = desk.run("delete", "facts", "--yes", code=6)
    assert "is still running" in refused.stderr
    assert desk.run("stop", "facts").stdout == "deliver/facts  stopped\n"
    log.communicate()
    assert log.returncode == 0
    assert "was stopped" in desk.run("watch", "facts", code=143).stderr
    (desk.folder / "go").touch()
    assert "succeeded" in desk.run("deliver", "-f", desk.waiting()).stdout


def test_a_second_launch_with_other_values_is_refused_while_the_first_is_running(desk):
    desk.run("deliver", "-f", desk.waiting(), "--detach")
    desk.run("deliver", "-f", desk.waiting(), "--detach")
    done = desk.run("deliver", "-f", desk.values(ROWS), code=6)
    assert "is running with different values: dataScript." in done.stderr
    assert "--name" in done.stderr


def test_delete_without_a_terminal_needs_yes_and_keeps_what_was_delivered(desk):
    desk.run("deliver", "-f", desk.values(ROWS))
    refused = desk.run("delete", "facts", code=2)
    assert "--yes" in refused.stderr
    refused = desk.run("delete", "facts", "--data", "--yes", code=2)
    assert "has no published data of its own" in refused.stderr
    assert desk.run("delete", "facts", "--yes").stdout == "deliver/facts  deleted\n"
    assert json.loads(desk.run("runs", "--json").stdout)["runs"] == []
    assert (desk.folder / "home/store/default-bucket/datasets/facts.jsonl").exists()


def test_data_commands_read_delivered_data(desk):
    from lab.tiny_models import make_tokenizer

    model = make_tokenizer(desk.folder / "model")
    desk.run("deliver", "-f", desk.values(ROWS))
    key = "default-bucket/datasets/facts.jsonl"
    report = json.loads(desk.run("data", "check", key, "--model", str(model), "--json").stdout)["report"]
    assert (report["rows"], report["kept"], report["bad"]) == (3, 3, 0)
    shown = desk.run("data", "show", key, "--model", str(model), "-n", "1").stdout
    assert "«A yard." in shown
    assert shown.count("«") == 1
    (row,) = json.loads(desk.run("data", "show", key, "--model", str(model), "-n", "1", "--json").stdout)[
        "conversations"
    ]
    (sequence,) = row["sequences"]
    assert len(sequence["input_ids"]) == len(sequence["loss_mask"]) == sequence["length"]
    assert row["messages"][0]["content"] == "What is 0?"


def test_data_check_reads_every_format_compares_with_validation_and_writes_a_page(desk):
    from lab.tiny_models import make_tokenizer

    model = make_tokenizer(desk.folder / "model")
    rows = [{"instruction": f"What is {number}?", "output": f"A number, {number}."} for number in range(9)]
    (desk.folder / "rows.jsonl").write_text("".join(json.dumps(each) + "\n" for each in rows))
    (desk.folder / "held.jsonl").write_text(json.dumps({"prompt": "What is 3?", "completion": "A number, 3."}) + "\n")
    words = ("data", "check", "rows.jsonl", "--validation", "held.jsonl", "--model", str(model))
    exact = ("--set", "finetuning_config.data_conf.rows.similarity=1")
    report = json.loads(desk.run(*words, *exact, "--json", "--html", "page.html").stdout)["report"]
    assert report["formats"] == {"rows.jsonl": "alpaca", "held.jsonl": "prompt-completion"}
    assert (report["rows"], report["kept"], report["leaked"], report["near_leaked"]) == (10, 10, 1, 0)
    assert report["pairs"] == [{"where": "rows.jsonl:4", "other": "held.jsonl:1", "similarity": 1.0, "leaks": True}]
    assert "A number, 0." in json.dumps(report["examples"])
    page = (desk.folder / "page.html").read_text()
    assert "<svg" in page
    assert "<mark>A number, 0." in page
    refuse = ("--set", "finetuning_config.data_conf.rows.leaked=refuse")
    done = desk.run(*words, *exact, *refuse, code=3)
    assert "rows.jsonl:4: is equal to a validation row (given: 'held.jsonl:1, similarity 1.00')" in done.stdout
    done = desk.run("data", "check", "rows.jsonl", "--model", str(model), "--format", "sharegpt", code=3)
    assert "it has the format alpaca, but its file is read as sharegpt" in done.stdout
    done = desk.run("data", "check", "rows.jsonl", "--model", str(model), "--format", "alpacca", code=2)
    assert "There is no format 'alpacca'" in done.stderr


def test_data_check_drops_bad_rows_if_the_values_allow_it(desk):
    from lab.tiny_models import make_tokenizer

    model = make_tokenizer(desk.folder / "model")
    (desk.folder / "rows.jsonl").write_text('{"prompt": "a", "completion": "b"}\n{"prompt": "a", "completion": ""}\n')
    drop = ("--set", "finetuning_config.data_conf.rows.unusable=drop")
    done = desk.run("data", "check", "rows.jsonl", "--model", str(model), *drop)
    assert "rows.jsonl:2: completion is empty" in done.stdout
    desk.run("data", "check", "rows.jsonl", "--model", str(model), code=3)


def test_data_show_has_both_sides_of_a_preference(desk):
    from lab.tiny_models import make_tokenizer

    model = make_tokenizer(desk.folder / "model")
    (desk.folder / "rows.jsonl").write_text('{"prompt": "a", "chosen": "good", "rejected": "poor"}\n')
    shown = desk.run("data", "show", "rows.jsonl", "--model", str(model)).stdout
    assert "rows.jsonl:1 (chosen)" in shown
    assert "«poor" in shown
    (document,) = json.loads(desk.run("data", "show", "rows.jsonl", "--model", str(model), "--json").stdout)[
        "conversations"
    ]
    assert document["chosen"]["messages"][-1]["content"] == "good"


def test_data_check_lists_every_bad_row_with_its_place_and_exits_with_3(desk):
    from lab.tiny_models import make_tokenizer

    model = make_tokenizer(desk.folder / "model")
    bad = desk.folder / "bad.jsonl"
    good = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]}
    bad.write_text(f"{json.dumps(good)}\nnot json\n{json.dumps({'messages': []})}\n")
    done = desk.run("data", "check", "bad.jsonl", "--model", str(model), code=3)
    assert "bad.jsonl:2" in done.stdout
    assert "bad.jsonl:3" in done.stdout
    assert "error: 1 of 3 rows can be trained on; 2 problems found." in done.stderr
    desk.run("data", "show", "bad.jsonl", "--model", str(model), code=3)
    missing = desk.run("data", "check", "nowhere.jsonl", "--model", str(model), code=4)
    assert "nowhere.jsonl" in missing.stderr
