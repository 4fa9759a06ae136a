"""Every values file in the repository loads, and the walkthrough's agree with its facts."""

from __future__ import annotations

from pathlib import Path

import pytest

from tuneyard.values import DeliverValues, FinetuneValues, InferenceValues, NamespaceValues, load_values

WORKLOADS = Path(__file__).resolve().parents[3] / "workloads"
MODELS = {
    "k8s-namespace-setup": NamespaceValues,
    "deliver-huggingface-example-resources": DeliverValues,
    "LLM-finetune-silogen-engine": FinetuneValues,
    "llm-inference-vllm": InferenceValues,
}
# What a chart's defaults leave to its user.
MISSING = {
    "deliver-huggingface-example-resources": ["modelID=org/name", "bucketModelPath=default-bucket/models/name"],
    "LLM-finetune-silogen-engine": [
        "basemodel=default-bucket/models/name",
        "finetuning_config.data_conf.training_data.datasets[0].path=default-bucket/datasets/rows.jsonl",
    ],
    "llm-inference-vllm": ["model=org/name"],
}
# `values*.yaml` and overrides; templates and chart files are no values.
SHIPPED = sorted(
    path
    for path in WORKLOADS.rglob("*.yaml")
    if path.name == "values.yaml" or (path.parent.name == "overrides" and path.parent.parent.name == "helm")
)
STORE = "https://minio.minio-tenant-default.svc.cluster.local:443"
TINY_LLAMA = "default-bucket/models/tiny-llama_tinyllama-1.1b-chat-v1.0"


def chart_of(path: Path) -> str:
    return path.relative_to(WORKLOADS).parts[0]


def override(name: str, *sets: str):
    (path,) = [path for path in SHIPPED if path.name == f"tutorial-01-{name}.yaml"]
    return load_values(MODELS[chart_of(path)], [path], sets)


def test_the_walkthroughs_files_exist():
    names = {path.name for path in SHIPPED}
    assert len(SHIPPED) >= 10
    assert {
        "tutorial-01-local-queue.yaml",
        "tutorial-01-storage-access-external-secret.yaml",
        "tutorial-01-tiny-llama-argilla.yaml",
        "tutorial-01-finetune-lora.yaml",
        "tutorial-01-finetune-full-param.yaml",
        "tutorial-01-inference.yaml",
    } <= names


@pytest.mark.parametrize("path", SHIPPED, ids=[str(path.relative_to(WORKLOADS)) for path in SHIPPED])
def test_a_shipped_file_loads(path):
    model = MODELS[chart_of(path)]
    sets = MISSING.get(chart_of(path), []) if path.name == "values.yaml" else []
    if path.name == "tutorial-01-inference.yaml":
        sets = ["model=s3://default-bucket/experiments/a/checkpoint-final"]
    assert isinstance(load_values(model, [path], sets), model)


@pytest.mark.parametrize("chart", MODELS)
def test_a_charts_default_file_equals_the_models_defaults(chart):
    (path,) = [path for path in SHIPPED if path.name == "values.yaml" and chart_of(path) == chart]
    sets = MISSING.get(chart, [])
    assert load_values(MODELS[chart], [path], sets) == load_values(MODELS[chart], [], sets)


def test_the_second_path_of_the_finetuning_overrides_is_a_link_to_the_first():
    chart = WORKLOADS / "LLM-finetune-silogen-engine"
    assert (chart / "overrides").is_symlink()
    assert (chart / "overrides" / "tutorial-01-finetune-lora.yaml").samefile(
        chart / "helm" / "overrides" / "tutorial-01-finetune-lora.yaml"
    )


def test_the_namespace_files_name_queue_store_and_secret():
    queue = override("local-queue")
    assert (queue.kueue.setup, queue.kueue.cluster_queue_name, queue.external_secret.setup) == (True, "kaiwo", False)
    secret = override("storage-access-external-secret").external_secret
    assert (secret.setup, secret.external_secret_name) == (True, "minio-credentials-fetcher")
    assert secret.src.model_dump() == {
        "secret_store_name": "k8s-secret-store",
        "remote_secret_name": "default-user",
        "access_key_name": "API_ACCESS_KEY",
        "secret_key_name": "API_SECRET_KEY",
    }
    assert secret.dest.model_dump() == {
        "k8s_secret_name": "minio-credentials",
        "access_key_name": "API_ACCESS_KEY",
        "secret_key_name": "API_SECRET_KEY",
    }


def test_the_delivery_file_agrees_with_the_walkthrough():
    values = override("tiny-llama-argilla")
    assert values.labels == {"kueue.x-k8s.io/queue-name": "kaiwo"}
    assert values.modelID == "TinyLlama/TinyLlama-1.1B-Chat-v1.0"
    assert values.bucketModelPath == TINY_LLAMA
    assert values.downloadExcludeGlob == ["original/*"]
    assert values.bucketDataDir == "default-bucket/datasets"
    assert values.bucketStorageHost == STORE
    assert values.bucketCredentialsSecret.name == "minio-credentials"
    assert (values.storageClass, values.storageQuantity, values.allowOverwrite) == ("mlstorage", "10Gi", False)
    for fact in (
        'load_dataset("argilla/10k_prompts_ranked_mistral_large_responses", split="train")',
        'row["kind"] != "human"',
        'row["generation_prompt"][0]',
        'row["generations"][0]',
        "/downloads/datasets/argilla-mistral-large-human-prompts.jsonl",
    ):
        assert fact in values.dataScript


