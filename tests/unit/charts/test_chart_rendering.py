"""What the charts render: the walkthrough's commands, the same bytes every time, no shell, no secret."""

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
    """Values that make every object of a chart."""
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
def test_a_command_of_the_walkthrough_renders(command, kinds):
    objects = objects_of(helm(*shlex.split(command)[1:], cwd=ROOT))
    assert sorted(found["kind"] for found in objects) == sorted(kinds)
    stamped = "silo" if "Job" in kinds else None
    assert {found["metadata"].get("namespace") for found in objects} == {stamped}


def test_the_walkthroughs_names_are_the_objects_names():
    queue = render(NAMESPACE, {"kueue": {"setup": True, "cluster_queue_name": "kaiwo"}})
    assert one(queue, "LocalQueue")["metadata"]["name"] == "kaiwo"
    assert one(queue, "LocalQueue")["spec"] == {"clusterQueue": "kaiwo"}
    assert one(render(TRAIN, TRAIN.least, release="a-4"), "Job")["metadata"]["name"] == "a-4"
    served = render(SERVE, SERVE.least, release="tiny")
    assert one(served, "Deployment")["metadata"]["name"] == "llm-inference-vllm-tiny"
    assert one(served, "Service")["spec"]["ports"][0]["port"] == 8080


@each_chart
def test_rendering_again_and_from_elsewhere_gives_the_same_bytes(chart, tmp_path):
    values = everything(chart)
    first = render_text(chart, values, cwd=ROOT)
    assert first
    assert render_text(chart, values, cwd=ROOT) == first
    assert render_text(chart, values, cwd=tmp_path) == first


def test_no_template_asks_for_the_time_for_chance_or_for_the_cluster():
    templates = [file for chart in CHARTS for file in (chart.folder / "templates").iterdir()]
    assert len(templates) >= 24
    for file in templates:
        code = re.sub(r"\{\{-? /\*.*?\*/ -?\}\}", "", file.read_text(), flags=re.DOTALL)
        actions = " ".join(re.findall(r"\{\{.*?\}\}", code))
        words = set(re.sub(r'"[^"]*"', "", actions).replace("(", " ").replace(")", " ").split())
        assert not {word for word in words if word in VARYING or word.startswith(("rand", "gen"))}, file


@each_chart
def test_every_object_has_the_labels_that_it_is_found_by(chart):
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
def test_no_command_is_a_shell_s_and_none_has_words_of_the_values(chart):
    if chart is NAMESPACE:
        pytest.skip("it runs nothing")
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
def test_a_misspelt_value_is_refused(chart, misspelt):
    with pytest.raises(RefusedError, match=misspelt):
        render(chart, least(chart, **{misspelt: {"a": "b"}}))


def test_a_misspelt_value_inside_is_refused():
    values = copy.deepcopy(TRAIN.least)
    values["finetuning_config"]["training_args"] = {"lerning_rate": 1}
    with pytest.raises(RefusedError, match="lerning_rate"):
        render(TRAIN, values)
    with pytest.raises(RefusedError, match="sizLimit"):
        render(SERVE, least(SERVE, dshm={"sizLimit": "1Gi"}))
    with pytest.raises(RefusedError, match="SOME_NAME"):
        render(NAMESPACE, {"site": {"setup": True, "env": {"SOME_NAME": "x"}}})


@each_chart
def test_a_packaged_chart_holds_its_schema_and_no_overrides(chart, tmp_path):
    helm("package", chart.folder, "--destination", tmp_path)
    (archive,) = tmp_path.glob("*.tgz")
    with tarfile.open(archive) as package:
        names = package.getnames()
    assert any(name.endswith("values.schema.json") for name in names)
    assert not [name for name in names if "overrides" in name or "/tests/" in name]


