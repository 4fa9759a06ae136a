"""A training killed at a random moment goes on from a committed checkpoint and ends as if nobody had killed it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from training import ARGUMENTS, changed, lay_out

TESTS = Path(__file__).parents[2]
SAVE_STEPS = 2


def trials(folder, count, *, seed):
    lay_out(folder / "store")
    values = changed(**{ARGUMENTS + "num_train_epochs": 4, ARGUMENTS + "save_steps": SAVE_STEPS})
    (folder / "values.json").write_text(json.dumps(values))
    program = [sys.executable, str(TESTS / "kill_trials.py"), str(folder / "store"), str(folder / "work")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*program, str(folder / "values.json"), str(count), str(seed)],
        env=environment,
        stdout=subprocess.PIPE,
        check=True,
        text=True,
        cwd=folder,
    )
    reference, *results = [json.loads(line) for line in done.stdout.splitlines()]
    assert reference["reference"] == 0
    assert len(results) == count
    return reference, results


def check(reference, results):
    for result in results:
        where = f"trial {result['trial']}, killed after {result['delay_seconds']:.2f} s"
        assert result["code"] == 0, f"{where}: {result['said']}"
        if result["resumed_from"] is None:  # the kill came after everything was published
            assert result["step_reached"] == reference["metrics"][-1]["step"], where
        else:
            # an uncommitted checkpoint is never used, and the newest committed one always is
            assert result["resumed_from"] == max(result["committed"], default=0), where
        assert result["metrics"] == reference["metrics"], where
        assert result["weights"] == reference["weights"], where
    resumed = [result for result in results if result["resumed_from"]]
    assert len(resumed) >= len(results) // 3, "most kills have to hit a run that has something to go on from"


def test_20_kills_at_random_moments_lose_nothing_that_was_committed(tmp_path):
    check(*trials(tmp_path, 20, seed=20261123))


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_60_kills_at_random_moments_lose_nothing_that_was_committed(tmp_path):
    check(*trials(tmp_path, 60, seed=60))
