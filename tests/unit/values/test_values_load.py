"""Files and `--set` are merged into one set of values, with the conversions of Helm and YAML accepted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuneyard.errors import InvalidValuesError, NotFoundError
from tuneyard.values import (
    DeliverValues,
    FinetuneValues,
    InferenceValues,
    canonical_json,
    check_values,
    cluster_only_keys,
    dump_yaml,
    load_values,
    model_place,
    read_values,
    values_sha256,
)
from tuneyard.values.load import merge, without_nulls
from tuneyard.values.yaml_text import parse_yaml, write_yaml

SMALL = """
basemodel: default-bucket/models/small
labels: {a: one, b: two}
finetuning_config:
  data_conf:
    training_data:
      datasets: [{path: default-bucket/datasets/a.jsonl}, {path: default-bucket/datasets/b.jsonl}]
  training_args: {learning_rate: 5e-5, save_strategy: no, seed: 1}
"""


def write(folder: Path, text: str, name: str = "values.yaml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_defaults_yield_to_files_and_files_to_sets(tmp_path):
    first = write(tmp_path, SMALL)
    second = write(tmp_path, "labels: {b: three}\nfinetuning_config: {training_args: {seed: 2}}", "second.yaml")
    values = load_values(FinetuneValues, [first, second], ["finetuning_config.training_args.seed=3", "labels.c=four"])
    assert values.labels == {"a": "one", "b": "three", "c": "four"}
    arguments = values.finetuning_config.training_args
    assert (arguments.seed, arguments.learning_rate, arguments.save_strategy) == (3, 5e-5, "no")
    assert arguments.weight_decay == 0.0


def test_lists_are_replaced_and_one_item_can_be_set(tmp_path):
    first = write(tmp_path, SMALL)
    one = "finetuning_config: {data_conf: {training_data: {datasets: [{path: default-bucket/c}]}}}"
    values = load_values(FinetuneValues, [first, write(tmp_path, one, "one.yaml")])
    assert [data.path for data in values.finetuning_config.data_conf.training_data.datasets] == ["default-bucket/c"]
    item = "finetuning_config.data_conf.training_data.datasets[1].path=default-bucket/d"
    values = load_values(FinetuneValues, [first], [item])
    assert [data.path for data in values.finetuning_config.data_conf.training_data.datasets] == [
        "default-bucket/datasets/a.jsonl",
        "default-bucket/d",
    ]


def test_null_restores_the_default(tmp_path):
    path = write(tmp_path, SMALL)
    nothing = write(tmp_path, "finetuning_config: {training_args: null}", "nothing.yaml")
    assert load_values(FinetuneValues, [path, nothing]).finetuning_config.training_args.seed == 42
    values = load_values(FinetuneValues, [path], ["finetuning_config.training_args.seed=null", "labels.a=null"])
    assert values.finetuning_config.training_args.seed == 42
    assert values.labels == {"b": "two"}


def test_values_as_yaml_and_helm_convert_them_are_accepted(tmp_path):
    text = (
        SMALL
        + """
