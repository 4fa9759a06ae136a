"""Rendering the charts: the walkthrough's commands, reproducible bytes, no shell, no secrets, refusals."""

from __future__ import annotations

import base64
import copy
import hashlib
import json
import re
import shlex
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest
import yaml

from lab.charts import (
    CHARTS,
    DELIVER,
    NAMESPACE,
    ROOT,
    SERVE,
    TRAIN,
    RefusedError,
    each_chart,
    env_of,
    helm,
    least,
    objects_of,
    one,
    opened,
    pod,
    render,
    render_text,
    values_text,
)
from tuneyard.runners.kubernetes.info import env_secrets
from tuneyard.values import canonical_json, check_values, load_values, read_values
from tuneyard.values.public import SHOWN_ENV

OVERRIDES = {
    DELIVER: DELIVER.folder.parent / "overrides",
    TRAIN: TRAIN.folder.parent / "overrides",
    SERVE: SERVE.folder / "overrides",
    NAMESPACE: NAMESPACE.folder / "overrides",
}
LORA = OVERRIDES[TRAIN] / "tutorial-01-finetune-lora.yaml"
WALKTHROUGH = """
helm template workloads/k8s-namespace-setup/helm --values workloads/k8s-namespace-setup/helm/overrides/tutorial-01-local-queue.yaml --values workloads/k8s-namespace-setup/helm/overrides/tutorial-01-storage-access-external-secret.yaml --namespace "silo"
helm template workloads/deliver-huggingface-example-resources/helm/chart --values workloads/deliver-huggingface-example-resources/helm/overrides/tutorial-01-tiny-llama-argilla.yaml --name-template "deliver-tiny-llama-and-argilla" --namespace "silo"
helm template workloads/LLM-finetune-silogen-engine/helm/chart --values workloads/LLM-finetune-silogen-engine/helm/overrides/tutorial-01-finetune-lora.yaml --name-template tiny-llama-argilla-r-sweep-alpha-4 --namespace "silo" --set finetuning_config.peft_conf.peft_kwargs.r=4 --set "checkpointsRemote=default-bucket/experiments/tiny-llama-argilla-r-sweep-alpha-4"
helm template workloads/LLM-finetune-silogen-engine/helm/chart --values workloads/LLM-finetune-silogen-engine/overrides/tutorial-01-finetune-full-param.yaml --name-template tiny-llama-argilla-v1 --namespace "silo" --set "checkpointsRemote=default-bucket/experiments/tiny-llama-argilla-v1" --set "finetuningGpus=8"
helm template workloads/LLM-finetune-silogen-engine/helm/chart --values workloads/LLM-finetune-silogen-engine/helm/overrides/tutorial-01-finetune-full-param.yaml --name-template tiny-llama-argilla-v1-singlegpu --namespace "silo" --set "checkpointsRemote=default-bucket/experiments/x" --set "finetuningGpus=1"
helm template workloads/llm-inference-vllm/helm --values workloads/llm-inference-vllm/helm/overrides/tutorial-01-inference.yaml --set "model=s3://default-bucket/experiments/tiny-llama-argilla-v1/checkpoint-final" --set "vllm_engine_args.served_model_name=tiny-llama-argilla-v1" --name-template "tiny-llama-argilla-v1"
""".strip().splitlines()  # noqa: E501
KINDS = [
    ["LocalQueue", "ExternalSecret"],
    *[["ConfigMap", "Job"]] * 4,
    ["ConfigMap", "Service", "Deployment"],
]
VARYING = {
    "now",
    "date",
    "ago",
    "shuffle",
    "lookup",
    "uuidv4",
    "getHostByName",
    "bcrypt",
    "htpasswd",
    "toYaml",
    "tpl",
    "env",
}
OTHERS = sorted((Path(__file__).parent / "others").glob("*.yaml"))
CHART_OF = {"finetune": TRAIN, "deliver": DELIVER, "inference": SERVE, "namespace": NAMESPACE}


