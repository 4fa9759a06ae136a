"""The charts' schemas: closed, up to date, and of one mind with the models."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lab.json_schema import mistakes
from lab.missing_tools import needs
from lab.small_values import FINETUNE, finetune, with_config
from tuneyard.errors import InvalidValuesError
from tuneyard.values import (
    DeliverValues,
    FinetuneValues,
    InferenceValues,
    NamespaceValues,
    canonical_json,
    check_values,
)
from tuneyard.values.load import merge
from tuneyard.values.yaml_text import parse_yaml

ROOT = Path(__file__).resolve().parents[3]
CHARTS = {
    "k8s-namespace-setup/helm": NamespaceValues,
    "deliver-huggingface-example-resources/helm/chart": DeliverValues,
    "LLM-finetune-silogen-engine/helm/chart": FinetuneValues,
    "llm-inference-vllm/helm": InferenceValues,
}
LEAST: dict[str, dict[str, Any]] = {
    "k8s-namespace-setup/helm": {},
    "deliver-huggingface-example-resources/helm/chart": {"modelID": "a/b", "bucketModelPath": "c/d"},
    "LLM-finetune-silogen-engine/helm/chart": FINETUNE,
    "llm-inference-vllm/helm": {"model": "a/b"},
}
# Maps whose keys are their user's, or another program's.
OPEN = {
    "labels", "requests", "limits", "podSecurityContext", "customAccelerateConfig", "env", "env_vars", "model_args",
    "nodeSelector", "affinity", "peft_kwargs", "vllm_engine_args", "adapters", "startup", "liveness", "readiness",
    # maps of transformers, PEFT and TRL
    "lr_scheduler_kwargs", "gradient_checkpointing_kwargs", "liger_kernel_config", "accelerator_config", "fsdp_config",
    "auto_mapping", "rank_pattern", "alpha_pattern", "megatron_config", "loftq_config", "velora_config",
    "tokenizer_kwargs",
}  # fmt: skip


def schema_of(chart: str) -> dict[str, Any]:
    return json.loads((ROOT / "workloads" / chart / "values.schema.json").read_text())


def test_generated_files_are_up_to_date():
    command = [sys.executable, str(ROOT / "scripts" / "schemas.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("chart", CHARTS)
def test_a_schema_is_closed_at_every_level_but_in_maps_of_others_keys(chart):
    schema = schema_of(chart)

    def open_maps(node: Any, name: str):
        if isinstance(node, dict):
            kinds = node.get("type", [])
            if "object" in kinds and node.get("additionalProperties") is not False:
                yield name
            for key, inner in node.get("properties", {}).items():
                yield from open_maps(inner, key)
            for key in ("anyOf", "oneOf"):
                for inner in node.get(key, ()):
                    yield from open_maps(inner, name)

    found = set(open_maps(schema, "the values themselves"))
    for name, definition in schema.get("$defs", {}).items():
        found |= set(open_maps(definition, name))
    assert found <= OPEN


@pytest.mark.parametrize("chart", CHARTS)
def test_a_schema_accepts_the_charts_defaults_and_refuses_a_misspelt_key(chart):
    schema = schema_of(chart)
    defaults = parse_yaml((ROOT / "workloads" / chart / "values.yaml").read_text())
    values = merge(defaults, LEAST[chart])
    assert mistakes(values, schema, schema) == []
    assert mistakes({**values, "finetunigGpus": 1}, schema, schema) == [".finetunigGpus"]


@pytest.mark.parametrize("chart", CHARTS)
def test_a_schema_accepts_resolved_values(chart):
    schema = schema_of(chart)
    resolved = json.loads(canonical_json(check_values(CHARTS[chart], LEAST[chart])))
    assert mistakes(resolved, schema, schema) == []


TAKEN = [
    finetune(learning_rate="5e-5", seed="7", bf16="true", save_strategy=False, eval_steps="0.2", warmup_ratio=0.1),
    finetune(report_to=["none"], lr_scheduler_kwargs='{"min_lr": 1}', evaluation_strategy="no", seed=None),
    finetune(include_num_input_tokens_seen=False, torch_empty_cache_steps=None),
    with_config(peft_conf={"peft_type": "LORA", "peft_kwargs": {"r": "16", "lora_alpha": 16.0}}),
    with_config(peft_conf={"peft_type": "LOHA", "peft_kwargs": {"anything": 1}}),
    with_config(run_conf={"resume_from_checkpoint": "true", "model_args": {"torch_dtype": "bfloat16"}}),
    with_config(sft_args={"max_length": 512}),
    {**FINETUNE, "finetuningGpus": "8", "env": {"A": 1, "B": True, "C": {"name": "x", "key": "y"}}, "labels": {"a": 1}},
    {**FINETUNE, "env": [{"name": "A", "value": "1"}], "gpuResource": "", "mergeAdapter": "no"},
]
# a list of variables is open, so that Kubernetes may add to it; all else below is refused by both
REFUSED = [
    finetune(lerning_rate=1),
    finetune(seed=True),
    finetune(learning_rate="fast"),
    finetune(save_strategy="stps"),
    finetune(bf16="maybe"),
    finetune(max_seq_length=5),
    with_config(peft_conf={"peft_type": "LORA", "peft_kwargs": {"rnk": 16}}),
    with_config(peft_conf={"peft_type": "VERA", "peft_kwargs": {"anything": 1}}),
    with_config(sft_args={"max_seq_length": 1}),
    {**FINETUNE, "finetuningGpus": 0},
    {**FINETUNE, "basemodel": "x"},
    {**FINETUNE, "labels": {"a b": "c"}},
    {**FINETUNE, "env": {"A": {"name": "x"}}},
    {**FINETUNE, "downloadsReservedSize": "many"},
    {"finetuning_config": FINETUNE["finetuning_config"]},
]


@pytest.mark.parametrize("given", TAKEN)
def test_the_schema_accepts_what_the_models_accept(given):
    schema = schema_of("LLM-finetune-silogen-engine/helm/chart")
    check_values(FinetuneValues, given)
    assert mistakes(given, schema, schema) == []


@pytest.mark.parametrize("given", REFUSED)
def test_the_schema_refuses_what_the_models_refuse_by_type(given):
    schema = schema_of("LLM-finetune-silogen-engine/helm/chart")
    with pytest.raises(InvalidValuesError):
        check_values(FinetuneValues, given)
    assert mistakes(given, schema, schema)


def test_the_reference_names_every_key():
    text = (ROOT / "docs" / "reference" / "values.md").read_text()
    for model in CHARTS.values():
        for name in model.model_fields:
            assert f"| `{name}`" in text
    for name in FinetuneValues.model_fields["finetuning_config"].annotation.model_fields:
        assert f"| `finetuning_config.{name}`" in text
    for name in ("`warmup_steps`", "`warmup_ratio`", "`beta`", "`torch_dtype`"):
        assert name in text


@needs("helm")
@pytest.mark.parametrize("chart", CHARTS)
def test_helm_itself_reads_the_schema(chart, tmp_path):
    place = ROOT / "workloads" / chart
    (tmp_path / "templates").mkdir()
    (tmp_path / "Chart.yaml").write_text("apiVersion: v2\nname: x\nversion: 0.1.0\n")
    for name in ("values.yaml", "values.schema.json"):
        shutil.copy(place / name, tmp_path / name)
    values = tmp_path / "given.json"
    values.write_text(json.dumps(LEAST[chart]))
    command = ["helm", "template", str(tmp_path), "-f", str(values)]
    environment = {**os.environ, "HELM_CACHE_HOME": str(tmp_path / "cache")}
    taken = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert taken.returncode == 0, taken.stderr
    refused = subprocess.run([*command, "--set", "misspelt=1"], capture_output=True, text=True, env=environment)
    assert refused.returncode != 0
    assert "misspelt" in refused.stderr
