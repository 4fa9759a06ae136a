"""A run resumes only with its own settings and rows: others are exit 6, and a template's date is kept."""

import json
import shutil

import pytest

from lab.tiny_models import CHATML, make_model
from lab.training import ARGUMENTS, DATA, REMOTE, changed, deliver_inputs, metrics, train_here
from tuneyard.data import SHARED_TEMPLATES
from tuneyard.errors import ConflictError

RUN = "finetuning_config.run_conf.model_args"
SHORT = {ARGUMENTS + "num_train_epochs": 1, ARGUMENTS + "logging_steps": 1, ARGUMENTS + "save_steps": 1}


def test_dropout_added_after_the_start_is_a_conflict(tmp_path):
    deliver_inputs(tmp_path / "store")
    assert train_here(changed(**SHORT), tmp_path / "store", tmp_path / "work", kill_at=3) == 137
    with pytest.raises(ConflictError, match=r"model_args\.attention_dropout: not set → 0\.3"):
        train_here(changed(**SHORT, **{RUN: {"attention_dropout": 0.3}}), tmp_path / "store", tmp_path / "again")
    assert train_here(changed(**SHORT), tmp_path / "store", tmp_path / "again") == 0


DATED = CHATML.replace("You are a helpful assistant.", "Today is {{ strftime_now('%d %B %Y') }}.").replace(
    "{{ '<|im_start|>system\nToday is {{ strftime_now('%d %B %Y') }}.<|im_end|>\n' }}",
    "{{ '<|im_start|>system\nToday is ' + strftime_now('%d %B %Y') + '.<|im_end|>\n' }}",
)


def test_a_template_with_a_date_gets_the_date_of_the_runs_start(tmp_path, monkeypatch):
    from datetime import datetime, timedelta

    from tuneyard.train import prepare

    class Tomorrow(datetime):
        @classmethod
        def now(cls, tz=None):
            return datetime.now(tz) + timedelta(days=1)

    deliver_inputs(tmp_path / "store", folder=make_model(tmp_path / "model", template=DATED))
    values = changed(**SHORT)
    train_here(values, tmp_path / "store", tmp_path / "whole")
    whole = metrics(tmp_path / "store")
    begun = SHARED_TEMPLATES.now
    shutil.rmtree(tmp_path / "store" / REMOTE)
    assert train_here(values, tmp_path / "store", tmp_path / "killed", kill_at=3) == 137
    monkeypatch.setattr(prepare, "datetime", Tomorrow)
    assert train_here(values, tmp_path / "store", tmp_path / "next-day") == 0
    assert metrics(tmp_path / "store") == whole
    assert SHARED_TEMPLATES.now.date() == begun.date()
    shutil.rmtree(tmp_path / "store" / REMOTE)
    train_here(values, tmp_path / "store", tmp_path / "anew")
    assert SHARED_TEMPLATES.now.date() == begun.date() + timedelta(days=1)
    assert metrics(tmp_path / "store") != whole  # the date is in the text that is read


def test_differently_encoded_rows_are_a_conflict(tmp_path, monkeypatch):
    deliver_inputs(tmp_path / "store")
    assert train_here(changed(**SHORT), tmp_path / "store", tmp_path / "work", kill_at=3) == 137
    from tuneyard.train import prepare

    real = prepare.encoded_rows
    monkeypatch.setattr(prepare, "encoded_rows", lambda *given: (real(*given)[0][::-1], real(*given)[1]))
    with pytest.raises(ConflictError, match="encoded rows"):
        train_here(changed(**SHORT), tmp_path / "store", tmp_path / "again")
    head = json.loads((tmp_path / "store" / REMOTE / "HEAD").read_text())
    assert head["attempt"] == 1


def test_redelivered_data_with_other_rows_is_a_conflict(tmp_path):
    deliver_inputs(tmp_path / "store")
    assert train_here(changed(**SHORT), tmp_path / "store", tmp_path / "work", kill_at=3) == 137
    from lab.training import conversations

    deliver_inputs(tmp_path / "store", rows=conversations(25, seed=9))
    with pytest.raises(ConflictError, match=f"data {DATA}"):
        train_here(changed(**SHORT), tmp_path / "store", tmp_path / "again")
