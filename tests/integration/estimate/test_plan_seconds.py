"""The time that `tuneyard plan` estimates, against that of a real training on the same machine."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from lab.peaks import Case, deliver_case
from lab.training import REMOTE, environment, train


@pytest.mark.soak  # by the clock, so it may not run beside others
def test_the_estimated_time_is_close_to_the_measured_one(tmp_path):
    case = Case("plain", 160, 4, {"training_args.max_steps": 4})
    deliver_case(case, tmp_path / "models", tmp_path / "store")
    values = tmp_path / "plan.json"
    values.write_text(json.dumps(case.values()))
    command = [sys.executable, "-m", "tuneyard", "plan", "-f", str(values), "--json"]
    done = subprocess.run(command, env=environment(tmp_path / "store"), capture_output=True, text=True, check=True)
    estimated = json.loads(done.stdout)["estimate"]["seconds"]
    train(case.values(), tmp_path / "store", tmp_path / "work")
    rows = [json.loads(line) for line in (tmp_path / "store" / REMOTE / "metrics.jsonl").read_text().splitlines()]
    (summary,) = [row for row in rows if row["kind"] == "summary"]
    print(f"estimated {estimated:.1f} s, measured {summary['seconds']:.1f} s")
    assert 0.4 < estimated / summary["seconds"] < 2.5
