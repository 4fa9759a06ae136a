"""The files that a dataScript makes, into a store."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lab.deliveries import FILES, Delivery
from tuneyard.delivery import Delivered
from tuneyard.delivery.datasets import script_sha256
from tuneyard.errors import ConflictError, IntegrityError, InvalidDataError
from tuneyard.store import Manifest, read_manifest, verify

DATASETS = "default-bucket/datasets"

SCRIPT = """
import json
import os
with open(os.path.expanduser("~/runs.txt"), "a") as runs:
    runs.write("run\\n")
for name in {names}:
    with open("/downloads/datasets/" + name, "w") as out:
        for number in range({rows}):
            out.write(json.dumps({{"messages": [{{"role": "user", "content": str(number)}}]}}) + "\\n")
"""

# The walkthrough's script: what it loads, keeps and writes, in our words.
WALKTHROUGH_SCRIPT = """
import json
from datasets import load_dataset

rows = load_dataset("argilla/10k_prompts_ranked_mistral_large_responses", split="train")
rows = rows.filter(lambda row: row["kind"] == "human")
rows = rows.map(
    lambda row: {"messages": row["generation_prompt"][0] + [{"role": "assistant", "content": row["generations"][0]}]},
    remove_columns=rows.column_names,
)
rows.to_json("/downloads/datasets/argilla-mistral-large-human-prompts.jsonl")
"""


class Scripts:
    """Makes scripts that count their runs in a file of their home."""

    def __init__(self, folder: Path) -> None:
        self.work = folder / "work"

    def __call__(self, *names: str, rows: int = 3, comment: str = "") -> str:
        return SCRIPT.format(names=list(names), rows=rows) + comment

    @property
    def runs(self) -> int:
        return sum(len(path.read_text().splitlines()) for path in self.work.glob("home-*/runs.txt"))


@pytest.fixture
def script(tmp_path: Path) -> Scripts:
    return Scripts(tmp_path)


def deliver(delivery: Delivery, text: str, **given: Any) -> tuple[Delivered, ...]:
    return delivery.run(dataScript=text, bucketDataDir=f"{DATASETS}/", **given).datasets


def manifest_of(delivery: Delivery, name: str) -> Manifest:
    return read_manifest(delivery.store, f"{DATASETS}/.tuneyard/{name}.manifest.json")


def test_every_dataset_is_delivered_with_its_own_manifest(delivery: Delivery, script: Scripts) -> None:
    text = script("train.jsonl", "more.jsonl")
    delivered = deliver(delivery, text)
    assert [(one.key, one.status) for one in delivered] == [
        (f"{DATASETS}/more.jsonl", "delivered"),
        (f"{DATASETS}/train.jsonl", "delivered"),
    ]
    assert delivery.paths(f"{DATASETS}/") == [
        ".tuneyard/more.jsonl.manifest.json", ".tuneyard/train.jsonl.manifest.json", "more.jsonl", "train.jsonl",
    ]  # fmt: skip
    manifest = manifest_of(delivery, "train.jsonl")
    verify(delivery.store, f"{DATASETS}/", manifest)
    assert manifest.kind == "dataset"
    assert manifest.about["rows"] == 3
    assert manifest.about["source"] == {
        "kind": "dataScript", "script_sha256": script_sha256(text), "outputs": ["more.jsonl", "train.jsonl"],
    }  # fmt: skip


def test_the_jobs_folder_is_empty_after_delivery(delivery: Delivery, script: Scripts) -> None:
    deliver(delivery, script("train.jsonl"))
    (home,) = (delivery.folder / "work").iterdir()
    assert home.name.startswith("home-")


def test_an_unchanged_script_is_not_run_again(delivery: Delivery, script: Scripts) -> None:
    first = deliver(delivery, script("train.jsonl", "more.jsonl"))
    again = deliver(delivery, script("train.jsonl", "more.jsonl"))
    assert script.runs == 1
    assert [(one.key, one.status, one.content_sha256) for one in again] == [
        (one.key, "unchanged", one.content_sha256) for one in first
    ]


def test_a_script_is_run_again_where_one_of_its_files_is_missing(delivery: Delivery, script: Scripts) -> None:
    deliver(delivery, script("train.jsonl", "more.jsonl"))
    delivery.store.delete([f"{DATASETS}/.tuneyard/more.jsonl.manifest.json"])
    again = deliver(delivery, script("train.jsonl", "more.jsonl"))
    assert script.runs == 2
    assert [(one.key, one.status) for one in again] == [
        (f"{DATASETS}/more.jsonl", "delivered"), (f"{DATASETS}/train.jsonl", "unchanged"),
    ]  # fmt: skip
    assert again[0].transferred_files == 0  # the object was there, and was the same


def test_another_script_with_the_same_rows_is_recorded(delivery: Delivery, script: Scripts) -> None:
    deliver(delivery, script("train.jsonl"))
    assert deliver(delivery, script("train.jsonl", comment="# 2"))[0].status == "unchanged"
    deliver(delivery, script("train.jsonl", comment="# 2"))
    assert script.runs == 2
    verify(delivery.store, f"{DATASETS}/", manifest_of(delivery, "train.jsonl"))


def test_other_rows_under_the_same_name_are_a_conflict(delivery: Delivery, script: Scripts) -> None:
    deliver(delivery, script("train.jsonl"))
    before = manifest_of(delivery, "train.jsonl")
    with pytest.raises(ConflictError, match=r"default-bucket/datasets/train\.jsonl") as caught:
        deliver(delivery, script("train.jsonl", rows=4))
    assert caught.value.exit_code == 6
    assert "bucketDataDir" in caught.value.hint
    assert manifest_of(delivery, "train.jsonl") == before
    verify(delivery.store, f"{DATASETS}/", before)


def test_allow_overwrite_runs_the_script_and_replaces(delivery: Delivery, script: Scripts) -> None:
    deliver(delivery, script("train.jsonl"))
    assert deliver(delivery, script("train.jsonl"), allowOverwrite=True)[0].status == "unchanged"
    assert deliver(delivery, script("train.jsonl", rows=4), allowOverwrite=True)[0].status == "replaced"
    assert script.runs == 3
    manifest = manifest_of(delivery, "train.jsonl")
    assert manifest.about["rows"] == 4
    verify(delivery.store, f"{DATASETS}/", manifest)


def test_a_damaged_manifest_beside_it_stops_only_its_own_file(delivery: Delivery, script: Scripts) -> None:
    delivery.store.put(f"{DATASETS}/.tuneyard/a.jsonl.manifest.json", b"{")
    assert deliver(delivery, script("train.jsonl"))[0].status == "delivered"
    with pytest.raises(IntegrityError, match=r"a\.jsonl\.manifest\.json"):
        deliver(delivery, script("a.jsonl"))
    assert deliver(delivery, script("a.jsonl"), allowOverwrite=True)[0].status == "delivered"


def test_files_in_folders_keep_their_paths(delivery: Delivery) -> None:
    text = 'import os\nos.mkdir("/downloads/datasets/de")\nopen("/downloads/datasets/de/a.jsonl", "w").write("{}\\n")'
    assert [one.key for one in deliver(delivery, text)] == [f"{DATASETS}/de/a.jsonl"]
    manifest = read_manifest(delivery.store, f"{DATASETS}/de/.tuneyard/a.jsonl.manifest.json")
    verify(delivery.store, f"{DATASETS}/de/", manifest)


def test_a_dataset_without_a_row_is_refused_and_nothing_is_written(delivery: Delivery) -> None:
    with pytest.raises(InvalidDataError, match=r"wrote .train\.jsonl. with no rows"):
        deliver(delivery, 'open("/downloads/datasets/train.jsonl", "w").write("\\n")')
    assert delivery.paths("default-bucket/") == []


def test_a_failing_script_leaves_nothing_in_the_store(delivery: Delivery) -> None:
    with pytest.raises(InvalidDataError, match="ZeroDivisionError"):
        deliver(delivery, 'open("/downloads/datasets/train.jsonl", "w").write("{}\\n"); 1 / 0')
    assert delivery.paths("default-bucket/") == []


def test_one_process_delivers_model_and_datasets_and_the_script_gets_no_key(delivery: Delivery) -> None:
    delivery.hub.add_model("org/tiny", FILES)
    text = (
        "import json, os\n"
        'open("/downloads/datasets/env.jsonl", "w").write(json.dumps(dict(os.environ)) + "\\n")\n'
        'print("printed by the script")'
    )
    secrets = dict.fromkeys(("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "TUNEYARD_API_KEY"), "canary")
    given = {"modelID": "org/tiny", "bucketModelPath": "default-bucket/models/tiny", "hfTokenSecret": {"name": "hf"}}
    result = delivery.process({**secrets, "HF_TOKEN": "hf_right"}, dataScript=text, bucketDataDir=DATASETS, **given)
    assert result.returncode == 0, result.stderr
    known = json.loads(delivery.store.get(f"{DATASETS}/env.jsonl").body)
    assert "canary" not in known.values()
    assert known["HF_TOKEN"] == "hf_right"
    assert "printed by the script" in result.stderr
    (line,) = result.stdout.splitlines()
    report = json.loads(line)
    assert report["model"]["status"] == "delivered"
    assert report["script"] == "run"
    assert [one["key"] for one in report["datasets"]] == [f"{DATASETS}/env.jsonl"]


def test_the_walkthroughs_script_loads_its_dataset_from_the_hub(delivery: Delivery) -> None:
    rows = [
        {
            "kind": kind,
            "generation_prompt": [[{"content": f"question {number}", "role": "user"}]],
            "generations": [f"answer {number}", "another"],
        }
        for number, kind in enumerate(["human", "synthetic", "human"])
    ]
    parquet = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), parquet)
    delivery.hub.add_dataset(
        "argilla/10k_prompts_ranked_mistral_large_responses",
        {"data/train-00000-of-00001.parquet": parquet.getvalue(), "README.md": b"---\nlicense: mit\n---\n"},
    )
    result = delivery.process(dataScript=WALKTHROUGH_SCRIPT, bucketDataDir=DATASETS)
    assert result.returncode == 0, result.stderr
    body = delivery.store.get(f"{DATASETS}/argilla-mistral-large-human-prompts.jsonl").body
    assert [json.loads(line) for line in body.splitlines()] == [
        {
            "messages": [
                {"content": f"question {number}", "role": "user"},
                {"role": "assistant", "content": f"answer {number}"},
            ]
        }
        for number in (0, 2)
    ]