def everything(chart: Any) -> dict[str, Any]:
    """Return values that render every object of a chart."""
    if chart is NAMESPACE:
        site = {"setup": True, "env": {"HF_ENDPOINT": "http://hub:8000"}, "caCert": "-----BEGIN"}
        return {"kueue": {"setup": True}, "external_secret": {"setup": True}, "role": {"setup": True}, "site": site}
    more: dict[str, Any] = {"networkPolicy": {"enabled": True}, "labels": {"team": "blue"}}
    if chart is TRAIN:
        more["nodes"] = 2
    if chart is SERVE:
        more |= {"httpRoute": {"enabled": True, "parentRefs": [{"name": "gate"}]}, "apiKeySecret": {"name": "door"}}
    if chart is DELIVER:
        more |= {"dataScript": "print(1)", "bucketDataDir": "c/d"}
    return least(chart, **more)


@pytest.mark.parametrize(("command", "kinds"), list(zip(WALKTHROUGH, KINDS, strict=True)))
def test_walkthrough_command_renders(command, kinds):
    objects = objects_of(helm(*shlex.split(command)[1:], cwd=ROOT))
    assert sorted(found["kind"] for found in objects) == sorted(kinds)
    stamped = "silo" if "Job" in kinds else None
    assert {found["metadata"].get("namespace") for found in objects} == {stamped}


def test_objects_have_the_names_of_the_walkthrough():
    queue = render(NAMESPACE, {"kueue": {"setup": True, "cluster_queue_name": "kaiwo"}})
    assert one(queue, "LocalQueue")["metadata"]["name"] == "kaiwo"
    assert one(queue, "LocalQueue")["spec"] == {"clusterQueue": "kaiwo"}
    assert one(render(TRAIN, TRAIN.least, release="a-4"), "Job")["metadata"]["name"] == "a-4"
    served = render(SERVE, SERVE.least, release="tiny")
    assert one(served, "Deployment")["metadata"]["name"] == "llm-inference-vllm-tiny"
    assert one(served, "Service")["spec"]["ports"][0]["port"] == 8080


@each_chart
def test_rendering_is_reproducible_in_any_directory(chart, tmp_path):
    values = everything(chart)
    first = render_text(chart, values, cwd=ROOT)
    assert first
    assert render_text(chart, values, cwd=ROOT) == first
    assert render_text(chart, values, cwd=tmp_path) == first


def test_templates_use_neither_time_nor_randomness_nor_the_cluster():
    templates = [file for chart in CHARTS for file in (chart.folder / "templates").iterdir()]
    assert len(templates) >= 24
    for file in templates:
        code = re.sub(r"\{\{-? /\*.*?\*/ -?\}\}", "", file.read_text(), flags=re.DOTALL)
        actions = " ".join(re.findall(r"\{\{.*?\}\}", code))
        words = set(re.sub(r'"[^"]*"', "", actions).replace("(", " ").replace(")", " ").split())
        assert not {word for word in words if word in VARYING or word.startswith(("rand", "gen"))}, file


@each_chart
def test_every_object_has_the_standard_labels(chart):
    objects = render(chart, everything(chart), release="some-run")
    assert len(objects) >= 3
    for found in objects:
        labels = found["metadata"]["labels"]
        assert labels["app.kubernetes.io/instance"] == "some-run"
        assert labels["app.kubernetes.io/component"] == chart.name
        assert labels["app.kubernetes.io/part-of"] == "tuneyard"
        assert {
            "app.kubernetes.io/name",
            "app.kubernetes.io/version",
            "app.kubernetes.io/managed-by",
            "helm.sh/chart",
        } <= set(labels)
        if chart is not NAMESPACE:
            assert labels["team"] == "blue"


