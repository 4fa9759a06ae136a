"""Every kind of problem: its text, and that all of them are reported at once."""

# ruff: noqa: E501  (a case of a table is easier to read on its own lines)
from __future__ import annotations

import copy
import pickle
from collections.abc import Iterator, Sequence
from typing import ClassVar

import pytest

from lab.small_values import FINETUNE, finetune, with_config
from tuneyard.errors import InvalidValuesError
from tuneyard.values import (
    DeliverValues,
    FinetuneValues,
    InferenceValues,
    NamespaceValues,
    Values,
    check_values,
)
from tuneyard.values.base import Broken, Rule


def problems(model, given) -> list[str]:
    with pytest.raises(InvalidValuesError) as caught:
        check_values(model, given)
    assert caught.value.exit_code == 3
    return [str(problem) for problem in caught.value.problems]


def whole(**keys):
    return {**copy.deepcopy(FINETUNE), **keys}


ARGS = "finetuning_config.training_args"
KINDS = [
    ("misspelt", finetune(lerning_rate=1), f"{ARGS}.lerning_rate: is not a known key; did you mean"
     " learning_rate?"),
    ("unlike any", whole(kueue={}), "kueue: is not a known key"),
    ("in the wrong place", whole(learning_rate=1), "learning_rate: is not a known key; did you mean"
     f" {ARGS}.learning_rate?"),
    ("few keys", with_config(sft_args={"x": 1}), "finetuning_config.sft_args.x: is not a known key;"
     " allowed: max_seq_length, train_on_completions_only"),
    ("a word", finetune(eval_strategy="step"), f"{ARGS}.eval_strategy: is not an allowed value (given: 'step');"
     " allowed: no, steps, epoch; did you mean steps?"),
    ("a word of many", finetune(optim="adamw_torhc"), f"{ARGS}.optim: is not an allowed value (given:"
     " 'adamw_torhc'); did you mean adamw_torch?"),
    ("a number", finetune(learning_rate="fast"), f"{ARGS}.learning_rate: is not a number (given: 'fast')"),
    ("a truth value as number", finetune(seed=True), f"{ARGS}.seed: is a boolean where a number is expected (given:"
     " 'true')"),
    ("infinite", finetune(learning_rate="inf"), f"{ARGS}.learning_rate: is not a finite number (given: 'inf')"),
    ("a whole number", finetune(seed="1.5"), f"{ARGS}.seed: is not an integer (given: '1.5')"),
    ("a fraction", finetune(seed=1.5), f"{ARGS}.seed: is not an integer (given: '1.5')"),
    ("a truth value", finetune(bf16="maybe"), f"{ARGS}.bf16: is not a boolean (given: 'maybe'); allowed: true or"
     " false"),
    ("text", finetune(run_name=["a"]), f"{ARGS}.run_name: is not a string (given: '['a']')"),
    ("text with decimals", whole(queueName=1.1), "queueName: is not a string: quote it, since YAML may have changed it (given: '1.1')"),
    ("a list", whole(imagePullSecrets="a"), "imagePullSecrets: is not a list (given: 'a'); allowed: a list of items"),
    ("a map", whole(resources="a"), "resources: is not a map (given: 'a'); allowed: keys and values"),
    ("a path", finetune(lr_scheduler_kwargs="a.json"), f"{ARGS}.lr_scheduler_kwargs: is neither a map nor a JSON object as text; a file path is not accepted (given: 'a.json')"),
    ("too small", whole(finetuningGpus=0), "finetuningGpus: is out of range (given: '0'); allowed: 1 or more"),
    ("a ratio", with_config(data_conf={"training_data": {"datasets": [{"path": "a/b"}]}, "validation_data": {"ratio": 1}
     }), "finetuning_config.data_conf.validation_data.ratio: is out of range (given: '1'); allowed: less than 1"),
    ("a quantity", whole(downloadsReservedSize="50GB"), "downloadsReservedSize: is not a valid Kubernetes quantity (given: '50GB');"
     " allowed: a number with a unit, as in 10Gi or 500m"),
    ("a name", whole(bucketCredentialsSecret={"name": "A_b"}), "bucketCredentialsSecret.name: is not a valid Kubernetes name (given: 'A_b'); allowed: lower case letters, digits, '-' and '.', as in minio-credentials"),
    ("a label's key", whole(labels={"a b": "c"}), "labels.a b: is not a valid label key (given: 'a b'); allowed: letters,"
     " digits, '-', '_' and '.', with or without a domain before a '/', as in kueue.x-k8s.io/queue-name"),
    ("a label's value", whole(labels={"x.y/z": "a b"}), r"labels.x\.y/z: is not a valid label value (given: 'a b'); allowed:"
     " at most 63 letters, digits, '-', '_' and '.'"),
    ("a place", whole(basemodel="/models/x"), "basemodel: is not a path in a bucket (given: '/models/x'); allowed:"
     " bucket/path, as in default-bucket/models/x"),
    ("a place upwards", whole(checkpointsRemote="a/../b"), "checkpointsRemote: is not a path in a bucket (given:"
     " 'a/../b'); allowed: bucket/path, as in default-bucket/models/x"),
    ("a store", whole(bucketStorageHost="minio:9000"), "bucketStorageHost: is neither a URL nor clearly a path"
     " (given: 'minio:9000'); allowed: https://host:port, http://host:port or file:///folder; empty for none;"
     " did you mean https://minio:9000?"),
    ("a store with its bucket", whole(bucketStorageHost="https://minio:9000/b"), "bucketStorageHost: names more than a"
     " server (given: 'https://minio:9000/b'); allowed: https://host:port, http://host:port or file:///folder; empty for"
     " none; did you mean https://minio:9000?"),
    ("a store's path", whole(bucketStorageHost="/srv/store"), "bucketStorageHost: is not a complete URL (given:"
     " '/srv/store'); allowed: https://host:port, http://host:port or file:///folder; empty for none; did you mean"
     " file:///srv/store?"),
    ("a store's keys", whole(bucketStorageHost="https://me:hush@minio"), "bucketStorageHost: contains credentials;"
     " allowed: https://host:port, http://host:port or file:///folder; empty for none"),
    ("an accelerator", whole(gpuResource="gpu"), "gpuResource: is not a valid extended resource name (given: 'gpu'); allowed:"
     " amd.com/gpu, nvidia.com/gpu or another domain/name; empty for the CPU"),
    ("LoRA's argument", with_config(peft_conf={"peft_type": "LORA", "peft_kwargs": {"lora_alpa": 1}}),
     "finetuning_config.peft_conf.peft_kwargs.lora_alpa: is not a known key; did you mean lora_alpha?"),
    ("LoRA's rank", with_config(peft_conf={"peft_type": "LORA", "peft_kwargs": {"r": 0}}),
     "finetuning_config.peft_conf.peft_kwargs.r: is out of range (given: '0'); allowed: 1 or more"),
]  # fmt: skip


