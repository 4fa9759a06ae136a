"""For each finetuning key that `chart_keys` does not cover: how a test shows that it has an effect."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

CONFIG = "finetuning_config."
ARGS = f"{CONFIG}training_args."
DATA = f"{CONFIG}data_conf."
ROWS = f"{DATA}rows."
ODD = "default-bucket/datasets/odd.jsonl"
PAIRS = "default-bucket/datasets/pairs.jsonl"


@dataclass(frozen=True)
class Works:
    """The value changes what a training does.

    Attributes:
        value: Of the key.
        beside: Values by dotted path; where there are any, the value alone does nothing or is refused.
        until: The step to end the training at; 0 for a whole one.
        given: What changes, where that is not the key itself (an entry of a list).
    """

    value: Any = None
    beside: Mapping[str, Any] = field(default_factory=dict)
    until: int = 2
    given: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Waits(Works):
    """As `Works`; without the values beside it, a notice reports that it has no effect."""


@dataclass(frozen=True)
class Refused:
    """The value is refused by name with exit code 3, when values are read or before the training starts."""

    value: Any
    beside: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Already:
    """The value states what happens anyway.

    Attributes:
        value: The value.
        why: How it is done.
        beside: Values by dotted path.
    """

    value: Any
    why: str
    beside: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Elsewhere:
    """Its effect needs several processes, a server or a whole launch: the test that shows it."""

    test: str


@dataclass(frozen=True)
class Lacks(Refused):
    """As `Refused`, for lack of a package, beside the other values; alone, a notice reports that it has no effect."""


@dataclass(frozen=True)
class Exchange(Waits):
    """As `Waits`, in a training whose process exchanges gradients, even if only with itself."""


EVALUATES = {
    ARGS + "eval_strategy": "steps",
    ARGS + "eval_steps": 1,
    DATA + "validation_data": {"type": "AUTO_SPLIT", "ratio": 0.25},
}
SAVES = {ARGS + "save_strategy": "steps", ARGS + "save_steps": 1}
BEST = {**EVALUATES, **SAVES, ARGS + "load_best_model_at_end": True, ARGS + "max_steps": 2}
WORST = {**BEST, ARGS + "metric_for_best_model": "loss", ARGS + "greater_is_better": True}
LORA = {
    "peft_type": "LORA",
    "peft_kwargs": {"r": 4, "lora_alpha": 8, "lora_dropout": 0.1, "target_modules": ["q_proj", "down_proj"]},
}
DPO = {
    CONFIG + "method": "dpo",
    CONFIG + "sft_args": None,
    CONFIG + "peft_conf": LORA,
    DATA + "training_data": {"datasets": [{"path": PAIRS}]},
}
CHAT = "default-bucket/datasets/chat.jsonl"
TWO = {DATA + "training_data": {"datasets": [{"path": ODD}, {"path": CHAT}]}, ROWS + "unusable": "drop"}
MIX = {**TWO, DATA + "training_data.type": "PRECOMPUTE_WEIGHTED_MIX"}
DROP_ODD = {
    DATA + "training_data": {"datasets": [{"path": ODD}]},
    CONFIG + "sft_args": {"max_seq_length": 128},
    ROWS + "unusable": "drop",
}
FILES = {**EVALUATES, DATA + "validation_data": {"type": "CONCATENATION", "datasets": [{"path": ODD}]}}
QUANTIZATION = (
    "load_in_8bit",
    "load_in_4bit",
    "llm_int8_threshold",
    "llm_int8_skip_modules",
    "llm_int8_has_fp16_weight",
    "bnb_4bit_compute_dtype",
    "bnb_4bit_quant_type",
    "bnb_4bit_use_double_quant",
    "bnb_4bit_quant_storage",
)
TRACKER = {CONFIG + "tracking": {"mlflow_server_uri": "http://mlflow", "experiment_name": "a"}}

KEYS: dict[str, Works | Refused | Already | Elsewhere] = {
    "basemodel": Works("default-bucket/models/other"),
    "checkpointsRemote": Elsewhere("tests/integration/train/test_training_settings.py"),
    "distributedType": Elsewhere("tests/integration/train/test_sharded_weights.py"),
    "customAccelerateConfig": Elsewhere("tests/integration/train/test_sharded_weights.py"),
    "mergeAdapter": Works(True, {CONFIG + "peft_conf": LORA, ARGS + "max_steps": 1}, until=0),
    "runTensorboard": Works(True),
    CONFIG + "method": Works("dpo", {name: value for name, value in DPO.items() if name != CONFIG + "method"}),
    # ---- data
    DATA + "training_data.type": Works("PRECOMPUTE_WEIGHTED_MIX", TWO),
    DATA + "training_data.datasets": Works([{"path": PAIRS}]),
    DATA + "training_data.datasets[].path": Works(given={DATA + "training_data.datasets": [{"path": PAIRS}]}),
    DATA + "training_data.datasets[].format": Works(
        given={DATA + "training_data.datasets": [{"path": CHAT, "format": "alpaca"}]}
    ),
    DATA + "training_data.datasets[].weight": Works(
        given={DATA + "training_data.datasets": [{"path": ODD, "weight": 9}, {"path": CHAT}]}, beside=MIX
    ),
    DATA + "training_data.seed": Waits(1, MIX),
    DATA + "validation_data.type": Works("NONE", {DATA + "validation_data": {"type": "AUTO_SPLIT", "ratio": 0.25}}),
    DATA + "validation_data.ratio": Works(0.5, {DATA + "validation_data.type": "AUTO_SPLIT"}),
    DATA + "validation_data.seed": Works(1, {DATA + "validation_data.type": "AUTO_SPLIT"}),
    DATA + "validation_data.datasets": Works([{"path": CHAT}], {**FILES, ROWS + "unusable": "drop"}),
    DATA + "validation_data.datasets[].path": Works(
        given={DATA + "validation_data.datasets": [{"path": CHAT}]}, beside={**FILES, ROWS + "unusable": "drop"}
    ),
    DATA + "validation_data.datasets[].format": Works(
        given={DATA + "validation_data.datasets": [{"path": CHAT, "format": "alpaca"}]},
        beside={**EVALUATES, DATA + "validation_data": {"type": "CONCATENATION", "datasets": [{"path": CHAT}]}},
    ),
    DATA + "validation_data.datasets[].weight": Refused(
        None, {DATA + "validation_data": {"type": "CONCATENATION", "datasets": [{"path": ODD, "weight": 2}]}}
    ),
    ROWS + "unusable": Works("drop", {DATA + "training_data": {"datasets": [{"path": ODD}]}}),
    ROWS + "overlong": Works("truncate", DROP_ODD),
    ROWS + "cut_answers": Works("drop", {**DROP_ODD, ROWS + "overlong": "truncate"}),
    ROWS + "special_tokens": Works("keep", DROP_ODD),
    ROWS + "duplicates": Works("drop", DROP_ODD),
    ROWS + "near_duplicates": Works("drop", DROP_ODD),
    ROWS + "leaked": Works("drop", {**DROP_ODD, **FILES}),
    ROWS + "similarity": Waits(1.0, {**DROP_ODD, ROWS + "near_duplicates": "drop"}),
    DATA + "chat_template_name": Works("chat-ml"),
    DATA + "missing_pad_token_strategy": Elsewhere("tests/unit/data/test_data_tokenizer.py"),
    # ---- batch, adapter, model
    CONFIG + "batchsize_conf.total_train_batch_size": Works(1),
    CONFIG + "batchsize_conf.max_per_device_train_batch_size": Works(2),
    CONFIG + "batchsize_conf.per_device_eval_batch_size": Waits(2, EVALUATES),
    CONFIG + "peft_conf.peft_type": Works("LORA"),
    CONFIG + "peft_conf.task_type": Refused("SEQ_CLS"),
    CONFIG + "peft_conf.peft_kwargs": Waits({"r": 2}, {CONFIG + "peft_conf": {"peft_type": "LORA"}}),
    CONFIG + "quant_conf.quantization_type": Elsewhere("tests/unit/network/test_quantization.py"),
    **{f"{CONFIG}quant_conf.{name}": Elsewhere("tests/unit/network/test_quantization.py") for name in QUANTIZATION},
    CONFIG + "quant_conf.llm_int8_enable_fp32_cpu_offload": Refused(True),
    CONFIG + "run_conf.model_args": Works({"attention_dropout": 0.3}),
    CONFIG + "run_conf.trained_weights": Works(
        "as-loaded", {CONFIG + "run_conf.model_args": {"dtype": "bfloat16"}}, until=1
    ),
    CONFIG + "run_conf.resume_from_checkpoint": Works(True),
    CONFIG + "sft_args.max_seq_length": Works(16),
    CONFIG + "sft_args.train_on_completions_only": Works(False),
    # ---- preferences
    **{
        f"{CONFIG}dpo_args.{name}": Works(value, DPO)
        for name, value in {
            "beta": 0.7,
            "label_smoothing": 0.3,
            "loss_type": "ipo",
            "max_length": 12,
            "disable_dropout": False,
        }.items()
    },
    CONFIG + "dpo_args.loss_weights": Works([0.5], DPO),
    CONFIG + "dpo_args.padding_free": Already(True, "rows are laid end to end", DPO),
    CONFIG + "dpo_args.precompute_ref_log_probs": Already(True, "the reference is always precomputed", DPO),
    **{
        f"{CONFIG}dpo_args.{name}": Refused(value, DPO)
        for name, value in {
            "model_init_kwargs": {"a": 1},
            "trust_remote_code": True,
            "router_aux_loss_coef": 0.1,
            "dataset_num_proc": 2,
            "truncation_mode": "keep_end",
            "pad_to_multiple_of": 8,
            "precompute_ref_batch_size": 2,
            "ld_alpha": 0.5,
            "f_divergence_type": "js_divergence",
            "f_alpha_divergence_coef": 0.3,
            "use_weighting": True,
            "discopop_tau": 0.1,
            "activation_offloading": True,
            "sync_ref_model": True,
            "ref_model_mixup_alpha": 0.3,
            "ref_model_sync_steps": 8,
            "pad_token": "<pad>",
        }.items()
    },
    CONFIG + "overrides.lr_multiplier": Works(0.5),
    CONFIG + "overrides.lr_batch_size_scaling": Works("sqrt"),
    CONFIG + "early_stopping.early_stopping_patience": Works(
        3, {**EVALUATES, ARGS + "metric_for_best_model": "loss", CONFIG + "early_stopping": {}}
    ),
    CONFIG + "early_stopping.early_stopping_threshold": Works(
        0.1, {**EVALUATES, ARGS + "metric_for_best_model": "loss", CONFIG + "early_stopping": {}}
    ),
    **{
        f"{CONFIG}tracking.{name}": Elsewhere("tests/integration/train/test_tracking.py")
        for name in ("mlflow_server_uri", "experiment_name", "run_id", "run_name")
    },
    CONFIG + "tracking.hf_mlflow_log_artifacts": Refused("true", TRACKER),
}

WORKING = {
    "num_train_epochs": Works(2),
    "max_steps": Works(3),
    "learning_rate": Works(1e-3),
    "lr_scheduler_type": Works("cosine"),
    "lr_scheduler_kwargs": Works({"num_cycles": 2}, {ARGS + "lr_scheduler_type": "cosine_with_restarts"}),
    "warmup_steps": Works(2),
    "optim": Works("sgd"),
    "optim_args": Works("momentum=0.5", {ARGS + "optim": "sgd"}),
    "weight_decay": Works(0.1),
    "adam_beta1": Works(0.5),
    "adam_beta2": Works(0.5),
    "adam_epsilon": Works(1e-3),
    "max_grad_norm": Works(0.01),
    "label_smoothing_factor": Works(0.1),
    "bf16": Works(True),
    "gradient_checkpointing": Works(True),
    "gradient_checkpointing_kwargs": Waits({"use_reentrant": True}, {ARGS + "gradient_checkpointing": True}),
    "torch_compile": Works(True, until=1),
    "torch_compile_backend": Works("eager", until=1),
    "torch_compile_mode": Works("max-autotune", {ARGS + "torch_compile": True}, until=1),
    "neftune_noise_alpha": Works(5),
    "logging_strategy": Works("epoch"),
    "logging_steps": Works(2),
    "logging_first_step": Works(True, {ARGS + "logging_steps": 3}),
    "include_num_input_tokens_seen": Works("all"),
    "report_to": Works(["tensorboard"]),
    "eval_strategy": Works(
        "steps", {DATA + "validation_data": {"type": "AUTO_SPLIT", "ratio": 0.25}, ARGS + "eval_steps": 1}
    ),
    "eval_steps": Waits(2, {**EVALUATES, ARGS + "eval_steps": 1}),
    "eval_delay": Waits(2, EVALUATES),
    "eval_on_start": Waits(True, EVALUATES),
    "save_strategy": Works("steps", {ARGS + "save_steps": 1}),
    "save_steps": Waits(1, {ARGS + "save_strategy": "steps"}),
    "save_total_limit": Waits(1, SAVES, until=3),
    "load_best_model_at_end": Works(
        True, {name: value for name, value in WORST.items() if name != ARGS + "load_best_model_at_end"}, until=0
    ),
    "metric_for_best_model": Elsewhere("tests/integration/train/test_best_model_metrics.py"),
    "greater_is_better": Waits(True, {**BEST, ARGS + "metric_for_best_model": "loss"}, until=0),
    "full_determinism": Works(True),
    "seed": Works(8),
    "data_seed": Works(8),
    "dataloader_drop_last": Works(True, {CONFIG + "batchsize_conf.total_train_batch_size": 3}),
    "dataloader_num_workers": Works(1),
    "dataloader_persistent_workers": Works(True, {ARGS + "dataloader_num_workers": 1}),
    "dataloader_prefetch_factor": Works(3, {ARGS + "dataloader_num_workers": 1}),
    "dataloader_multiprocessing_context": Waits("fork", {ARGS + "dataloader_num_workers": 1}),
    "train_sampling_strategy": Works("sequential"),
    "ddp_find_unused_parameters": Exchange(True),
    "ddp_bucket_cap_mb": Exchange(1),
    "ddp_broadcast_buffers": Exchange(False),
    "ddp_static_graph": Exchange(True),
    "ddp_timeout": Exchange(77),
    "ddp_backend": Exchange("nccl"),
    "fp16": Works(True),
    "debug": Works("underflow_overflow"),
}
OF_DEVICES = ("dataloader_pin_memory", "torch_empty_cache_steps")
"""Arguments that a CPU has no use for: there, a test can only show that the Trainer reads them."""
REFUSED = {
    "optim_target_modules": ["q_proj"],
    "use_liger_kernel": True,
    "auto_find_batch_size": True,
    "save_only_model": True,
    "ignore_data_skip": True,
    "parallelism_config": {"tp_size": 2},
}
ALREADY = {
    "do_train": Already(True, "a run trains"),
    "do_eval": Already(True, "eval_strategy evaluates", EVALUATES),
    "prediction_loss_only": Already(True, "an evaluation computes losses"),
    "remove_unused_columns": Already(False, "rows have no columns to be removed"),
    "logging_nan_inf_filter": Already(False, "a loss that is not finite ends the training"),
}

KEYS |= {f"{ARGS}{name}": case for name, case in WORKING.items()}
KEYS |= {f"{ARGS}{name}": Refused(value) for name, value in REFUSED.items()}
KEYS |= {f"{ARGS}{name}": case for name, case in ALREADY.items()}
KEYS |= {
    ARGS + "liger_kernel_config": Lacks({"rope": True}, {ARGS + "use_liger_kernel": True}),
    ARGS + "project": Lacks("other", {ARGS + "report_to": ["trackio"]}),
    ARGS + "tf32": Refused(True),
    ARGS + "average_tokens_across_devices": Elsewhere("tests/integration/train/test_uneven_processes.py"),
    ARGS + "run_name": Elsewhere("tests/integration/train/test_tracking.py"),
}
