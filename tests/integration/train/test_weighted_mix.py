"""A training on files that are drawn from by weight."""

import json
from pathlib import Path

import pytest

from lab.training import ARGUMENTS, DATA, REMOTE, changed, conversations, deliver_inputs, killed_and_resumed
from tuneyard.errors import InvalidDataError
from tuneyard.estimate import estimate
from tuneyard.job.inputs import find_inputs
from tuneyard.network.batches import EncodedRows
from tuneyard.store import Manifest, open_store, upload_tree, write_manifest
from tuneyard.train.prepare import prepare
from tuneyard.values import FinetuneValues

OTHER = "default-bucket/datasets/other/few.jsonl"
MIX = {
    "finetuning_config.data_conf.training_data": {
        "type": "PRECOMPUTE_WEIGHTED_MIX",
        "datasets": [{"path": DATA, "weight": 1}, {"path": OTHER, "weight": 2}],
    },
    ARGUMENTS + "num_train_epochs": 1,
}


@pytest.fixture
def store(tmp_path):
    deliver_inputs(tmp_path / "store")
    opened = open_store((tmp_path / "store").as_uri())
    folder = tmp_path / "more"
    folder.mkdir()
    lines = [json.dumps(row) for row in conversations(8, seed=1)]
    (folder / "few.jsonl").write_text("\n".join(lines) + "\n")
    where = OTHER.rpartition("/")[0]
    files = tuple(upload_tree(opened, folder, f"{where}/"))
    write_manifest(opened, f"{where}/.tuneyard/few.jsonl.manifest.json", Manifest(kind="dataset", files=files))
    return tmp_path / "store"


def prepared(values, store, workdir):
    read = FinetuneValues.model_validate(values)
    notices = []
    opened = open_store(store.as_uri())
    made = prepare(read, find_inputs(read, opened), opened, workdir, notices.append)
    return made, notices


def test_an_epoch_has_the_configured_shares_and_reports_them(store, tmp_path):
    none = {"finetuning_config.data_conf.validation_data": {"type": "NONE"}, ARGUMENTS + "eval_strategy": "no"}
    made, notices = prepared(changed(**MIX, **none), store, tmp_path / "work")
    rows = EncodedRows(Path(made.rows_folder))
    assert len(rows) == 33
    assert notices == [
        f"An epoch mixes 11 rows (33.3%) of {DATA}, which has 25, each at most once; 22 rows (66.7%) of {OTHER}, which"
        " has 8, each up to 3 times."
    ]
    again = EncodedRows(Path(prepared(changed(**MIX, **none), store, tmp_path / "again")[0].rows_folder))
    assert again.tokens.tolist() == rows.tokens.tolist()


def test_no_validation_row_is_mixed_in(store, tmp_path):
    made, _ = prepared(changed(**MIX), store, tmp_path / "work")
    trained, held_out = (
        {tuple(rows[index]["input_ids"].tolist()) for index in range(len(rows))}
        for rows in (EncodedRows(Path(folder)) for folder in (made.rows_folder, made.validation_folder))
    )
    assert held_out
    assert not trained & held_out
    notices = estimate(FinetuneValues.model_validate(changed(**MIX)), open_store(store.as_uri()))
    assert notices.work.rows == 26
    assert any(note.startswith("An epoch mixes 9 rows (34.6%)") for note in notices.notes)


def test_a_killed_training_on_a_mix_is_resumed_bit_for_bit(store, tmp_path):
    killed_and_resumed(changed(**MIX), store, tmp_path, kill_at=5)
    assert (store / REMOTE / "checkpoint-final/manifest.json").exists()


def test_a_file_with_no_row_left_to_mix_is_refused(store, tmp_path):
    kept_back = {"finetuning_config.data_conf.validation_data": {"type": "AUTO_SPLIT", "ratio": 0.96}}
    with pytest.raises(InvalidDataError, match="has no row left to mix: all of its rows are held out"):
        prepared(changed(**MIX, **kept_back), store, tmp_path / "work")
