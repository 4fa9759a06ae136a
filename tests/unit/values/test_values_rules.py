"""Rules across fields, and the arithmetic of batches."""

# ruff: noqa: E501  (a case of a table is easier to read on its own lines)
from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab.small_values import FINETUNE, finetune, with_config
from tuneyard.errors import InvalidValuesError
from tuneyard.values import FinetuneValues, check_values, resolve_batch_sizes

ARGS = "finetuning_config.training_args"
DATA = "finetuning_config.data_conf"
QUANT = "finetuning_config.quant_conf.quantization_type"
KWARGS = "finetuning_config.peft_conf.peft_kwargs"
BATCH = "finetuning_config.batchsize_conf.total_train_batch_size"


def only_problem(given) -> str:
    with pytest.raises(InvalidValuesError) as caught:
        check_values(FinetuneValues, given)
    (problem,) = caught.value.problems
    return str(problem)


def whole(base=FINETUNE, **keys):
    return {**base, **keys}


STEPS = {"eval_strategy": "steps"}
RULES = [
    (finetune(load_best_model_at_end=True), f"{ARGS}.load_best_model_at_end: needs save_strategy and eval_strategy to be"
     " the same, and they are steps and no; allowed: save_strategy: best, or the same strategy for both"),
    (finetune(load_best_model_at_end=True, eval_steps=200, save_steps=500, **STEPS), f"{ARGS}.save_steps: is not a"
     " multiple of eval_steps (200), which load_best_model_at_end needs (given: '500')"),
    (finetune(load_best_model_at_end=True, eval_steps=0.2, save_steps=500, **STEPS), f"{ARGS}.save_steps: is not a"
     " multiple of eval_steps (0.2), which load_best_model_at_end needs (given: '500')"),
    (finetune(save_strategy="best", metric_for_best_model="loss"), f"{ARGS}.save_strategy: needs an evaluation to find the best checkpoint (given: 'best')"),
    (finetune(save_strategy="best", **STEPS), f"{ARGS}.metric_for_best_model: is missing, and save_strategy best"
     " compares it; allowed: loss, or another metric of the evaluation"),
    (finetune(bf16=True, fp16=True), f"{ARGS}.fp16: excludes bf16 (given: 'true')"),
    (finetune(lr_scheduler_type="reduce_lr_on_plateau"), f"{ARGS}.lr_scheduler_type: needs an evaluation to react to"
     " (given: 'reduce_lr_on_plateau')"),
    (finetune(dataloader_prefetch_factor=2), f"{ARGS}.dataloader_prefetch_factor: needs dataloader_num_workers of 1 or"
     " more (given: '2')"),
    (finetune(logging_steps=0), f"{ARGS}.logging_steps: is not an interval (given: '0'); allowed: a whole number of steps,"
     " or a share of all steps between 0 and 1"),
    (finetune(save_steps=1.5), f"{ARGS}.save_steps: is not an interval (given: '1.5'); allowed: a whole number of steps,"
     " or a share of all steps between 0 and 1"),
    (finetune(warmup_steps=-1), f"{ARGS}.warmup_steps: is out of range (given: '-1'); allowed: 0 or more; below 1 it is a"
     " share of all steps"),
    (finetune(num_train_epochs=0), f"{ARGS}.num_train_epochs: is out of range (given: '0'); allowed: more than 0"),
    (finetune(debug="underflow"), f"{ARGS}.debug: is not an option (given: 'underflow'); allowed: underflow_overflow"),
    (finetune(output_dir="out"), f"{ARGS}.output_dir: is not accepted here: checkpoints go to checkpointsRemote (given:"
     " 'out')"),
    (finetune(per_device_train_batch_size=4), f"{ARGS}.per_device_train_batch_size: is not accepted here: the batch is set"
     " by batchsize_conf.max_per_device_train_batch_size (given: '4')"),
    (finetune(gradient_accumulation_steps=4), f"{ARGS}.gradient_accumulation_steps: is not accepted here: it follows from"
     " batchsize_conf.total_train_batch_size (given: '4')"),
    (finetune(per_device_eval_batch_size=4), f"{ARGS}.per_device_eval_batch_size: is not accepted here: it is set by"
     " batchsize_conf.per_device_eval_batch_size (given: '4')"),
    (finetune(push_to_hub=True), f"{ARGS}.push_to_hub: is not accepted here: results go to checkpointsRemote and nothing is"
     " pushed to the Hub (given: 'True')"),
    (finetune(fsdp="full_shard"), f"{ARGS}.fsdp: is not accepted here: the distribution is set by distributedType"
     " (given: 'full_shard')"),
    (finetune(resume_from_checkpoint="x"), f"{ARGS}.resume_from_checkpoint: is not accepted here: it is set by"
     " run_conf.resume_from_checkpoint (given: 'x')"),
    (with_config(training_args=STEPS, data_conf={"training_data": {"datasets": [{"path": "a/b"}]}, "validation_data": {
     "type": "NONE"}}), f"{ARGS}.eval_strategy: has no data to evaluate on: data_conf.validation_data.type is NONE"
     " (given: 'steps'); allowed: eval_strategy: no, or validation data"),
    (with_config(data_conf={"training_data": {"datasets": [{"path": "a/b", "weight": 2}]}}),
     f"{DATA}.training_data.datasets[0].weight: has no effect with type CONCATENATION (given: '2'); allowed: type:"
     " PRECOMPUTE_WEIGHTED_MIX"),
    (with_config(data_conf={"training_data": {"datasets": [{"path": "a/b"}]}, "validation_data": {"type":
     "CONCATENATION"}}), f"{DATA}.validation_data.datasets: is empty, and type CONCATENATION validates on files"),
    (with_config(data_conf={"training_data": {"datasets": [{"path": "a/b"}]}, "validation_data": {"datasets": [{"path":
     "a/c"}]}}), f"{DATA}.validation_data.datasets: has no effect with type AUTO_SPLIT; allowed: type: CONCATENATION"),
    (with_config(data_conf={"training_data": {"datasets": [{"path": "a/b"}]}, "rows": {"cut_answers": "drop"}}),
     f"{DATA}.rows.cut_answers: has no effect with overlong drop (given: 'drop'); allowed: overlong: truncate"),
    (with_config(dpo_args={"beta": 0.2}), "finetuning_config.dpo_args: has no effect with method sft; allowed: method:"
     " dpo"),
    (with_config(run_conf={"model_args": {"dtype": "int8"}}), "finetuning_config.run_conf.model_args.dtype: is not a"
     " type of weights (given: 'int8'); allowed: auto, float32, bfloat16, float16"),
    (with_config(quant_conf={"load_in_4bit": True}), "finetuning_config.quant_conf.quantization_type: contradicts"
     " load_in_4bit or load_in_8bit; allowed: quantization_type: bits-and-bytes"),
    (whole(distributedType="custom-accelerate-config"), "customAccelerateConfig: is missing, and distributedType"
     " custom-accelerate-config needs it"),
    (whole(customAccelerateConfig={"a": 1}), "customAccelerateConfig: has no effect with distributedType auto-ddp;"
     " allowed: distributedType: custom-accelerate-config"),
    (whole(distributedType="auto-single-process", finetuningGpus=2), "distributedType: runs one process, and 2 are configured (given: 'auto-single-process'); did you mean auto-ddp?"),
    (whole(mergeAdapter=True), "mergeAdapter: has nothing to merge: peft_type is NO_PEFT and checkpoint-final will be"
     " the whole model (given: 'true'); did you mean mergeAdapter: false?"),
    (with_config(method="dpo", sft_args={"max_seq_length": 64}), "finetuning_config.sft_args: has no effect with method"
     " dpo; allowed: dpo_args.max_length for the longest answer"),
    (with_config(method="dpo", dpo_args={"beta": 0}), "finetuning_config.dpo_args.beta: is out of range (given: '0');"
     " allowed: more than 0"),
    (with_config(method="dpo", dpo_args={"label_smoothing": 0.5}), "finetuning_config.dpo_args.label_smoothing: is out of"
     " range (given: '0.5'); allowed: from 0 to below 0.5"),
    (with_config(method="dpo", dpo_args={"loss_type": ["sigmoid", "ipo"], "loss_weights": [1]}),
     "finetuning_config.dpo_args.loss_weights: does not fit loss_type (given: '[1]'); allowed: a list of 2 number(s), one"
     " for each loss_type"),
    (with_config(early_stopping={"early_stopping_patience": 2}), "finetuning_config.early_stopping: needs an evaluation; allowed: eval_strategy: steps, epoch"),
    (with_config(early_stopping={}, training_args=STEPS), "finetuning_config.early_stopping: needs a metric;"
     " allowed: training_args.metric_for_best_model: loss"),
    (with_config(quant_conf={"quantization_type": "bits-and-bytes", "load_in_4bit": True}), f"{QUANT}: leaves no trainable weight with NO_PEFT (given: 'bits-and-bytes'); allowed: an adapter: peft_conf.peft_type LORA"),
    (with_config(quant_conf={"quantization_type": "bits-and-bytes"}, peft_conf={"peft_type": "LORA"}), f"{QUANT}: needs a number of bits; allowed: load_in_4bit or load_in_8bit: true"),
    (whole(with_config(peft_conf={"peft_type": "PROMPT_TUNING", "peft_kwargs": {"num_virtual_tokens": 4}}),
     mergeAdapter=True), "mergeAdapter: has nothing to merge into: PROMPT_TUNING trains virtual tokens before the prompt"
     " and no weight of the base (given: 'true'); did you mean mergeAdapter: false?"),
    (with_config(peft_conf={"peft_type": "PROMPT_TUNING"}), f"{KWARGS}.num_virtual_tokens: is missing; allowed: 1 or"
     " more"),
    (with_config(peft_conf={"peft_type": "PROMPT_TUNING", "peft_kwargs": {"num_virtual_tokens": 4, "prompt_tuning_init":
     "TEXT"}}), f"{KWARGS}.prompt_tuning_init_text: is missing, and prompt_tuning_init TEXT begins with it"),
    (with_config(peft_conf={"peft_type": "VERA", "peft_kwargs": {"r": 0}}), f"{KWARGS}.r: is out of range (given: '0');"
     " allowed: 1 or more"),
    (with_config(peft_conf={"peft_type": "IA3", "peft_kwargs": {"target_modules": ["k_proj"]}}),
     f"{KWARGS}.feedforward_modules: is missing beside the other; allowed: both, or neither for PEFT's own choice;"
     " feedforward_modules may be an empty list"),
    (with_config(peft_conf={"peft_type": "IA3", "peft_kwargs": {"target_modules": ["k_proj"], "feedforward_modules":
     ["up_proj"]}}), f"{KWARGS}.feedforward_modules: is not among target_modules (given: 'up_proj'); allowed: k_proj"),
    (whole(with_config(batchsize_conf={"total_train_batch_size": 12}), finetuningGpus=8), f"{BATCH}: can't be shared"
     " evenly by 8 processes (given: '12'); allowed: a multiple of 8; nearest: 8 or 16"),
]  # fmt: skip