@each_chart
def test_commands_use_no_shell_and_no_values(chart):
    if chart is NAMESPACE:
        pytest.skip("the chart runs no container")
    spec = pod(render(chart, everything(chart)))
    containers = [*spec["containers"], *spec.get("initContainers", [])]
    assert containers
    for container in containers:
        assert container["command"][:4] == ["python", "-s", "-P", "-m"]
        assert container["command"][4].startswith("tuneyard.")
        assert container["command"][5:8] == ["/etc/tuneyard/values/values.json", "--workdir", "/work"]
        assert "args" not in container
        probes = [
            container[name]["exec"]["command"] for name in ("startupProbe", "readinessProbe") if name in container
        ]
        assert all(command[:5] == ["python", "-s", "-P", "-m", "tuneyard.serving.probe"] for command in probes)


@each_chart
@pytest.mark.parametrize("misspelt", ["misspelt", "Labels", "global"])
def test_unknown_key_is_refused(chart, misspelt):
    with pytest.raises(RefusedError, match=misspelt):
        render(chart, least(chart, **{misspelt: {"a": "b"}}))


def test_unknown_nested_key_is_refused():
    values = copy.deepcopy(TRAIN.least)
    values["finetuning_config"]["training_args"] = {"lerning_rate": 1}
    with pytest.raises(RefusedError, match="lerning_rate"):
        render(TRAIN, values)
    with pytest.raises(RefusedError, match="sizLimit"):
        render(SERVE, least(SERVE, dshm={"sizLimit": "1Gi"}))
    with pytest.raises(RefusedError, match="SOME_NAME"):
        render(NAMESPACE, {"site": {"setup": True, "env": {"SOME_NAME": "x"}}})


@each_chart
def test_package_contains_the_schema_and_neither_overrides_nor_tests(chart, tmp_path):
    helm("package", chart.folder, "--destination", tmp_path)
    (archive,) = tmp_path.glob("*.tgz")
    with tarfile.open(archive) as package:
        names = package.getnames()
    assert any(name.endswith("values.schema.json") for name in names)
    assert not [name for name in names if "overrides" in name or "/tests/" in name]


@pytest.mark.parametrize("path", OTHERS, ids=lambda path: path.stem)
def test_earlier_values_files_mean_the_same_to_helm_and_the_models(path, tmp_path):
    chart = CHART_OF[path.stem.split("-")[0]]
    objects = render(chart, files=[path])
    if chart is NAMESPACE:
        assert {found["kind"] for found in objects} == {"LocalQueue", "ExternalSecret", "Role", "RoleBinding"}
        assert one(objects, "ExternalSecret")["apiVersion"] == "external-secrets.io/v1beta1"
        return
    file = tmp_path / "values.json"
    file.write_text(values_text(opened(objects)), encoding="utf-8")
    assert canonical_json(read_values(chart.model, file)) == canonical_json(load_values(chart.model, [path]))


def test_there_are_at_least_six_earlier_values_files():
    assert len(OTHERS) >= 6


@pytest.mark.parametrize("chart", [DELIVER, TRAIN], ids=lambda chart: chart.name)
def test_walkthrough_files_mean_the_same_to_helm_and_the_models(chart, tmp_path):
    files = sorted(OVERRIDES[chart].glob("*.yaml"))
    assert files
    for file in files:
        sets = ["checkpointsRemote=default-bucket/experiments/x"] if chart is TRAIN else []
        rendered = tmp_path / "values.json"
        rendered.write_text(values_text(opened(render(chart, files=[file], sets=sets))), encoding="utf-8")
        assert canonical_json(read_values(chart.model, rendered)) == canonical_json(
            load_values(chart.model, [file], sets)
        )


def test_resolved_values_render_to_themselves(tmp_path):
    for chart in (DELIVER, TRAIN, SERVE):
        values = check_values(chart.model, everything(chart) | ({"checkpointsRemote": "a/b"} if chart is TRAIN else {}))
        file = tmp_path / f"{chart.name}.json"
        file.write_bytes(canonical_json(values))
        objects = render(chart, files=[file])
        assert canonical_json(check_values(chart.model, json.loads(values_text(objects)))) == canonical_json(values)