@pytest.mark.parametrize(("given", "text"), [case[1:] for case in KINDS], ids=[case[0] for case in KINDS])
def test_a_problem_has_its_place_reason_value_and_allowed_values(given, text):
    assert problems(FinetuneValues, given) == [text]


def test_a_missing_required_key_is_named():
    assert problems(FinetuneValues, {}) == [
        "basemodel: is missing",
        "finetuning_config.data_conf.training_data.datasets: is empty: set at least one file of conversations;"
        " allowed: [{path: bucket/key}]",
    ]
    assert problems(InferenceValues, {}) == ["model: is missing"]


def test_a_model_is_named_in_one_of_three_ways():
    allowed = "a Hub id (org/name), a path in the store (s3://bucket/path) or a folder (/path or ./path)"
    assert problems(InferenceValues, {"model": "a/b/c"}) == [
        f"model: is not a model (given: 'a/b/c'); allowed: {allowed}"
    ]


def test_problems_of_every_kind_are_reported_together():
    given = {
        "finetuningGpus": 8,
        "labels": {"a b": "c"},
        "finetuning_config": {
            "methd": "sft",
            "data_conf": {"training_data": {"datasets": [{"path": "nowhere", "wieght": 1}]}},
            "batchsize_conf": {"total_train_batch_size": 12},
            "training_args": {
                "warmup_ratio": "x",
                "save_safetensors": False,
                "seed": True,
                "bf16": True,
                "fp16": True,
                "save_strategy": "best",
            },
            "peft_conf": {"peft_type": "LORA", "peft_kwargs": {"rank": 4, "r": "x"}},
        },
    }
    found = problems(FinetuneValues, given)
    where = {text.split(": ")[0] for text in found}
    config = "finetuning_config"
    assert where == {
        "labels.a b",
        "basemodel",
        f"{config}.methd",
        f"{config}.data_conf.training_data.datasets[0].path",
        f"{config}.data_conf.training_data.datasets[0].wieght",
        f"{config}.training_args.warmup_ratio",
        f"{config}.training_args.save_safetensors",
        f"{config}.training_args.seed",
        f"{config}.training_args.fp16",
        f"{config}.training_args.save_strategy",
        f"{config}.training_args.metric_for_best_model",
        f"{config}.peft_conf.peft_kwargs.rank",
        f"{config}.peft_conf.peft_kwargs.r",
        f"{config}.batchsize_conf.total_train_batch_size",
    }
    assert len(found) == len(where)