@pytest.mark.parametrize(("given", "text"), RULES, ids=[text[:60] for _, text in RULES])
def test_a_broken_rule_is_reported(given, text):
    assert only_problem(given) == text


@pytest.mark.parametrize(
    "given",
    [
        finetune(load_best_model_at_end=True, eval_steps=0.1, save_steps=0.3, **STEPS),
        finetune(load_best_model_at_end=True, eval_steps=250, save_steps=500, **STEPS),
        finetune(load_best_model_at_end=True, eval_strategy="epoch", save_strategy="epoch"),
        finetune(load_best_model_at_end=True, eval_strategy="epoch", save_strategy="best"),
        finetune(save_strategy="no", save_steps=1.5),
        finetune(output_dir=None, per_device_train_batch_size=8, gradient_accumulation_steps="1", push_to_hub=False),
        finetune(warmup_steps="0.1", logging_steps="1e-2", learning_rate="5e-5", seed="7", bf16="true"),
        whole(distributedType="auto-single-process"),
        whole(with_config(peft_conf={"peft_type": "LORA"}), mergeAdapter="true"),
        with_config(method="dpo", dpo_args={"beta": "0.2"}),
    ],
)
def test_values_that_no_rule_forbids_are_accepted(given):
    check_values(FinetuneValues, given)