def test_the_lora_file_agrees_with_the_walkthrough():
    values = override("finetune-lora")
    assert (values.finetuningGpus, values.mergeAdapter, values.basemodel) == (1, False, TINY_LLAMA)
    assert values.labels == {"kueue.x-k8s.io/queue-name": "kaiwo"}
    assert (values.downloadsReservedSize, values.checkpointsReservedSize) == ("50Gi", "50Gi")
    config = values.finetuning_config
    assert config.method == "sft"
    assert config.data_conf.training_data.type == "CONCATENATION"
    assert [one.path for one in config.data_conf.training_data.datasets] == [
        "default-bucket/datasets/argilla-mistral-large-human-prompts.jsonl"
    ]
    assert (config.data_conf.validation_data.type, config.data_conf.validation_data.ratio) == ("AUTO_SPLIT", 0.1)
    assert config.data_conf.chat_template_name == "chat-ml"
    assert config.data_conf.missing_pad_token_strategy == "bos-repurpose"
    expected = {
        "learning_rate": 5e-5,
        "max_grad_norm": 7.0,
        "weight_decay": 1e-6,
        "optim": "adamw_torch",
        "num_train_epochs": 1.0,
        "lr_scheduler_type": "cosine",
        "warmup_steps": 0.01,
        "logging_steps": 0.01,
        "eval_strategy": "steps",
        "eval_steps": 0.2,
        "save_strategy": "best",
        "metric_for_best_model": "loss",
        "load_best_model_at_end": True,
        "seed": 42,
        "bf16": True,
        "gradient_checkpointing": False,
        "report_to": ["none"],
    }
    given = config.training_args.to_transformers()
    assert {key: given[key] for key in expected} == expected
    assert config.batchsize_conf.model_dump() == {
        "total_train_batch_size": None,
        "max_per_device_train_batch_size": 1,
        "per_device_eval_batch_size": None,
    }
    assert config.peft_conf.model_dump() == {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "peft_kwargs": {
            "r": 64,
            "lora_alpha": 16,
            "lora_dropout": 0.05,
            "target_modules": ["q_proj", "k_proj", "v_proj", "o_proj", "up_proj", "down_proj", "gate_proj"],
        },
    }
    assert config.run_conf.model_args == {
        "dtype": "bfloat16",
        "use_cache": False,
        "attn_implementation": "flash_attention_2",
    }
    assert config.run_conf.resume_from_checkpoint == "auto"
    assert config.sft_args.max_seq_length == 2048


def test_the_full_parameter_file_differs_as_in_the_walkthrough():
    values = override("finetune-full-param")
    assert (values.finetuningGpus, values.distributedType) == (8, "auto-deepspeed-stage1")
    assert (values.downloadsReservedSize, values.checkpointsReservedSize) == ("64Gi", "128Gi")
    config = values.finetuning_config
    arguments = config.training_args
    assert (arguments.weight_decay, arguments.warmup_steps) == (1e-5, 0.05)
    assert (arguments.save_strategy, arguments.load_best_model_at_end) == ("no", False)
    assert config.batchsize_conf.total_train_batch_size == 8
    assert config.peft_conf.peft_type == "NO_PEFT"


def test_the_walkthroughs_own_sets_are_accepted():
    sweep = override(
        "finetune-lora",
        "finetuning_config.peft_conf.peft_kwargs.r=4",
        "checkpointsRemote=default-bucket/experiments/tiny-llama-argilla-r-sweep-alpha-4",
    )
    assert sweep.finetuning_config.peft_conf.peft_kwargs["r"] == 4
    assert sweep.checkpointsRemote == "default-bucket/experiments/tiny-llama-argilla-r-sweep-alpha-4"
    assert override("finetune-lora", "mergeAdapter=true").mergeAdapter is True
    single = override("finetune-full-param", "finetuningGpus=1")
    assert (single.processes, single.finetuning_config.batchsize_conf.total_train_batch_size) == (1, 8)
    name = "tiny-llama-argilla-v1"
    served = override(
        "inference",
        f"model=s3://default-bucket/experiments/{name}/checkpoint-final",
        f"vllm_engine_args.served_model_name={name}",
    )
    assert served.model == f"s3://default-bucket/experiments/{name}/checkpoint-final"
    assert served.vllm_engine_args == {"served_model_name": name}
    assert (served.bucket_storage.host, served.storage.storageClassName) == (STORE, "mlstorage")
    assert served.hf_token.secret_name == ""
