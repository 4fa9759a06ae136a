"""What `--dry-run` prints of values and objects: names of variables and Secrets, and no text of theirs."""

from __future__ import annotations

import base64
import json

import pytest

from tuneyard.cli._launching import show_plan
from tuneyard.cli._output import Output
from tuneyard.runners import Launch, RunKey
from tuneyard.runners.plans import Plan
from tuneyard.values import FinetuneValues

CANARY = "canary-91b2"


class Previewing:
    """Gives the objects that a launch would write."""

    def preview(self, launch: Launch) -> list[dict[str, object]]:
        del launch
        data = {"TOKEN": base64.b64encode(CANARY.encode()).decode()}
        return [{"kind": "Secret", "metadata": {"name": "x-env-0"}, "data": data}, {"kind": "Job", "spec": {}}]


class Starting:
    """Starts a process, and so writes no object."""

    def preview(self, launch: Launch) -> list[dict[str, object]]:
        del launch
        return []


@pytest.mark.parametrize("runner", [Previewing(), Starting()], ids=["objects", "values"])
@pytest.mark.parametrize("as_json", [True, False])
def test_no_text_of_a_variable_is_printed(runner, as_json, capsys):
    given = {"basemodel": "bucket/m", "env": {"TOKEN": CANARY, "NCCL_DEBUG": "INFO"}}
    data = {"data_conf": {"training_data": {"datasets": [{"path": "bucket/d/c.jsonl"}]}}}
    values = FinetuneValues.model_validate({**given, "finetuning_config": data})
    plan = Plan(Launch(RunKey("finetune", "x"), values, "file:///s"))
    show_plan(plan, runner, Output(as_json))
    printed = capsys.readouterr().out
    assert CANARY not in printed
    assert base64.b64encode(CANARY.encode()).decode() not in printed
    assert "TOKEN" in printed
    assert "(not shown)" in printed
    if as_json:
        assert json.loads(printed)["values"]["env"] == {"TOKEN": "(not shown)", "NCCL_DEBUG": "INFO"}