def test_refused_old_spelling_hides_no_other_problem_of_its_map():
    found = problems(FinetuneValues, finetune(save_safetensors=False, lerning_rate=1, seed="x", warmup_steps=-1))
    assert sorted(text.split(":")[0].removeprefix(f"{ARGS}.") for text in found) == [
        "lerning_rate",
        "save_safetensors",
        "seed",
        "warmup_steps",
    ]


def test_rules_around_a_missing_required_key_are_checked():
    given = with_config(
        data_conf={"training_data": {"datasets": [{"weight": 2}, {"weight": 3, "path": "a/b"}]}},
        tracking={"experiment_name": "e", "hf_mlflow_log_artifacts": True},
    )
    assert [text.split(":")[0].removeprefix("finetuning_config.") for text in problems(FinetuneValues, given)] == [
        "data_conf.training_data.datasets[0].path",
        "tracking.mlflow_server_uri",
        "data_conf.training_data.datasets[0].weight",
        "data_conf.training_data.datasets[1].weight",
        "tracking.hf_mlflow_log_artifacts",
    ]


def path_is_short(pair: Pair) -> Iterator[Broken]:
    if len(pair.path) > 3:
        yield Broken("path", "is long", pair.path)


def count_is_even(pair: Pair) -> Iterator[Broken]:
    if pair.count % 2:
        yield Broken("count", "is odd", str(pair.count))


class Pair(Values):
    checks: ClassVar[Sequence[Rule]] = (path_is_short, count_is_even)

    path: str
    count: int = 0


def test_rule_about_a_missing_required_key_is_skipped():
    assert problems(Pair, {"count": 1}) == ["path: is missing", "count: is odd (given: '1')"]


def test_problem_in_one_item_hides_none_in_another():
    given = whole(env={"A": ["x"], "B": {"key": "k"}, "1C": "x"})
    assert [text.split(":")[0] for text in problems(FinetuneValues, given)] == ["env.A", "env.B.name", "env.1C"]


def test_refused_model_argument_is_named_with_its_whole_path():
    (text,) = problems(FinetuneValues, with_config(run_conf={"model_args": {"device_map": "auto"}}))
    assert text.startswith("finetuning_config.run_conf.model_args.device_map: ")


def test_a_consequence_of_a_problem_is_not_a_second_problem():
    # with the default eval_strategy, there would be no best model either
    found = problems(FinetuneValues, finetune(eval_strategy="stps", save_strategy="best", metric_for_best_model="loss"))
    assert [text.split(":")[0] for text in found] == [f"{ARGS}.eval_strategy"]