@pytest.mark.parametrize("path", OTHERS, ids=lambda path: path.stem)
def test_other_peoples_files_of_that_time_mean_the_same_to_helm_and_to_the_models(path, tmp_path):
    chart = CHART_OF[path.stem.split("-")[0]]
    objects = render(chart, files=[path])
    if chart is NAMESPACE:
        assert {found["kind"] for found in objects} == {"LocalQueue", "ExternalSecret", "Role", "RoleBinding"}
        assert one(objects, "ExternalSecret")["apiVersion"] == "external-secrets.io/v1beta1"
        return
    file = tmp_path / "values.json"
    file.write_text(values_text(opened(objects)), encoding="utf-8")
    assert canonical_json(read_values(chart.model, file)) == canonical_json(load_values(chart.model, [path]))


def test_there_are_six_files_of_that_time():
    assert len(OTHERS) >= 6


@pytest.mark.parametrize("chart", [DELIVER, TRAIN], ids=lambda chart: chart.name)
def test_the_walkthroughs_files_mean_the_same_to_helm_and_to_the_models(chart, tmp_path):
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


def test_old_spellings_of_the_server_reach_its_objects():
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
def test_the_two_containers_of_a_delivery_share_nothing_but_the_files_of_data(claim):
    spec = pod(render(DELIVER, least(DELIVER, dataScript="print(1)", bucketDataDir="a/b", volumeClaim=claim)))
    (script,), (deliver,) = spec["initContainers"], spec["containers"]
    volumes = {volume["name"]: volume for volume in spec["volumes"]}

    def places(container: dict[str, Any]) -> dict[tuple[str, str], dict[str, Any]]:
        return {(mount["name"], mount.get("subPath", "")): mount for mount in container["volumeMounts"]}

    written = {place for place, mount in places(script).items() if not mount.get("readOnly")}
    assert all(subpath or name not in {"work"} for name, subpath in written), "the whole volume holds the others"
    shared = {place: places(deliver)[place] for place in written if place in places(deliver)}
    assert {(mount["mountPath"], mount.get("readOnly")) for mount in shared.values()} == {("/downloads", True)}
    for place in places(script).keys() & places(deliver).keys() - written:
        assert {"configMap", "projected"} & set(volumes[place[0]]), "nobody writes it"
    for container in (script, deliver):
        assert {"/tmp", "/dev/shm", "/work"} <= {mount["mountPath"] for mount in container["volumeMounts"]}
        assert container["securityContext"]["readOnlyRootFilesystem"] is True
        assert env_of(container)["HOME"] == "/work/home"
    assert not spec.get("shareProcessNamespace")
    assert spec["automountServiceAccountToken"] is False


CANARY = "canary-5f2c"


def test_what_a_secret_holds_is_named_and_never_rendered():
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


def test_a_key_written_into_values_is_refused_and_not_repeated():
    values = copy.deepcopy(TRAIN.least)
    values["finetuning_config"]["training_args"] = {"hub_token": CANARY}
    for chart, given in (
        (SERVE, least(SERVE, env_vars={"TUNEYARD_API_KEY": CANARY})),
        (TRAIN, least(TRAIN, env={"TUNEYARD_API_KEY": CANARY})),
    ):
        with pytest.raises(RefusedError) as told:
            render(chart, given)
        assert CANARY not in str(told.value)


def test_the_data_script_does_not_see_the_stores_keys():
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


def test_a_value_that_differs_names_another_values_object():
    names = {
        one(render(TRAIN, TRAIN.least, sets=[f"waitSeconds={n}"]), "ConfigMap")["metadata"]["name"] for n in (1, 2, 3)
    }
    assert len(names) == 3
    assert all(re.fullmatch(r"run-values-[0-9a-f]{10}", name) for name in names)


def test_the_name_of_a_values_object_is_its_hash():
    found = one(render(TRAIN, TRAIN.least), "ConfigMap")
    digest = hashlib.sha256(found["data"]["values.json"].encode()).hexdigest()
    assert found["metadata"]["name"] == f"run-values-{digest[:10]}"
    assert found["immutable"] is True


