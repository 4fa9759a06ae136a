"""The output sink and the texts of progress."""

from __future__ import annotations

import json

import pytest

from tuneyard.cli._follow import describe
from tuneyard.cli._output import Output, duration, table
from tuneyard.runners import RunProgress


def test_data_goes_to_stdout_and_notes_to_stderr(capsys):
    out = Output()
    out.data({"a": 1}, "for people")
    out.note("by the way")
    assert capsys.readouterr() == ("for people\n", "by the way\n")


def test_json_is_one_document_with_the_schema_s_version(capsys):
    Output(as_json=True).data({"runs": []}, "for people")
    assert json.loads(capsys.readouterr().out) == {"schema": 1, "runs": []}


def test_quiet_prints_the_data_without_notes(capsys):
    out = Output(quiet=True)
    out.note("by the way")
    out.data({}, "data")
    assert capsys.readouterr() == ("data\n", "")


def test_a_long_line_is_not_cut_off_a_terminal(capsys):
    from rich.text import Text

    Output().data({}, Text("word " * 100))
    assert capsys.readouterr().out.count("\n") == 1


def test_a_table_lines_its_columns_up():
    assert table(["RUN", "STATUS"], [["finetune/lora", "running"], ["a", "x"]]) == (
        "RUN            STATUS\nfinetune/lora  running\na              x"
    )


@pytest.mark.parametrize(
    ("seconds", "words"), [(0, "0 s"), (59.4, "59 s"), (200, "3 min 20 s"), (7500, "2 h 05 min"), (-1, "0 s")]
)
def test_durations_are_for_people(seconds, words):
    assert duration(seconds) == words


def test_progress_has_step_loss_rate_and_time_left():
    slow = RunProgress(5, 20, 1.23456, seconds_per_step=6.0, seconds_left=90.0, phase="training")
    assert describe(slow) == "step 5 of 20 (25 %), loss 1.2346, 6.0 s/step, 1 min 30 s left"
    fast = RunProgress(5, 20, seconds_per_step=0.25, seconds_left=3.75)
    assert describe(fast) == "step 5 of 20 (25 %), 4.0 steps/s, 4 s left"
    assert describe(RunProgress(0, 0, phase="loading")) == "loading"
    done = RunProgress(20, 20, 0.5, seconds_per_step=1.0, seconds_left=3.0)
    assert describe(done) == "step 20 of 20 (100 %), loss 0.5000"