def test_earlier_spellings_of_the_server_are_rendered():
    objects = render(SERVE, files=[Path(__file__).parent / "others" / "inference-vllm-0-9.yaml"])
    deployment = one(objects, "Deployment")
    assert deployment["metadata"]["labels"]["tier"] == "2"
    (container,) = pod(objects)["containers"]
    assert container["startupProbe"]["failureThreshold"] == 600
    assert container["startupProbe"]["exec"]["command"][:5] == ["python", "-s", "-P", "-m", "tuneyard.serving.probe"]
    assert container["livenessProbe"] == {
        "httpGet": {"path": "/health", "port": "http"},
        "periodSeconds": 30,
        "failureThreshold": 6,
    }
    env = env_of(container)
    assert (env["VLLM_USE_V1"], env["HF_HUB_OFFLINE"]) == ("0", "true")
    assert env["SECRET_WORD"] == {"secretKeyRef": {"name": "words", "key": "word"}}


@pytest.mark.parametrize("claim", ["", "mine"])
def test_delivery_containers_share_only_the_data_files(claim):
    spec = pod(render(DELIVER, least(DELIVER, dataScript="print(1)", bucketDataDir="a/b", volumeClaim=claim)))
    (script,), (deliver,) = spec["initContainers"], spec["containers"]
    volumes = {volume["name"]: volume for volume in spec["volumes"]}

    def places(container: dict[str, Any]) -> dict[tuple[str, str], dict[str, Any]]:
        return {(mount["name"], mount.get("subPath", "")): mount for mount in container["volumeMounts"]}

    written = {place for place, mount in places(script).items() if not mount.get("readOnly")}
    assert all(subpath or name not in {"work"} for name, subpath in written), "the whole volume would be shared"
    shared = {place: places(deliver)[place] for place in written if place in places(deliver)}
    assert {(mount["mountPath"], mount.get("readOnly")) for mount in shared.values()} == {("/downloads", True)}
    for place in places(script).keys() & places(deliver).keys() - written:
        assert {"configMap", "projected"} & set(volumes[place[0]]), "a shared volume must be read-only"
    for container in (script, deliver):
        assert {"/tmp", "/dev/shm", "/work"} <= {mount["mountPath"] for mount in container["volumeMounts"]}
        assert container["securityContext"]["readOnlyRootFilesystem"] is True
        assert env_of(container)["HOME"] == "/work/home"
    assert not spec.get("shareProcessNamespace")
    assert spec["automountServiceAccountToken"] is False


CANARY = "canary-5f2c"


def test_secrets_are_referenced_and_never_rendered():
    for chart, values in (
        (DELIVER, {"bucketCredentialsSecret": {"name": "keys"}, "hfTokenSecret": {"name": "hub"}}),
        (TRAIN, {"bucketCredentialsSecret": {"name": "keys"}, "env": {"TOKEN": {"name": "other", "key": "word"}}}),
        (SERVE, {"apiKeySecret": {"name": "door"}, "hf_token": {"secret_name": "hub"}, "model": "s3://a/b"}),
    ):
        spec = pod(render(chart, least(chart, **values)))
        (container,) = spec["containers"]
        env = env_of(container)
        for name in (
            "AWS_ACCESS_KEY_ID",
            "AWS_SECRET_ACCESS_KEY",
            *(["TUNEYARD_API_KEY", "HF_TOKEN"] if chart is SERVE else []),
        ):
            assert set(env[name]) == {"secretKeyRef"}


def test_secret_in_the_values_is_refused_and_not_printed():
    values = copy.deepcopy(TRAIN.least)
    values["finetuning_config"]["training_args"] = {"hub_token": CANARY}
    for chart, given in (
        (SERVE, least(SERVE, env_vars={"TUNEYARD_API_KEY": CANARY})),
        (TRAIN, least(TRAIN, env={"TUNEYARD_API_KEY": CANARY})),
    ):
        with pytest.raises(RefusedError) as caught:
            render(chart, given)
        assert CANARY not in str(caught.value)


