"""Planning for a cluster: no store is read, and a server of a run uses the run's store, keys and images."""

from __future__ import annotations

import json

import pytest

from tuneyard.cluster.one_off_pod import one_off_spec
from tuneyard.errors import InvalidValuesError, NotFoundError, UsageError
from tuneyard.runners import LocalRunner, RunInfo
from tuneyard.runners.differences import differing_values
from tuneyard.runners.kubernetes import KubernetesRunner
from tuneyard.runners.kubernetes.forecast import _without_env
from tuneyard.runners.kubernetes.info import env_secrets, read_progress, resolved
from tuneyard.runners.plans import Sources, plan_finetune, plan_serve
from tuneyard.runners.targets import Kubernetes, runner_for, target_of

VALUES = {
    "basemodel": "default-bucket/models/m",
    "bucketStorageHost": "https://store.example",
    "finetuning_config": {"data_conf": {"training_data": {"datasets": [{"path": "default-bucket/d/c.jsonl"}]}}},
}


class Elsewhere(KubernetesRunner):
    """A cluster with one run, whose store can't be reached from here."""

    def __init__(self, status="succeeded", **values):
        super().__init__()
        self.info = RunInfo("finetune", "lora", status, experiment="default-bucket/experiments/lora")
        self.given = values

    def list(self, verb=None):
        return [self.info]

    def values(self, key):
        assert key == self.info.key
        return self.given


def test_a_plan_for_a_cluster_reads_no_store(monkeypatch, tmp_path):
    monkeypatch.setenv("TUNEYARD_STORE", (tmp_path / "not-there").as_uri())
    plan = plan_finetune(Sources(values=VALUES, name="lora"), Elsewhere())
    assert plan.launch.store == "https://store.example"
    assert plan.launch.experiment == "default-bucket/experiments/lora"
    assert json.loads(plan.launch.values_json)["checkpointsRemote"] == "default-bucket/experiments/lora"
    assert not any("On this machine" in note for note in plan.notes)


def test_options_of_this_machine_are_refused_by_name():
    with pytest.raises(UsageError, match="--store is for this machine") as raised:
        plan_finetune(Sources(values=VALUES, name="lora", store="s3://x"), Elsewhere())
    assert "--set bucketStorageHost=s3://x" in raised.value.hint
    with pytest.raises(UsageError, match="--port is for this machine"):
        plan_serve(Sources(values={"model": "a/b"}, name="m"), Elsewhere(), port=8081)
    with pytest.raises(UsageError, match="--namespace can't be used on this machine"):
        target_of("local", namespace="x")


def test_a_served_run_takes_over_store_keys_authorities_and_accelerators():
    trained = {
        "bucketStorageHost": "https://store.example",
        "bucketCredentialsSecret": {"name": "keys", "accessKeyKey": "a", "secretKeyKey": "b"},
        "bucketCABundle": {"configMap": "ca", "key": "ca.crt"},
        "gpuResource": "",
        "storageClass": "fast",
    }
    plan = plan_serve(Sources(sets=["storage.quantity=2Gi"]), Elsewhere(**trained), run="lora")
    values = json.loads(plan.launch.values_json)
    assert values["model"] == "s3://default-bucket/experiments/lora/checkpoint-final"
    assert values["vllm_engine_args"] == {"served_model_name": "lora"}
    assert values["bucket_storage"] == {
        "host": "https://store.example",
        "credentials": {"secret_name": "keys", "access_key_key": "a", "secret_key_key": "b"},
    }
    assert (values["gpuResource"], values["bucketCABundle"]["configMap"]) == ("", "ca")
    assert (values["storage"]["storageClassName"], values["storage"]["quantity"]) == ("fast", "2Gi")
    assert values["apiKeySecret"] == {"name": "lora-api-key", "key": "api-key"}


@pytest.mark.parametrize(
    ("status", "merged", "hint"),
    [
        ("running", False, "tuneyard watch finetune/lora --on kubernetes"),
        ("succeeded", True, "mergeAdapter=true"),
        ("failed", False, "--set model=s3://default-bucket/experiments/lora/checkpoint-final"),
    ],
)
def test_a_run_that_has_not_published_is_not_served(status, merged, hint):
    with pytest.raises(NotFoundError, match="has not published checkpoint-final") as raised:
        plan_serve(Sources(), Elsewhere(status, mergeAdapter=False), run="lora", merged=merged)
    assert hint in raised.value.hint