def test_a_run_that_can_not_be_resumed_is_a_notice():
    notices: list[str] = []
    check_values(FinetuneValues, finetune(save_strategy=False), notice=notices.append)
    assert (
        f"{ARGS}.save_strategy is no: a relaunch finds no checkpoint and trains from the start,"
        " unless SIGTERM saved one"
    ) in notices


def test_held_out_rows_without_an_evaluation_are_a_notice():
    notices: list[str] = []
    check_values(FinetuneValues, FINETUNE, notice=notices.append)
    assert notices == ["data_conf.validation_data (AUTO_SPLIT) is not evaluated: training_args.eval_strategy is no"]


def test_a_total_batch_has_the_largest_micro_batch_under_the_cap():
    sizes = resolve_batch_sizes(48, 4, 8)
    assert (sizes.total, sizes.per_device, sizes.accumulation) == (48, 6, 2)


def test_no_total_is_one_conversation_for_each_process():
    sizes = resolve_batch_sizes(None, 8, 4)
    assert (sizes.total, sizes.per_device, sizes.accumulation) == (8, 1, 1)


def test_an_impossible_total_names_the_nearest_possible_ones():
    with pytest.raises(InvalidValuesError) as caught:
        resolve_batch_sizes(10, 8, 1)
    assert str(caught.value) == (
        f"{BATCH}: can't be shared evenly by 8 processes (given: '10'); allowed: a multiple of 8; nearest: 8 or 16."
    )
    assert caught.value.hint == f"--set {BATCH}=8"
    with pytest.raises(InvalidValuesError, match="nearest: 8"):
        resolve_batch_sizes(3, 8, 1)


@given(st.integers(1, 64), st.integers(1, 32), st.integers(1, 40))
def test_batch_sizes_multiply_to_the_total_and_none_larger_fits(steps, processes, cap):
    sizes = resolve_batch_sizes(steps * processes, processes, cap)
    assert sizes.total == steps * processes == processes * sizes.per_device * sizes.accumulation
    assert sizes.per_device <= cap
    assert not any(steps % larger == 0 for larger in range(sizes.per_device + 1, min(cap, steps) + 1))