def test_data_script_gets_no_store_keys():
    spec = pod(
        render(DELIVER, least(DELIVER, dataScript="print(1)", bucketDataDir="a/b", hfTokenSecret={"name": "hub"}))
    )
    (script,) = spec["initContainers"]
    names = set(env_of(script))
    assert not {name for name in names if name.startswith("AWS")}
    assert "HF_TOKEN" in names
    assert {name for name in env_of(spec["containers"][0]) if name.startswith("AWS")} == {
        "AWS_ACCESS_KEY_ID",
        "AWS_SECRET_ACCESS_KEY",
    }


def test_changed_value_renames_the_values_object():
    names = {
        one(render(TRAIN, TRAIN.least, sets=[f"waitSeconds={n}"]), "ConfigMap")["metadata"]["name"] for n in (1, 2, 3)
    }
    assert len(names) == 3
    assert all(re.fullmatch(r"run-values-[0-9a-f]{10}", name) for name in names)


def test_values_object_is_named_by_its_hash():
    found = one(render(TRAIN, TRAIN.least), "ConfigMap")
    digest = hashlib.sha256(found["data"]["values.json"].encode()).hexdigest()
    assert found["metadata"]["name"] == f"run-values-{digest[:10]}"
    assert found["immutable"] is True


def test_long_names_are_valid_and_distinct():
    releases = ["a" * 53, "a" * 52 + "b", "a." + "b" * 51, "a-" + "b" * 51]
    names = set()
    for release in releases:
        objects = render(SERVE, SERVE.least, release=release)
        name = one(objects, "Service")["metadata"]["name"]
        assert re.fullmatch(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?", name)
        assert one(objects, "Deployment")["metadata"]["name"] == name
        names.add(name)
    assert len(names) == len(releases)


def test_run_on_several_nodes_requires_a_host_name():
    with pytest.raises(RefusedError, match=r"Invalid release name '7b\.sweep'\. With several nodes it is also a host"):
        render(TRAIN, least(TRAIN, nodes=2), release="7b.sweep")
    assert one(render(TRAIN, least(TRAIN, nodes=1), release="7b.sweep"), "Job")


def test_number_that_helm_would_change_is_refused():
    for values in ({"env": {"A": 9007199254740993}}, {"customAccelerateConfig": {"a": {"b": [1e300]}}}):
        with pytest.raises(RefusedError, match="too large for Helm"):
            render(TRAIN, least(TRAIN, **values))
    text = values_text(opened(render(TRAIN, least(TRAIN, env={"A": "9007199254740993", "B": 9007199254740991}))))
    assert json.loads(text)["env"] == {"A": "9007199254740993", "B": "9007199254740991"}


def test_variables_that_may_be_secret_are_only_in_a_secret():
    env = {"TOKEN": CANARY, "NCCL_DEBUG": "INFO", "REF": {"name": "s", "key": "k"}}
    for chart, key in ((TRAIN, "env"), (SERVE, "env_vars")):
        for given in (env, [{"name": "TOKEN", "value": CANARY}, {"name": "NCCL_DEBUG", "value": "INFO"}]):
            objects = render(chart, least(chart, **{key: given}))
            secret = one(objects, "Secret")
            assert base64.b64decode(secret["data"]["TOKEN"]).decode() == CANARY
            others = json.dumps([found for found in objects if found["kind"] != "Secret"])
            assert CANARY not in others
            assert base64.b64encode(CANARY.encode()).decode() not in others
            (container,) = pod(objects)["containers"]
            reference = {"name": secret["metadata"]["name"], "key": "TOKEN"}
            assert env_of(container)["TOKEN"] == {"secretKeyRef": reference}
            assert env_of(container)["NCCL_DEBUG"] == "INFO"
            process = check_values(chart.model, json.loads(values_text(objects)))
            assert getattr(process, key)["TOKEN"].model_dump() == reference
            assert getattr(process, key)["NCCL_DEBUG"] == "INFO"
            assert env_secrets(one(objects, "ConfigMap")) == {secret["metadata"]["name"]}
            changed = render(chart, least(chart, **{key: {**env, "TOKEN": "another"}}))
            assert one(changed, "Secret")["metadata"]["name"] != secret["metadata"]["name"]


def test_charts_and_models_show_the_same_variables():
    texts = dict.fromkeys([*SHOWN_ENV, "SOMETHING_ELSE"], "x")
    objects = render(TRAIN, least(TRAIN, env=texts))
    assert set(one(objects, "Secret")["data"]) == {"SOMETHING_ELSE"}


OWN_PODS = {"podSelector": {"matchLabels": {"app.kubernetes.io/name": "NAME", "app.kubernetes.io/instance": "run"}}}
STORE = "https://minio:9000"


@pytest.mark.parametrize(
    ("chart", "values", "peers"),
    [
        (DELIVER, {"bucketStorageHost": STORE}, []),
        (TRAIN, {"bucketStorageHost": STORE, "nodes": 2}, []),
        (SERVE, {"bucket_storage": {"host": STORE}}, [{"from": [{"podSelector": {}}], "ports": [8080]}]),
    ],
    ids=["deliver", "finetune", "serve"],
)
def test_network_policy_is_exact(chart, values, peers):
    policy = {"enabled": True, "egressPorts": [8000]}
    spec = one(render(chart, least(chart, networkPolicy=policy, **values)), "NetworkPolicy")["spec"]
    own = json.loads(json.dumps(OWN_PODS).replace("NAME", chart_name(chart)))

    def tcp(*ports):
        return [{"port": port, "protocol": "TCP"} for port in ports]

    dns = [{"port": 53, "protocol": "UDP"}, {"port": 53, "protocol": "TCP"}]
    assert spec == {
        **own,
        "policyTypes": ["Ingress", "Egress"],
        "ingress": [*({**one, "ports": tcp(*one["ports"])} for one in peers), {"from": [own]}],
        "egress": [{"to": [own]}, {"ports": dns}, {"ports": tcp(8000, 9000)}],
    }


def chart_name(chart):
    return yaml.safe_load((chart.folder / "Chart.yaml").read_text())["name"]


def test_several_nodes_are_isolated_unless_disabled():
    own = json.loads(json.dumps(OWN_PODS).replace("NAME", chart_name(TRAIN)))
    spec = one(render(TRAIN, least(TRAIN, nodes=2)), "NetworkPolicy")["spec"]
    assert spec == {**own, "policyTypes": ["Ingress"], "ingress": [{"from": [own]}]}
    for values in ({"nodes": 1}, {"nodes": 2, "networkPolicy": {"betweenNodes": False}}):
        assert not [found for found in render(TRAIN, least(TRAIN, **values)) if found["kind"] == "NetworkPolicy"]


@pytest.mark.parametrize("given", ["8", " 8 ", "+8", "8.0", "08", 8, 8.0])
def test_whole_number_may_be_text(given):
    (container,) = pod(render(TRAIN, least(TRAIN, finetuningGpus=given)))["containers"]
    assert container["resources"]["limits"] == {"amd.com/gpu": "8"}


ROUTE = {"enabled": True, "parentRefs": [{"name": "gate"}]}
REFUSALS = (
    (TRAIN, {"nodes": "0"}, "Invalid value '0' for 'nodes'. Allowed: whole numbers from 1 to 999999999."),
    (TRAIN, {"waitSeconds": "-1"}, "Invalid value '-1' for 'waitSeconds'. Allowed: whole numbers from 0 to 999999999."),
    (
        TRAIN,
        {"labels": {"kueue.x-k8s.io/queue-name": "a"}, "queueName": "b"},
        "Conflicting values: 'queueName' is 'b' and the label 'kueue.x-k8s.io/queue-name' is 'a'."
        " Both set that label; set one of them.",
    ),
    (
        TRAIN,
        {"labels": {"app.kubernetes.io/part-of": "mine"}},
        "Invalid value 'mine' for the label 'app.kubernetes.io/part-of'."
        " The chart sets this label to identify its objects; use another one.",
    ),
    (
        TRAIN,
        {"env": {"TUNEYARD_NODES": "3"}},
        "The chart sets the variable 'TUNEYARD_NODES' itself. Remove it from 'env'.",
    ),
    (TRAIN, {"env": [{"value": "x"}]}, "Missing 'name' in an entry of 'env'. Each entry of the list needs one."),
    (
        TRAIN,
        {"env": [{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "x"}}}]},
        "Invalid source of the variable 'A' in 'env'. Allowed: a text (value) or a Secret (valueFrom.secretKeyRef).",
    ),
    (
        TRAIN,
        {"env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": False, "key": "k"}}}]},
        "The Secret's name and key at 'env.A' must be text. Put them in quotes.",
    ),
    (
        TRAIN,
        {"resources": {"limits": {"amd.com/gpu": "2"}}},
        "Conflicting values: 'resources.limits' sets 'amd.com/gpu' to '2' and 'finetuningGpus' is '1'."
        " Set the number of accelerators with 'finetuningGpus' only.",
    ),
    (SERVE, {"replicas": "none"}, "replicas"),
    (
        SERVE,
        {"httpRoute": ROUTE},
        "Missing value for 'apiKeySecret.name'. Without an API key, 'httpRoute' would expose the server to everyone;"
        " name the Secret that holds one.",
    ),
    (
        SERVE,
        {"env_vars": {"A": "(not shown)"}},
        "The value '(not shown)' at 'env_vars.A' only stands for a hidden text. Set the text itself.",
    ),
    (
        NAMESPACE,
        {"role": {"setup": True, "rules": [{"resources": ["*"], "verbs": ["get"]}]}},
        "Invalid value '*' for 'role.rules[].resources'. A wildcard would let every pod read every Secret;"
        " list each entry by name.",
    ),
    (NAMESPACE, {"external_secret": {"api_version": "v2"}}, "api_version"),
)


