"""What of values may be published and shown: names of variables, and the texts of harmless ones alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tuneyard.errors import InvalidValuesError
from tuneyard.job.inputs import Input, Inputs
from tuneyard.runners.differences import differing_values
from tuneyard.values import (
    FinetuneValues,
    InferenceValues,
    canonical_json,
    check_values,
    dump_yaml,
    load_values,
    public_values,
    values_sha256,
)
from tuneyard.values.public import NOT_SHOWN, SHOWN_ENV, is_secret_name

CANARY = "canary-7d3a"
FINETUNE = {
    "basemodel": "bucket/model",
    "checkpointsRemote": "bucket/experiments/run",
    "finetuning_config": {"data_conf": {"training_data": {"datasets": [{"path": "bucket/d/c.jsonl"}]}}},
}
ENV = {"TOKEN": CANARY, "ANYTHING": CANARY, "REF": {"name": "s", "key": "k"}, "OMP_NUM_THREADS": "4"}
SHOWN = {"TOKEN": NOT_SHOWN, "ANYTHING": NOT_SHOWN, "REF": {"name": "s", "key": "k"}, "OMP_NUM_THREADS": "4"}


def finetune(**more: object) -> FinetuneValues:
    return check_values(FinetuneValues, {**FINETUNE, **more})


def test_names_are_shown_and_no_text_that_may_be_a_secret() -> None:
    assert public_values(json.loads(canonical_json(finetune(env=ENV))))["env"] == SHOWN
    as_list = [{"name": name, "value": CANARY} for name in ("TOKEN", "ANYTHING")]
    served = check_values(InferenceValues, {"model": "a/b", "env_vars": as_list})
    assert public_values(json.loads(canonical_json(served)))["env_vars"] == {"TOKEN": NOT_SHOWN, "ANYTHING": NOT_SHOWN}


@pytest.mark.parametrize(
    "values",
    [
        {"bucketStorageHost": f"https://me:{CANARY}@store"},
        {"a": [{"b": f"postgres://{CANARY}@host/x"}]},
        {"a": f"https://me:p@{CANARY}@host/x"},
        {"finetuning_config": {"x": {"hub_token": CANARY, "api_key": CANARY, "db_password": CANARY, "SECRET": CANARY}}},
    ],
)
def test_credentials_of_urls_and_secret_keys_are_not_shown(values: dict[str, object]) -> None:
    assert CANARY in json.dumps(values)
    assert CANARY not in json.dumps(public_values(values))


SECRET_NAMES = (
    "token", "hub_token", "hf-token", "hubToken", "HF_TOKEN", "api_key", "api-key", "apiKey", "apikey",
    "OPENAI_API_KEY", "secretKey", "secret_access_key", "awsSecretAccessKey", "access_key", "private-key", "passwd",
    "db.password", "passphrase", "credentials", "client_secret", "AuthKey", "accountKey",
)  # fmt: skip
OTHER_NAMES = (
    "pad_token", "eos_token", "bosToken", "max_tokens", "tokens", "tokenizer", "key", "keys", "accessKeyKey",
    "secretKeyKey", "secret_key_key", "secret_store_name", "target_modules", "monkey", "tokenizer_mode",
    "num_virtual_tokens",
)  # fmt: skip


def test_secrets_are_recognized_by_their_names() -> None:
    assert [name for name in SECRET_NAMES if not is_secret_name(name)] == []
    assert [name for name in OTHER_NAMES if is_secret_name(name)] == []
    assert public_values({"a": {"hf-token": CANARY, "pad_token": "</s>"}}) == {
        "a": {"hf-token": NOT_SHOWN, "pad_token": "</s>"}
    }


def test_everything_else_is_shown_unchanged() -> None:
    tree = json.loads(canonical_json(finetune(hfTokenSecret={"name": "hub", "key": "token"}, labels={"a": "b"})))
    assert public_values(tree) == tree


def test_the_shown_variables_are_an_allowlist_without_secret_names() -> None:
    assert not [name for name in SHOWN_ENV if is_secret_name(name) or name.endswith(("_KEY", "_URL", "_URI"))]
    assert not [name for name in SHOWN_ENV if "PROXY" in name or "PATH" in name or "HOME" in name]


def test_a_runs_record_and_hashes_contain_no_text() -> None:
    inputs = Inputs(Input("bucket/model", "0" * 64), (), {}, {})
    one, other = finetune(env=ENV), finetune(env={**ENV, "TOKEN": "another"})
    record = inputs.record(one)
    assert record.values["env"] == SHOWN
    assert CANARY.encode() not in record.to_json()
    assert record.values_sha256 == values_sha256(one) == values_sha256(other) == inputs.record(other).values_sha256
    assert values_sha256(one) == values_sha256(json.loads(canonical_json(one)))
    assert values_sha256(finetune(env={"TOKEN": CANARY})) != values_sha256(one)
    assert values_sha256(finetune(env={**ENV, "OMP_NUM_THREADS": "5"})) != values_sha256(one)


def test_a_processes_values_contain_every_text() -> None:
    assert json.loads(canonical_json(finetune(env=ENV)))["env"] == ENV


def test_another_text_of_a_variable_is_the_same_run() -> None:
    def tree(**more: object) -> dict[str, object]:
        return json.loads(canonical_json(finetune(**more)))

    one = tree(env=ENV)
    assert differing_values(one, tree(env={**ENV, "TOKEN": "another", "OMP_NUM_THREADS": "5"})) == []
    assert differing_values(one, tree(env={**ENV, "REF": {"name": "t", "key": "k"}})) == ["env.REF.name"]
    assert differing_values(one, tree(env={"TOKEN": CANARY})) == ["env.ANYTHING", "env.OMP_NUM_THREADS", "env.REF"]
    assert differing_values(one, tree(env=ENV, finetuningGpus=2)) == ["finetuningGpus"]


def test_a_variable_printed_without_its_text_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "shown.yaml").write_text(dump_yaml(finetune(env=ENV)))
    assert CANARY not in (tmp_path / "shown.yaml").read_text()
    with pytest.raises(InvalidValuesError) as caught:
        load_values(FinetuneValues, [tmp_path / "shown.yaml"])
    assert {problem.where for problem in caught.value.problems} == {"env.TOKEN", "env.ANYTHING"}
    assert "was printed without its value; set it" in str(caught.value)
    again = load_values(FinetuneValues, [tmp_path / "shown.yaml"], ["env.TOKEN=a", "env.ANYTHING=b"])
    assert (again.env["TOKEN"], again.env["ANYTHING"]) == ("a", "b")


@pytest.mark.parametrize(
    "given",
    [
        {"env": f"TOKEN={CANARY}"},
        {"env": [CANARY]},
        {"env": {"TOKEN": [CANARY]}},
        {"env": [{"name": "TOKEN", "value": {"a": CANARY}}]},
        {"env": {"not a name": CANARY}},
    ],
)
def test_an_invalid_variable_is_reported_without_its_text(given: dict[str, object]) -> None:
    with pytest.raises(InvalidValuesError) as caught:
        finetune(**given)
    assert CANARY not in str(caught.value)
    assert "env" in str(caught.value)


@pytest.mark.parametrize("text", [f"env.TOKEN=a,{CANARY}", f"env.TOKEN={{{CANARY}", f"env.A[x]={CANARY}"])
def test_an_invalid_set_of_a_variable_is_reported_without_its_text(text: str) -> None:
    with pytest.raises(InvalidValuesError) as caught:
        load_values(FinetuneValues, [], [text])
    assert CANARY not in str(caught.value)


def test_a_flag_that_is_a_secret_is_refused_without_its_text() -> None:
    for flag in ("hf_token", "hf-token", "api_key"):
        with pytest.raises(InvalidValuesError, match="has its own key") as caught:
            check_values(InferenceValues, {"model": "a/b", "vllm_engine_args": {flag: CANARY}})
        assert CANARY not in str(caught.value)


def test_a_route_without_a_key_is_refused() -> None:
    route = {"enabled": True, "parentRefs": [{"name": "gate"}]}
    with pytest.raises(
        InvalidValuesError, match=r"apiKeySecret.name: is missing, and httpRoute would expose the server"
    ):
        check_values(InferenceValues, {"model": "a/b", "httpRoute": route})
    check_values(InferenceValues, {"model": "a/b", "httpRoute": route, "apiKeySecret": {"name": "door"}})