def test_long_names_fit_and_stay_apart():
    releases = ["a" * 53, "a" * 52 + "b", "a." + "b" * 51, "a-" + "b" * 51]
    names = set()
    for release in releases:
        objects = render(SERVE, SERVE.least, release=release)
        name = one(objects, "Service")["metadata"]["name"]
        assert re.fullmatch(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?", name)
        assert one(objects, "Deployment")["metadata"]["name"] == name
        names.add(name)
    assert len(names) == len(releases)


def test_a_run_on_several_nodes_needs_a_name_that_is_a_hosts():
    with pytest.raises(RefusedError, match="begins with a letter and has no dots"):
        render(TRAIN, least(TRAIN, nodes=2), release="7b.sweep")
    assert one(render(TRAIN, least(TRAIN, nodes=1), release="7b.sweep"), "Job")


def test_a_number_that_helm_would_change_is_refused():
    for values in ({"env": {"A": 9007199254740993}}, {"customAccelerateConfig": {"a": {"b": [1e300]}}}):
        with pytest.raises(RefusedError, match="too large a number"):
            render(TRAIN, least(TRAIN, **values))
    text = values_text(opened(render(TRAIN, least(TRAIN, env={"A": "9007199254740993", "B": 9007199254740991}))))
    assert json.loads(text)["env"] == {"A": "9007199254740993", "B": "9007199254740991"}


def test_texts_of_variables_that_may_be_secrets_are_in_a_secret_alone():
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
            again = render(chart, least(chart, **{key: {**env, "TOKEN": "another"}}))
            assert one(again, "Secret")["metadata"]["name"] != secret["metadata"]["name"]


def test_what_the_charts_show_is_what_the_models_show():
    texts = dict.fromkeys([*SHOWN_ENV, "SOMETHING_ELSE"], "x")
    objects = render(TRAIN, least(TRAIN, env=texts))
    assert set(one(objects, "Secret")["data"]) == {"SOMETHING_ELSE"}


NOBODY_ELSE = {"podSelector": {"matchLabels": {"app.kubernetes.io/name": "NAME", "app.kubernetes.io/instance": "run"}}}
STORE = "https://minio:9000"


@pytest.mark.parametrize(
    ("chart", "values", "who"),
    [
        (DELIVER, {"bucketStorageHost": STORE}, []),
        (TRAIN, {"bucketStorageHost": STORE, "nodes": 2}, []),
        (SERVE, {"bucket_storage": {"host": STORE}}, [{"from": [{"podSelector": {}}], "ports": [8080]}]),
    ],
    ids=["deliver", "finetune", "serve"],
)
def test_a_narrowed_network_is_exactly_this(chart, values, who):
    policy = {"enabled": True, "egressPorts": [8000]}
    spec = one(render(chart, least(chart, networkPolicy=policy, **values)), "NetworkPolicy")["spec"]
    own = json.loads(json.dumps(NOBODY_ELSE).replace("NAME", chart_name(chart)))

    def tcp(*ports):
        return [{"port": port, "protocol": "TCP"} for port in ports]

    names = [{"port": 53, "protocol": "UDP"}, {"port": 53, "protocol": "TCP"}]
    assert spec == {
        **own,
        "policyTypes": ["Ingress", "Egress"],
        "ingress": [*({**one, "ports": tcp(*one["ports"])} for one in who), {"from": [own]}],
        "egress": [{"to": [own]}, {"ports": names}, {"ports": tcp(8000, 9000)}],
    }


def chart_name(chart):
    return yaml.safe_load((chart.folder / "Chart.yaml").read_text())["name"]


def test_several_nodes_are_out_of_others_reach_whatever_the_values_narrow():
    own = json.loads(json.dumps(NOBODY_ELSE).replace("NAME", chart_name(TRAIN)))
    spec = one(render(TRAIN, least(TRAIN, nodes=2)), "NetworkPolicy")["spec"]
    assert spec == {**own, "policyTypes": ["Ingress"], "ingress": [{"from": [own]}]}
    for values in ({"nodes": 1}, {"nodes": 2, "networkPolicy": {"betweenNodes": False}}):
        assert not [found for found in render(TRAIN, least(TRAIN, **values)) if found["kind"] == "NetworkPolicy"]


@pytest.mark.parametrize("given", ["8", " 8 ", "+8", "8.0", "08", 8, 8.0])
def test_a_whole_number_may_come_as_text(given):
    (container,) = pod(render(TRAIN, least(TRAIN, finetuningGpus=given)))["containers"]
    assert container["resources"]["limits"] == {"amd.com/gpu": "8"}


@pytest.mark.parametrize(
    ("chart", "values", "said"),
    [
        (TRAIN, {"nodes": "0"}, 'nodes is "0": a whole number from 1'),
        (TRAIN, {"finetuningGpus": "-1"}, "finetuningGpus"),
        (TRAIN, {"labels": {"kueue.x-k8s.io/queue-name": "a"}, "queueName": "b"}, "give one of them"),
        (TRAIN, {"labels": {"app.kubernetes.io/part-of": "mine"}}, "the chart sets it itself"),
        (TRAIN, {"env": {"TUNEYARD_NODES": "3"}}, "set by the chart itself"),
        (TRAIN, {"env": [{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "x"}}}]}, "isn't a Secret"),
        (TRAIN, {"env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": False, "key": "k"}}}]}, "in quotes"),
        (TRAIN, {"resources": {"limits": {"amd.com/gpu": "2"}}}, "counted by their own key"),
        (SERVE, {"replicas": "none"}, "replicas"),
        (SERVE, {"httpRoute": {"enabled": True, "parentRefs": [{"name": "gate"}]}}, "apiKeySecret.name is missing"),
        (SERVE, {"env_vars": {"A": "(not shown)"}}, "env_vars.A was printed without its text"),
        (NAMESPACE, {"role": {"setup": True, "rules": [{"resources": ["*"], "verbs": ["get"]}]}}, "name each"),
        (NAMESPACE, {"external_secret": {"api_version": "v2"}}, "api_version"),
    ],
)
def test_values_that_can_not_be_meant_are_refused_by_name(chart, values, said):
    with pytest.raises(RefusedError) as told:
        render(chart, least(chart, **values))
    assert said in str(told.value).replace('\\"', '"')


