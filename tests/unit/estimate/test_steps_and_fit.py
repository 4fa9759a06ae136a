"""Steps and tokens are those of training; the verdict compares with what is there."""

from __future__ import annotations

import json

import pytest
from training import VALUES, changed, lay_out
from typer.testing import CliRunner

from tuneyard.cli.main import app
from tuneyard.errors import NotFoundError
from tuneyard.estimate import estimate, fits_here
from tuneyard.store import open_store
from tuneyard.values import FinetuneValues


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lab") / "store"
    lay_out(folder)
    return folder


def told(store, **changes):
    return estimate(FinetuneValues.model_validate(changed(VALUES, **changes)), open_store(store.as_uri()))


def test_rows_and_steps_leave_out_what_is_split_off(store):
    work = told(store).work
    assert (work.rows, work.steps, work.exact) == (20, 10, True)


def test_max_steps_win_over_epochs(store):
    assert told(store, **{"finetuning_config.training_args.max_steps": 3}).work.steps == 3


def test_data_that_is_not_delivered_is_taken_at_its_longest_and_said(store):
    datasets = "finetuning_config.data_conf.training_data.datasets"
    found = told(store, **{datasets: [{"path": "default-bucket/datasets/none.jsonl"}]})
    assert (found.work.steps, found.work.longest, found.seconds) == (None, 2 * 256, None)
    assert any("not delivered" in note for note in found.notes)


def test_a_model_that_is_not_delivered_is_not_found(store):
    with pytest.raises(NotFoundError, match="is not in"):
        told(store, basemodel="default-bucket/models/none")


def test_more_than_the_machine_has_never_fits():
    assert fits_here(2**60, accelerators=False).fits == "never"
    assert fits_here(2**20, accelerators=False).fits == "yes"
    assert fits_here(2**60, accelerators=True).fits == "unknown"


def test_the_command_prints_a_table_within_80_columns_and_json(store, tmp_path):
    values = tmp_path / "values.json"
    values.write_text(json.dumps(VALUES))
    shown = CliRunner().invoke(app, ["plan", "-f", str(values), "--store", store.as_uri()])
    assert shown.exit_code == 0, shown.output
    assert "peak, in the" in shown.stdout and "It fits: it needs" in shown.stdout
    assert max(map(len, shown.stdout.splitlines())) <= 80, shown.stdout
    printed = CliRunner().invoke(app, ["plan", "-f", str(values), "--store", store.as_uri(), "--json"])
    document = json.loads(printed.stdout)
    memory = document["estimate"]["memory"]
    assert memory["total"] == sum(size for part, size in memory.items() if part not in ("total", "moment"))
    assert document["verdict"]["fits"] == "yes"
