"""Every old key is converted as in the table, and none is ignored silently."""

from __future__ import annotations

import pytest

from lab.small_values import finetune, with_config
from tuneyard.errors import InvalidValuesError
from tuneyard.values import FinetuneValues, InferenceValues, check_values, legacy

# old name, value given, today's keys
READ = [
    ("adafactor", True, {"optim": "adafactor"}),
    ("adafactor", "false", {"optim": "adamw_torch_fused"}),
    ("evaluate_during_training", True, {"eval_strategy": "steps"}),
    ("evaluation_strategy", "epoch", {"eval_strategy": "epoch"}),
    ("evaluation_strategy", False, {"eval_strategy": "no"}),
    ("group_by_length", True, {"train_sampling_strategy": "group_by_length"}),
    ("group_by_length", False, {"train_sampling_strategy": "random"}),
    ("include_tokens_per_second", True, {"include_num_input_tokens_seen": "non_padding"}),
    ("per_gpu_eval_batch_size", 8, {"per_device_eval_batch_size": 8}),
    ("per_gpu_train_batch_size", 8, {"per_device_train_batch_size": 8}),
    ("torchdynamo", "inductor", {"torch_compile_backend": "inductor"}),
    ("warmup_ratio", 0.05, {"warmup_steps": 0.05}),
    ("warmup_ratio", "0.05", {"warmup_steps": 0.05}),
    ("xpu_backend", "gloo", {"ddp_backend": "gloo"}),
]
# old name, the value that is how it is anyway, a value that can't be had (None: every value is fine)
IDLE = [
    ("dispatch_batches", False, True),
    ("fp16_backend", "auto", "apex"),
    ("fp16_opt_level", "O1", "O2"),
    ("fsdp_min_num_params", 0, 100),
    ("fsdp_transformer_layer_cls_to_wrap", "", "LlamaDecoderLayer"),
    ("half_precision_backend", "auto", "apex"),
    ("include_inputs_for_metrics", False, True),
    ("jit_mode_eval", False, True),
    ("logging_dir", "runs/a", None),
    ("mp_parameters", "", "partitions=2"),
    ("no_cuda", False, True),
    ("overwrite_output_dir", True, None),
    ("past_index", -1, 1),
    ("ray_scope", "last", None),
    ("save_safetensors", True, False),
    ("sharded_ddp", "", "simple"),
    ("split_batches", False, True),
    ("tpu_metrics_debug", False, True),
    ("tpu_num_cores", 0, 8),
    ("use_ipex", False, True),
    ("use_legacy_prediction_loop", False, True),
    ("use_mps_device", True, None),
]
REFUSED = [
    ("max_length", 512, "sft_args.max_seq_length"),
    ("max_seq_length", 512, "sft_args.max_seq_length"),
    ("packing", True, ""),
    ("push_to_hub_model_id", "a", ""),
    ("push_to_hub_organization", "a", ""),
    ("push_to_hub_token", "hf_very_secret", "hfTokenSecret"),
]
TODAY = {"per_gpu_eval_batch_size", "per_gpu_train_batch_size"}


def test_every_old_training_argument_is_tested_here():
    tested = {old for old, *_ in (*READ, *IDLE, *REFUSED)}
    assert tested == set(legacy.TRAINING_ARGS)


@pytest.mark.parametrize(("old", "value", "today"), READ, ids=[f"{old}={value}" for old, value, _ in READ])
def test_an_old_key_is_converted_to_its_equivalent(old, value, today):
    notices: list[str] = []
    arguments = check_values(FinetuneValues, finetune(**{old: value}), notice=notices.append)
    given = arguments.finetuning_config.training_args.model_dump()
    assert {key: given[key] for key in today} == today
    assert any(line.startswith(f"training_args.{old} is read as ") for line in notices)


@pytest.mark.parametrize(("old", "value", "other"), IDLE, ids=[old for old, *_ in IDLE])
def test_an_old_key_without_effect_is_a_notice_and_one_with_an_effect_is_refused(old, value, other):
    notices: list[str] = []
    values = check_values(FinetuneValues, finetune(**{old: value}), notice=notices.append)
    assert values == check_values(FinetuneValues, finetune())
    assert any(line.startswith(f"training_args.{old} has no effect here: ") for line in notices)
    if other is None:
        return
    with pytest.raises(InvalidValuesError) as caught:
        check_values(FinetuneValues, finetune(**{old: other}))
    (problem,) = caught.value.problems
    assert problem.where == f"finetuning_config.training_args.{old}"
    assert problem.what.startswith("is not accepted here: ")
    assert problem.value


