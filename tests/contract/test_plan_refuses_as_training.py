"""What the training process refuses, `tuneyard plan` refuses in the same words and with the same code."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from lab.training import VALUES, changed, conversations, deliver_inputs, environment, train

UNSUPPORTED = {
    "distributedType": "auto-deepspeed-stage3",
    "finetuning_config.quant_conf": {"quantization_type": "bits-and-bytes", "load_in_4bit": True},
    "finetuning_config.peft_conf": {"peft_type": "LOHA"},
    "finetuning_config.training_args.save_only_model": True,
    "env": {"WANDB_API_KEY": {"name": "wandb", "key": "token"}},
}
UNMATCHED = {"finetuning_config.peft_conf.peft_kwargs.target_modules": ["q_proj", "v_projj"]}
NO_ANSWER = {"messages": [{"role": "user", "content": "What is a yard?"}]}


@pytest.mark.parametrize(
    ("changes", "rows"),
    [(UNSUPPORTED, None), (UNMATCHED, None), ({}, [*conversations(3), NO_ANSWER])],
    ids=["unsupported values", "a target that is no module", "a row without an answer"],
)
def test_plan_reports_what_training_would(changes, rows, tmp_path):
    deliver_inputs(tmp_path / "store", rows=rows)
    values = changed(VALUES, **changes)
    (tmp_path / "values.json").write_text(json.dumps(values))
    command = [sys.executable, "-m", "tuneyard", "plan", "-f", str(tmp_path / "values.json")]
    planned = subprocess.run(command, env=environment(tmp_path / "store"), capture_output=True, text=True, check=False)
    trained = train(values, tmp_path / "store", tmp_path / "work", code=3)
    assert planned.returncode == 3, planned.stderr
    assert planned.stdout == ""
    assert problems(planned.stderr) == problems(trained)


def problems(output: str) -> list[str]:
    """The sentence, each problem and the hint."""
    lines = output.splitlines()
    return lines[next(place for place, line in enumerate(lines) if line.startswith("error: ")) :]
