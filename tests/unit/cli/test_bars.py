"""The bars of several runs on a terminal: names stay readable beside long states."""

from __future__ import annotations

import re

import pytest

from tuneyard.cli._follow import bars
from tuneyard.runners import RunInfo, RunProgress

WHY = "queued in 'one', position 2 of 3: insufficient free quota for amd.com/gpu, and more text than fits a line " * 2


@pytest.mark.parametrize("width", [80, 150])
def test_a_long_state_is_cut_and_names_are_whole(
    width: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("FORCE_COLOR", "1")
    progress = RunProgress(step=12, max_steps=4000, loss=2.6, seconds_per_step=0.1, seconds_left=325, phase="training")
    with bars() as update:
        for _ in range(2):
            update(RunInfo("finetune", "first", "running", progress=progress))
            update(RunInfo("finetune", "lora-rank-16", "queued", WHY))
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", capsys.readouterr().err)
    lines = [line.rstrip() for line in re.split(r"[\r\n]+", text) if line.strip()]
    assert max(map(len, lines)) <= width
    assert any(re.match("first .*loss .*left", line) for line in lines), lines
    assert any(re.match("lora-rank-16 .*queued: queued in 'one'.*…", line) for line in lines), lines