mergeAdapter: "false"
finetuningGpus: "2"
queueName: 7
env: {A: 1, B: true, C: 0.5, D: {name: secret, key: token}}
"""
    )
    sets = [
        "finetuning_config.training_args.warmup_steps=0.03",
        "finetuning_config.training_args.eval_strategy=no",
        "finetuning_config.training_args.lr_scheduler_kwargs.min_lr=1e-6",
        "finetuning_config.peft_conf.peft_type=LORA",
        "finetuning_config.peft_conf.peft_kwargs.lora_dropout=0.05",
        "finetuning_config.peft_conf.peft_kwargs.target_modules={q_proj,v_proj}",
        "finetuning_config.run_conf.resume_from_checkpoint=true",
        "finetuning_config.training_args.report_to=tensorboard",
    ]
    values = load_values(FinetuneValues, [write(tmp_path, text)], sets)
    assert (values.mergeAdapter, values.finetuningGpus, values.queueName) == (False, 2, "7")
    env = values.model_dump()["env"]
    assert env == {"A": "1", "B": "true", "C": "0.5", "D": {"name": "secret", "key": "token"}}
    config = values.finetuning_config
    assert config.training_args.lr_scheduler_kwargs == {"min_lr": 1e-6}
    assert config.training_args.warmup_steps == 0.03
    assert config.peft_conf.peft_kwargs == {"lora_dropout": 0.05, "target_modules": ["q_proj", "v_proj"]}
    assert config.run_conf.resume_from_checkpoint is True
    assert config.training_args.report_to == "tensorboard"


def test_json_text_is_a_map_too(tmp_path):
    values = load_values(
        FinetuneValues,
        [write(tmp_path, SMALL)],
        [r'finetuning_config.training_args.gradient_checkpointing_kwargs={"use_reentrant": false}'.replace("{", r"\{")],
    )
    assert values.finetuning_config.training_args.gradient_checkpointing_kwargs == {"use_reentrant": False}


def test_kubernetes_list_of_environment_variables_is_accepted():
    env = [{"name": "A", "value": "1"}, {"name": "B", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}]
    values = check_values(InferenceValues, {"model": "a/b", "env_vars": env})
    assert values.model_dump()["env_vars"] == {"A": "1", "B": {"name": "s", "key": "k"}}


def test_vllms_flags_are_one_whether_written_with_dashes_or_not():
    values = check_values(InferenceValues, {"model": "a/b", "vllm_engine_args": {"max-model-len": "2048", "x": "0.5"}})
    assert values.vllm_engine_args == {"max_model_len": "2048", "x": 0.5}


def test_a_missing_file_is_not_found(tmp_path):
    with pytest.raises(NotFoundError) as caught:
        load_values(FinetuneValues, [tmp_path / "nowhere.yaml"])
    assert str(caught.value) == f"There is no values file '{tmp_path / 'nowhere.yaml'}'."
    assert caught.value.exit_code == 4


@pytest.mark.parametrize(
    ("text", "where", "what"),
    [
        ("a: [1", ":2", "is not YAML: expected ',' or ']', but got '<stream end>'"),
        ("a: 1\na: 2", ":2", "is not YAML: the key 'a' is repeated"),
        ("- a", "", "is not a map"),
        ("a: !!python/object:os.system x", ":1", "is not YAML: could not determine a constructor"),
    ],
)
def test_an_unusable_file_is_reported_with_the_other_problems(tmp_path, text, where, what):
    path = write(tmp_path, text)
    with pytest.raises(InvalidValuesError) as caught:
        load_values(FinetuneValues, [path], ["seed", "x=1"])
    first, second, *others = caught.value.problems
    assert first.where in {f"{path}{where}", f"{path}:1"}
    assert first.what.startswith(what)
    assert str(second) == ("--set: can't be parsed: the key seed has no value (given: 'seed'); allowed: key.path=value")
    assert {problem.where for problem in others} >= {"x", "basemodel"}


def test_a_file_that_is_not_text_is_reported(tmp_path):
    path = tmp_path / "values.yaml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InvalidValuesError, match="is not UTF-8 text"):
        load_values(FinetuneValues, [path])


def test_canonical_json_is_the_same_for_the_same_values(tmp_path):
    one = load_values(FinetuneValues, [write(tmp_path, SMALL)])
    other = load_values(
        FinetuneValues,
        [write(tmp_path, SMALL)],
        ["finetuning_config.training_args.learning_rate=0.00005", "basemodel=s3://default-bucket/models/small/"],
    )
    assert canonical_json(one) == canonical_json(other)
    assert values_sha256(one) == values_sha256(other)
    assert len(values_sha256(one)) == 64
    changed = load_values(FinetuneValues, [write(tmp_path, SMALL)], ["finetuningGpus=2"])
    assert values_sha256(changed) != values_sha256(one)
    data = canonical_json(one)
    assert data == json.dumps(json.loads(data), sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def test_resolved_values_round_trip(tmp_path):
    values = load_values(FinetuneValues, [write(tmp_path, SMALL)], ["labels.u=x"])
    path = tmp_path / "values.json"
    path.write_bytes(canonical_json(values))
    assert read_values(FinetuneValues, path) == values
    shown = write(tmp_path, dump_yaml(values), "shown.yaml")
    assert load_values(FinetuneValues, [shown]) == values


def test_a_script_survives_the_dry_run_unchanged(tmp_path):
    script = "import json\n\nfor line in ['no', '5e-5', '#: x']:\n    print(json.dumps(line))\n"
    values = check_values(DeliverValues, {"dataScript": script, "bucketDataDir": "a/b", "image": "1e5"})
    shown = dump_yaml(values)
    assert "dataScript: |" in shown
    assert load_values(DeliverValues, [write(tmp_path, shown)]) == values


def test_keys_with_an_effect_on_a_cluster_only_are_listed():
    values = check_values(
        DeliverValues,
        {
            "modelID": "a/b",
            "bucketModelPath": "c/d",
            "storageClass": "fast",
            "storageQuantity": "20Gi",
            "labels": {"a": "b"},
            "bucketCredentialsSecret": {"name": "other"},
            "allowOverwrite": True,
        },
    )
    assert cluster_only_keys(values) == ["bucketCredentialsSecret.name", "labels", "storageClass", "storageQuantity"]
    assert cluster_only_keys(check_values(DeliverValues, {"modelID": "a/b", "bucketModelPath": "c/d"})) == []


@pytest.mark.parametrize(
    ("text", "kind", "where"),
    [
        ("org/name", "hub", "org/name"),
        ("gpt2", "hub", "gpt2"),
        ("models/x", "hub", "models/x"),
        ("s3://bucket/a/b/", "bucket", "bucket/a/b"),
        ("/models/x", "folder", "/models/x"),
        ("./models/x", "folder", "./models/x"),
        ("../x", "folder", "../x"),
        ("~/x", "folder", "~/x"),
        ("file:///models/x", "folder", "/models/x"),
    ],
)
def test_a_models_place_is_parsed_from_its_text(text, kind, where):
    place = model_place(text)
    assert (place.kind, place.where) == (kind, where)


scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
plain = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3), max_leaves=8
)
maps = st.dictionaries(st.text(max_size=3), plain, max_size=4)


@given(maps, maps, maps)
def test_merging_does_not_depend_on_how_files_are_grouped(a, b, c):
    # a map over something else replaces it and the other way round, so grouping is free only where kinds agree
    if all(isinstance(x[k], dict) == isinstance(y[k], dict) for x, y in ((a, b), (b, c), (a, c)) for k in x.keys() & y):
        assert merge(merge(a, b), c).keys() == merge(a, merge(b, c)).keys()
    assert merge(a, {}) == a
    assert merge({}, a) == a
    assert merge(a, a) == a


@given(maps, maps)
def test_merging_overrides_keys_and_loses_none(below, above):
    merged = merge(below, above)
    assert merged.keys() == below.keys() | above.keys()
    for key, value in merged.items():
        if key not in above:
            assert value == below[key]
        elif not isinstance(above[key], dict) or not isinstance(below.get(key), dict):
            assert value == above[key]


@given(maps)
def test_no_null_is_left_in_a_map(given_map):
    def nulls(value):
        if isinstance(value, dict):
            return any(item is None or nulls(item) for item in value.values())
        return isinstance(value, list) and any(nulls(item) for item in value if item is not None)

    assert not nulls(without_nulls(given_map))


readable = st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]))
texts = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | readable,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(readable, inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(readable, texts, max_size=4))
def test_yaml_round_trips(data):
    assert parse_yaml(write_yaml(data)) == data


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("no", False),
        ("on", True),
        ("5e-5", 5e-5),
        ("1e3", 1000.0),
        (".5", 0.5),
        ("007", "007"),
        ("12:30:00", "12:30:00"),
        ("2026-01-02", "2026-01-02"),
        ("'no'", "no"),
        ("~", None),
        ("1_000", "1_000"),
    ],
)
def test_plain_words_of_yaml_are_read_as_helm_reads_them_or_stay_text(text, value):
    read = parse_yaml(f"a: {text}")["a"]
    assert read == value
    assert type(read) is type(value)