@pytest.mark.parametrize(("chart", "values", "message"), REFUSALS)
def test_invalid_values_are_refused_by_name(chart, values, message):
    with pytest.raises(RefusedError) as caught:
        render(chart, least(chart, **values))
    assert message in str(caught.value)


@each_chart
def test_null_means_the_default(chart):
    defaults = chart.model.model_fields
    nulls = {name: None for name, field in defaults.items() if not field.is_required()}
    plain = render(chart, chart.least)
    given = render(chart, {**nulls, **chart.least})

    def without_hash(objects: Any) -> Any:
        text = json.dumps([found for found in objects if "values.json" not in found.get("data", {})])
        return re.sub(r"-values-[0-9a-f]{10}|[0-9a-f]{64}", "", text)

    assert without_hash(given) == without_hash(plain)


def test_checkpoints_remote_defaults_to_the_release_name():
    text = values_text(render(TRAIN, TRAIN.least, release="sweep-4"))
    assert json.loads(text)["checkpointsRemote"] == "default-bucket/experiments/sweep-4"


@each_chart
def test_readme_command_renders(chart):
    (block,) = re.findall(r"```bash\n(.*?)```", (chart.folder / "README.md").read_text(), flags=re.DOTALL)
    command, apply = block.replace("\\\n", " ").split("|")
    assert apply.split()[:2] == ["kubectl", "apply"]
    assert objects_of(helm(*shlex.split(command)[1:], cwd=ROOT))


def test_generated_readmes_and_versions_are_current():
    done = subprocess.run([sys.executable, ROOT / "scripts" / "charts.py", "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_helm_unittest_finds_a_suite_for_every_template():
    suites = [file for chart in CHARTS for file in (chart.folder / "tests").rglob("*") if file.is_file()]
    flat = [file for chart in CHARTS for file in (chart.folder / "tests").glob("*_test.yaml")]
    assert sorted(suites) == sorted(flat)
    assert sum(file.read_text().count("\n  - it: ") for file in flat) >= 183
    tested = {(file.parents[1], file.name.removesuffix("_test.yaml")) for file in flat}
    assert {
        (chart.folder, file.stem) for chart in CHARTS for file in (chart.folder / "templates").glob("*.yaml")
    } == tested
