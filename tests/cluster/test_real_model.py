"""A real pretrained model, SmolLM2-135M-Instruct, trained by two processes on two accelerators of the queue.

The base model comes from the package registry; no accelerator computes: the site allows the CPU.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from lab.cluster.training_jobs import training_jobs
from lab.cluster.workspaces import QUEUE, kubectl, workspace
from lab.training import ARGUMENTS, DATA, MODEL, VALUES, changed, deliver_inputs
from tuneyard.checkpoints import Experiment

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples/tuneyard-facts"
STEPS = 6
# Four conversations, all of them in every step: so the training loss shows what is learned.
TOGETHER = changed(
    VALUES,
    **{
        ARGUMENTS + "learning_rate": 1e-3,
        ARGUMENTS + "lr_scheduler_type": "constant",
        ARGUMENTS + "num_train_epochs": None,
        ARGUMENTS + "max_steps": STEPS,
        ARGUMENTS + "save_steps": STEPS // 2,
        ARGUMENTS + "logging_steps": 1,
        ARGUMENTS + "eval_strategy": "no",
        "finetuning_config.data_conf.validation_data": {"type": "NONE"},
        "finetuning_config.batchsize_conf.total_train_batch_size": 4,
        "finetuning_config.batchsize_conf.max_per_device_train_batch_size": 1,
        # In bfloat16, the dtype of its weights, rounding alone changes these losses by a hundredth.
        "finetuning_config.run_conf.model_args.dtype": "float32",
        "finetuning_config.peft_conf.peft_kwargs.r": 8,
        "finetuning_config.peft_conf.peft_kwargs.lora_dropout": 0.0,
    },
)
RANKS = """
import glob, json, re
ranks = set()
for path in glob.glob("/proc/[0-9]*/environ"):
    ranks |= set(re.findall(r"\\0RANK=(\\d+)\\0", open(path, errors="replace").read()))
print(json.dumps(sorted(ranks)))
"""


@pytest.fixture(scope="module")
def jobs(tmp_path_factory):
    """Training Jobs in a namespace of their own, with the real model and conversations in the bucket."""
    folder = tmp_path_factory.mktemp("real")
    model = ROOT / ".downloads/HuggingFaceTB_SmolLM2-135M-Instruct"
    subprocess.run([sys.executable, EXAMPLE / "base_model.py", model], check=True)
    rows = [json.loads(line) for line in (EXAMPLE / "heldout.jsonl").read_text(encoding="utf-8").splitlines()[:4]]
    questions = [{"role": "user", "content": row["question"]} for row in rows]
    answers = [{"role": "assistant", "content": row["keys"][0]} for row in rows]
    conversations = [{"messages": list(turns)} for turns in zip(questions, answers, strict=True)]
    deliver_inputs(folder / "store", rows=conversations, folder=model)
    with workspace("tuneyard-real", folder) as made, training_jobs(made, folder) as jobs:
        made.upload(folder / "store")
        jobs.common.update(
            {
                "basemodel": jobs.place(MODEL),
                "finetuning_config.data_conf.training_data.datasets": [{"path": jobs.place(DATA)}],
                "gpuResource": "amd.com/gpu",
                "queueName": QUEUE,
                "downloadsReservedSize": "2Gi",
                "checkpointsReservedSize": "2Gi",
            }
        )
        yield jobs


def test_two_processes_train_a_real_model_as_one_does(jobs):
    jobs.apply("two", jobs.values(TOGETHER, "two", finetuningGpus=2))
    pod = jobs.running("two")
    jobs.until_step(pod, 1)
    shown = kubectl("exec", "-n", jobs.namespace, pod, "--", "python", "-c", RANKS)
    assert json.loads(shown) == ["0", "1"]
    jobs.complete("two")
    assert [end.pod for end in jobs.ends("two")] == [pod]
    losses = jobs.losses("two")
    assert len(losses) == STEPS
    assert losses[-1] < 0.8 * losses[0], losses
    assert Experiment(jobs.store, jobs.remote("two")).finished()

    jobs.apply("one", jobs.values(TOGETHER, "one", finetuningGpus=1))
    jobs.complete("one")
    assert jobs.losses("one") == pytest.approx(losses, abs=1e-4, rel=0)