def test_values_that_may_be_secret_are_not_repeated():
    given = finetune(hub_token="hf_very_secret")
    given["env"] = {"SOME_TOKEN": ["hf_very_secret"], "OTHER": {"key": "hf_very_secret"}}
    with pytest.raises(InvalidValuesError) as caught:
        check_values(FinetuneValues, given)
    assert len(caught.value.problems) == 3
    assert "hf_very_secret" not in str(caught.value)
    assert "hf_very_secret" not in repr(caught.value.problems)


def test_a_long_value_is_shortened():
    (text,) = problems(FinetuneValues, finetune(run_name=["x" * 500]))
    assert len(text) < 200
    assert text.endswith("…')")


def test_a_delivery_without_source_or_destination_is_refused():
    assert problems(DeliverValues, {}) == ["modelID: is empty, as is dataScript: there is nothing to deliver"]
    assert problems(DeliverValues, {"modelID": "a/b", "dataScript": "x = 1"}) == [
        "bucketModelPath: is missing: the model has no destination; allowed: default-bucket/models/<name>",
        "bucketDataDir: is missing: the data has no destination; allowed: default-bucket/datasets",
    ]


def test_a_data_script_that_is_not_python_is_refused_before_anything_is_delivered():
    (text,) = problems(DeliverValues, {"dataScript": "a = 1\nb = (", "bucketDataDir": "a/b"})
    assert text.startswith("dataScript: is not valid Python at line 2: ")


def test_a_role_that_allows_everything_is_refused():
    rules = [{"apiGroups": [""], "resources": ["*"], "verbs": ["get"]}]
    assert problems(NamespaceValues, {"role": {"rules": rules}}) == [
        "role.rules[0].resources: allows everything (given: '*'); allowed: each by its name"
    ]


def test_a_flag_with_its_own_key_is_refused():
    given = {"model": "a/b", "vllm_engine_args": {"api-key": "very_secret", "lora_modules": "x"}}
    found = problems(InferenceValues, given)
    assert found == [
        "vllm_engine_args.api_key: is not accepted here: it has its own key; did you mean apiKeySecret?",
        "vllm_engine_args.lora_modules: is not accepted here: it has its own key (given: 'x'); did you mean adapters?",
    ]


def test_the_error_is_one_sentence_with_a_hint_and_can_be_pickled():
    with pytest.raises(InvalidValuesError) as caught:
        check_values(FinetuneValues, finetune(seed=True))
    error = caught.value
    assert error.message == (f"Invalid values: {ARGS}.seed: is a boolean where a number is expected (given: 'true').")
    assert error.hint == "List every key: tuneyard values schema finetune"
    assert pickle.loads(pickle.dumps(error)).problems == error.problems


def test_one_problem_is_the_message_and_several_are_counted():
    with pytest.raises(InvalidValuesError) as one:
        check_values(FinetuneValues, finetune(lerning_rate=1))
    assert one.value.message.endswith("did you mean learning_rate?")
    with pytest.raises(InvalidValuesError) as several:
        check_values(FinetuneValues, finetune(lerning_rate=1, seed=True))
    assert several.value.message == "Invalid values: 2 problems."
    assert len(several.value.problems) == 2


@pytest.mark.parametrize("refused", [1, [1], {"a": 1}, (1,)], ids=str)
def test_a_key_with_the_name_of_our_own_mark_is_an_unknown_key(refused):
    given = {**finetune(seed="x"), "\0refused": refused}
    with pytest.raises(InvalidValuesError) as caught:
        check_values(FinetuneValues, given)
    found = [problem.what for problem in caught.value.problems]
    assert any("is not a known key" in what for what in found), found
    assert any("is not an integer" in what or "is not a number" in what for what in found), found


@pytest.mark.parametrize("source", [5, "a", ["secretKeyRef"], True, {"configMapKeyRef": {}}], ids=str)
def test_a_variable_from_anything_but_a_secret_is_refused(source):
    given = {**finetune(), "env": [{"name": "A", "valueFrom": source}]}
    with pytest.raises(InvalidValuesError, match="is neither a string nor a secretKeyRef"):
        check_values(FinetuneValues, given)