@pytest.mark.parametrize(("old", "value", "suggestion"), REFUSED, ids=[old for old, *_ in REFUSED])
def test_an_unsupported_old_key_is_refused_with_its_reason(old, value, suggestion):
    with pytest.raises(InvalidValuesError) as caught:
        check_values(FinetuneValues, finetune(**{old: value}))
    (problem,) = caught.value.problems
    assert problem.where == f"finetuning_config.training_args.{old}"
    assert problem.suggestion == suggestion
    assert "hf_very_secret" not in str(caught.value)


def test_steps_win_over_a_ratio_as_they_did_in_transformers_4():
    def warmup(**given):
        return check_values(FinetuneValues, finetune(**given)).finetuning_config.training_args.warmup_steps

    assert warmup(warmup_ratio=0.1, warmup_steps=20) == 20
    assert warmup(warmup_ratio=0.1, warmup_steps=0) == 0.1


def test_contradicting_old_and_new_keys_are_refused():
    with pytest.raises(InvalidValuesError) as caught:
        check_values(FinetuneValues, finetune(evaluation_strategy="epoch", eval_strategy="steps"))
    assert str(caught.value.problems[0]) == (
        "finetuning_config.training_args.evaluation_strategy: contradicts eval_strategy, its current name"
        " (given: 'epoch')"
    )
    agreeing = finetune(evaluation_strategy="epoch", eval_strategy="epoch")
    assert check_values(FinetuneValues, agreeing).finetuning_config.training_args.eval_strategy == "epoch"


def test_an_invalid_value_of_an_old_key_is_reported_under_that_key():
    with pytest.raises(InvalidValuesError) as caught:
        check_values(FinetuneValues, finetune(warmup_ratio="much"))
    assert str(caught.value.problems[0]) == (
        "finetuning_config.training_args.warmup_ratio: is not a number (given: 'much')"
    )


@pytest.mark.parametrize("empty", ["", [], {}, False])
def test_transformers_4_values_for_no_sharding_are_accepted(empty):
    values = check_values(FinetuneValues, finetune(fsdp=empty, deepspeed=empty, fsdp_config=empty))
    given = values.finetuning_config.training_args.to_transformers()
    assert (given["fsdp"], given["deepspeed"], given["fsdp_config"]) == (None, None, None)


def test_model_arguments_have_old_names_too():
    model_args = {
        "torch_dtype": "torch.bfloat16",
        "use_flash_attention_2": True,
        "low_cpu_mem_usage": True,
        "load_in_4bit": False,
    }
    values = check_values(FinetuneValues, with_config(run_conf={"model_args": model_args}))
    assert values.finetuning_config.run_conf.model_args == {
        "dtype": "bfloat16",
        "attn_implementation": "flash_attention_2",
    }
    for name, value in (("load_in_8bit", True), ("device_map", "auto"), ("token", "hf_very_secret")):
        with pytest.raises(InvalidValuesError) as caught:
            check_values(FinetuneValues, with_config(run_conf={"model_args": {name: value}}))
        assert caught.value.problems[0].what.startswith("is not accepted here: ")
        assert "hf_very_secret" not in str(caught.value)


def test_the_rest_of_finetuning_config_has_old_names_too():
    config = with_config(
        sft_args={"max_length": 512, "save_name_if_new_basemodel": "x"},
        quant_conf={"quantization_type": "bitsandbytes", "load_in_4bit": True},
        peft_conf={"peft_type": "LORA"},
        run_conf={"model": "/local_resources/basemodel", "use_fast_tokenizer": True},
    )
    data = config["finetuning_config"]["data_conf"]
    data["padding_side"] = "right"
    data["training_data"] |= {"type": "PRECOMPUTE_WEIGHTED_MIX", "data_type": "ChatConversation"}
    data["training_data"]["datasets"][0]["sampling_weight"] = "2"
    read = check_values(FinetuneValues, config).finetuning_config
    assert read.sft_args.max_seq_length == 512
    assert read.quant_conf.quantization_type == "bits-and-bytes"
    assert read.data_conf.training_data.datasets[0].weight == 2.0


def test_the_servers_probes_and_labels_have_old_names_too():
    values = check_values(
        InferenceValues,
        {"model": "org/name", "metadata": {"labels": {"a": "b"}}, "startupProbe": {"failureThreshold": 3}},
    )
    assert values.labels == {"a": "b"}
    assert values.probes.startup == {"failureThreshold": 3}