@each_chart
def test_null_is_the_default_everywhere(chart):
    defaults = chart.model.model_fields
    nulls = {name: None for name, field in defaults.items() if not field.is_required()}
    plain = render(chart, chart.least)
    given = render(chart, {**nulls, **chart.least})

    def without_hash(objects: Any) -> Any:
        text = json.dumps([found for found in objects if "values.json" not in found.get("data", {})])
        return re.sub(r"-values-[0-9a-f]{10}|[0-9a-f]{64}", "", text)

    assert without_hash(given) == without_hash(plain)


def test_a_finetuning_run_without_a_place_for_its_results_gets_one_by_its_name():
    text = values_text(render(TRAIN, TRAIN.least, release="sweep-4"))
    assert json.loads(text)["checkpointsRemote"] == "default-bucket/experiments/sweep-4"


@each_chart
def test_the_readmes_command_renders(chart):
    (block,) = re.findall(r"```bash\n(.*?)```", (chart.folder / "README.md").read_text(), flags=re.DOTALL)
    command, apply = block.replace("\\\n", " ").split("|")
    assert apply.split()[:2] == ["kubectl", "apply"]
    assert objects_of(helm(*shlex.split(command)[1:], cwd=ROOT))


def test_readmes_and_versions_are_up_to_date():
    done = subprocess.run([sys.executable, ROOT / "scripts" / "charts.py", "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_suite_lies_where_helm_unittest_looks_and_there_are_many_cases():
    suites = [file for chart in CHARTS for file in (chart.folder / "tests").rglob("*") if file.is_file()]
    flat = [file for chart in CHARTS for file in (chart.folder / "tests").glob("*_test.yaml")]
    assert sorted(suites) == sorted(flat)
    assert sum(file.read_text().count("\n  - it: ") for file in flat) >= 183
    tested = {(file.parents[1], file.name.removesuffix("_test.yaml")) for file in flat}
    assert {
        (chart.folder, file.stem) for chart in CHARTS for file in (chart.folder / "templates").glob("*.yaml")
    } == tested