@pytest.mark.parametrize("target", ["kubernetes", Kubernetes("c", "n")])
def test_a_cluster_is_a_target_like_this_machine(target):
    assert isinstance(runner_for(target), KubernetesRunner)
    assert isinstance(runner_for("local"), LocalRunner)


def test_options_name_the_context_and_the_namespace():
    assert runner_for(Kubernetes("c", "n")).options == " --on kubernetes --context c --namespace n"


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("Training: step 80 of 600, loss 0.0106, 1.67 s/step, 870 s left.", (80, 600, 0.0106, 1.67, 870)),
        ("step 80 of 600, loss 2.5e-05, 2.0 steps/s, 260 s left", (80, 600, 2.5e-05, 0.5, 260)),
        ("step 1 of 6, 17.0 s/step, 85 s left", (1, 6, None, 17, 85)),
        ("\x1b[2Kx step 1 of 6\rstep 2 of 6, loss 1.0000", (2, 6, 1.0, None, None)),
    ],
)
def test_progress_is_parsed_from_the_newest_line(line, expected):
    progress = read_progress(["Attempt 2: resuming from step 5", line, "publishing"])
    assert progress is not None
    found = (progress.step, progress.max_steps, progress.loss, progress.seconds_per_step, progress.seconds_left)
    assert found == expected
    assert read_progress(["Loading torch"]) is None


ROUTE = {"enabled": True, "parentRefs": [{"name": "gate"}]}


@pytest.mark.parametrize("named", [{"model": "a/b"}, {}], ids=["values", "a run"])
def test_a_server_behind_a_route_gets_a_key_unless_the_values_remove_it(named):
    run = None if named else "lora"
    plan = plan_serve(Sources(values={**named, "httpRoute": ROUTE}, name="m"), Elsewhere(), run=run)
    assert json.loads(plan.launch.values_json)["apiKeySecret"]["name"] == "m-api-key"
    own = {**named, "httpRoute": ROUTE, "apiKeySecret": {"name": "door"}}
    plan = plan_serve(Sources(values=own, name="m"), Elsewhere(), run=run)
    assert json.loads(plan.launch.values_json)["apiKeySecret"]["name"] == "door"
    with pytest.raises(InvalidValuesError, match="httpRoute would expose the server"):
        plan_serve(Sources(values={**own, "apiKeySecret": {"name": ""}}, name="m"), Elsewhere(), run=run)


def config_map(env, name="tune"):
    document = {**VALUES, "checkpointsRemote": "b/e/tune", "env": env}
    metadata = {"name": f"{name}-values-0123456789"}
    return {"metadata": metadata, "data": {"values.json": json.dumps(document)}}


def test_only_texts_in_the_charts_own_secret_are_not_shown():
    own = {"name": "tune-env-0a1b2c3d4e", "key": "A"}
    other = {"name": "tune-env-mine", "key": "k"}
    config = config_map({"A": own, "B": other, "NCCL_DEBUG": "INFO"})
    assert env_secrets(config) == {"tune-env-0a1b2c3d4e"}
    assert resolved("finetune", config)["env"] == {"A": "(not shown)", "B": other, "NCCL_DEBUG": "INFO"}
    assert env_secrets(config_map({"A": own}, name="another")) == set()
    launched = {**resolved("finetune", config), "env": {"A": "text", "B": other, "NCCL_DEBUG": "WARN"}}
    assert differing_values(resolved("finetune", config), launched) == []


def test_an_estimate_in_a_pod_contains_no_text_of_an_environment_variable():
    text = _without_env(json.dumps({**VALUES, "env": {"A": "canary"}}).encode())
    assert "canary" not in text
    assert json.loads(text) == {**VALUES, "env": {}}
    own = {"name": "A", "valueFrom": {"secretKeyRef": {"name": "tune-env-0a1b2c3d4e", "key": "A"}}}
    keys = {"name": "AWS_ACCESS_KEY_ID", "valueFrom": {"secretKeyRef": {"name": "keys", "key": "a"}}}
    spec = one_off_spec({"containers": [{"env": [own, keys], "command": []}]}, "plan", ["x"])
    optional, required = spec["containers"][0]["env"]
    assert optional["valueFrom"]["secretKeyRef"]["optional"] is True
    assert required == keys
