"""The torch-free mirrors equal the libraries, and arguments reach transformers unchanged."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest

from lab.small_values import finetune
from tuneyard.values import FinetuneValues, TrainingArgs, check_values
from tuneyard.values.training import OWNED

ROOT = Path(__file__).resolve().parents[3]


def arguments(**given):
    return check_values(FinetuneValues, finetune(**given)).finetuning_config.training_args.to_transformers()


def test_the_mirrors_are_up_to_date():
    command = [sys.executable, "-W", "ignore", str(ROOT / "scripts" / "training_args.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_argument_of_transformers_is_accepted_by_name_with_its_own_default(tmp_path):
    from transformers import TrainingArguments

    theirs = {field.name: field for field in dataclasses.fields(TrainingArguments) if field.init}
    assert set(theirs) == set(TrainingArgs.model_fields)
    given = arguments()
    assert set(given) == set(theirs) - set(OWNED)
    for name, value in given.items():
        field = theirs[name]
        default = field.default if field.default is not dataclasses.MISSING else field.default_factory()
        assert value == default, name
        assert isinstance(value, bool) == isinstance(default, bool), name
    # all of them at once, explicitly, make the same object as none
    place = str(tmp_path)
    explicit, implicit = TrainingArguments(output_dir=place, **given), TrainingArguments(output_dir=place)
    for name in theirs:
        assert getattr(explicit, name) == getattr(implicit, name), name


def test_arguments_from_helm_reach_transformers_with_their_types(tmp_path):
    from transformers import TrainingArguments

    sent = arguments(
        learning_rate="5e-5",
        warmup_ratio="0.05",
        num_train_epochs="2",
        evaluation_strategy="steps",
        eval_steps="0.2",
        save_strategy="best",
        metric_for_best_model="loss",
        lr_scheduler_type="cosine_with_min_lr",
        lr_scheduler_kwargs={"min_lr": "1e-6"},
        group_by_length="true",
        report_to=["none"],
        debug="underflow_overflow",
        logging_steps="10",
    )
    read = TrainingArguments(output_dir=str(tmp_path), **sent)
    assert (read.learning_rate, read.warmup_steps, read.num_train_epochs) == (5e-5, 0.05, 2.0)
    assert read.get_warmup_steps(200) == 10
    assert (read.eval_strategy, read.eval_steps, read.save_strategy) == ("steps", 0.2, "best")
    assert (read.lr_scheduler_type, read.lr_scheduler_kwargs) == ("cosine_with_min_lr", {"min_lr": 1e-6})
    assert read.train_sampling_strategy == "group_by_length"
    assert (read.report_to, read.logging_steps) == ([], 10)


@pytest.mark.parametrize(
    "given",
    [
        {"load_best_model_at_end": True},
        {"load_best_model_at_end": True, "eval_strategy": "steps", "eval_steps": 200, "save_steps": 500},
        {"load_best_model_at_end": True, "eval_strategy": "steps", "eval_steps": 0.2, "save_steps": 500},
        {"load_best_model_at_end": True, "eval_strategy": "steps", "eval_steps": 0.2, "save_steps": 0.3},
        {"bf16": True, "fp16": True},
        {"lr_scheduler_type": "greedy"},
        {"logging_steps": 0},
        {"save_steps": 1.5},
        {"dataloader_prefetch_factor": 2},
        {"torch_empty_cache_steps": 0},
        {"warmup_steps": -1},
    ],
)
def test_every_refusal_without_torch_is_one_of_transformers_too(given, tmp_path):
    from transformers import TrainingArguments

    from tuneyard.errors import InvalidValuesError

    with pytest.raises(ValueError):
        TrainingArguments(output_dir=str(tmp_path), use_cpu=True, **given)
    with pytest.raises(InvalidValuesError):
        arguments(use_cpu=True, **given)


def test_loras_arguments_make_the_same_configuration_as_given_to_peft():
    from peft import LoraConfig

    given = {"r": 64, "lora_alpha": 16.0, "lora_dropout": 0.05, "target_modules": ["q_proj", "v_proj"], "bias": "none"}
    values = finetune()
    values["finetuning_config"]["peft_conf"] = {
        "peft_type": "LORA",
        "peft_kwargs": {**given, "r": "64", "lora_dropout": "0.05"},
    }
    sent = check_values(FinetuneValues, values).finetuning_config.peft_conf.peft_kwargs
    assert sent == given
    assert LoraConfig(**sent) == LoraConfig(**given)
