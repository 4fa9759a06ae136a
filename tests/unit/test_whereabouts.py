"""The names of settings on a machine and in a pod, and that hints of code that runs in pods are chosen by them."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from obstore.exceptions import GenericError

import tuneyard
from lab.value_keys import has_key
from tuneyard.device import choose_device
from tuneyard.errors import DeniedError, UsageError
from tuneyard.store import open_store
from tuneyard.store.s3_errors import explain
from tuneyard.values import DeliverValues, FinetuneValues, InferenceValues, NamespaceValues
from tuneyard.values.base import Values
from tuneyard.whereabouts import CHART_VARIABLE, SITE_NAMES, assignment, command, installation, more_room, setting

SOURCE = Path(tuneyard.__file__).parent
MODELS: dict[str, type[Values]] = {"deliver": DeliverValues, "finetune": FinetuneValues, "serve": InferenceValues}
VARIABLES = (
    "TUNEYARD_STORE",
    "TUNEYARD_API_KEY",
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_CA_BUNDLE",
    "AWS_REGION",
    "HF_TOKEN",
    "SSL_CERT_FILE",
    *SITE_NAMES,
)
# Rooms whose texts are read from pods too.
IN_PODS = ("store", "hub", "delivery", "data", "checkpoints")
SAYS_WHERE = {"assignment", "command", "fitting", "installation", "more_room", "setting"}
FITS_A_MACHINE_ALONE = re.compile(
    r"\b(AWS|HF|TUNEYARD|SSL|HTTP|HTTPS)_[A-Z_]+|\bexport |\bunset |pip install|"
    r"\btuneyard (runs|logs|deliver|finetune|serve|gc|watch|stop)\b"
)


@pytest.fixture(params=["deliver", "finetune", "serve"])
def chart(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv(CHART_VARIABLE, request.param)
    return request.param


def test_on_a_machine_a_setting_is_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(CHART_VARIABLE, raising=False)
    assert setting("AWS_CA_BUNDLE") == "AWS_CA_BUNDLE"
    assert assignment("AWS_CA_BUNDLE", "/path/to/ca.pem") == "export AWS_CA_BUNDLE=/path/to/ca.pem"
    assert command("tuneyard runs") == "tuneyard runs"
    assert more_room("/srv") == "Free space on its disk: df -h /srv"
    assert installation("train") == 'pip install "tuneyard[train]"'


def test_a_pod_of_the_users_own_is_a_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(CHART_VARIABLE, raising=False)
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    assert setting("AWS_CA_BUNDLE") == "AWS_CA_BUNDLE"


@pytest.mark.parametrize("name", VARIABLES)
def test_hints_in_a_pod_name_keys_of_its_chart(chart: str, name: str) -> None:
    advised = assignment(name, "value")
    assert not advised.startswith("export")
    for given in re.findall(r"--set(?:-file)? (\S+?)=", advised):
        model = NamespaceValues if "k8s-namespace-setup" in advised else MODELS[chart]
        if name == "TUNEYARD_API_KEY" and chart != "serve":
            continue  # no other process reads it
        assert has_key(model, given), f"{chart} has no value {given}"


@pytest.mark.parametrize("name", VARIABLES)
def test_the_name_of_a_setting_in_a_pod_is_the_one_in_its_assignment(chart: str, name: str) -> None:
    key = re.search(r"--set (\S+?)=", assignment(name, "value"))
    called = setting(name)
    assert called != name
    assert "site" in called or (key and key[1] in called) or called == f"{name} in the image"


def test_a_pod_s_volume_grows_by_keys_of_its_chart(chart: str) -> None:
    keys = more_room("/work").partition(": ")[2].split(" and ")
    assert keys
    for key in keys:
        assert has_key(MODELS[chart], key), key


def test_the_containers_of_the_charts_name_their_chart() -> None:
    template = (SOURCE.parents[1] / "workloads" / "_tuneyard.tpl").read_text(encoding="utf-8")
    environment = template.partition('define "tuneyard.siteEnv"')[2].partition("{{- end -}}")[0]
    assert f'name: {CHART_VARIABLE}, value: {{{{ include "tuneyard.component" . }}}}' in environment
    assert f'"{CHART_VARIABLE}"' in template.partition("$fixed := list")[2].partition("\n")[0]


def test_the_hint_for_an_untrusted_certificate_names_a_setting_of_the_target(monkeypatch: pytest.MonkeyPatch) -> None:
    def hint() -> str:
        error = GenericError("client error (Connect): invalid peer certificate: InvalidCertificate(UnknownIssuer)")
        return explain(error, "https://minio:9000", "bucket", "key").hint

    monkeypatch.delenv(CHART_VARIABLE, raising=False)
    assert hint() == "Configure the authority that signed it: export AWS_CA_BUNDLE=/path/to/ca.pem"
    monkeypatch.setenv(CHART_VARIABLE, "finetune")
    assert hint() == "Configure the authority that signed it: --set bucketCABundle.configMap=NAME"


def test_the_hint_for_missing_keys_names_a_setting_of_the_target(monkeypatch: pytest.MonkeyPatch) -> None:
    def hint() -> str:
        with pytest.raises(DeniedError) as caught:
            open_store("https://minio:9000", environ={"HOME": "/nowhere"})
        return caught.value.hint

    monkeypatch.delenv(CHART_VARIABLE, raising=False)
    assert hint() == "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE."
    monkeypatch.setenv(CHART_VARIABLE, "serve")
    assert hint() == "Name the Secret with its keys: --set bucket_storage.credentials.secret_name=NAME"


def test_the_hint_for_a_wrong_device_names_a_setting_of_the_target(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNEYARD_DEVICE", "tpu")
    monkeypatch.setenv(CHART_VARIABLE, "finetune")
    with pytest.raises(UsageError) as caught:
        choose_device("", 1, key="finetuningGpus")
    assert caught.value.hint == "Correct or remove TUNEYARD_DEVICE in the ConfigMap tuneyard-site."


def test_every_hint_of_code_in_pods_depends_on_where_it_runs() -> None:
    found = list(_hints())
    assert len(found) > 80
    unfit = [f"{where}: {text!r}" for where, text in found if FITS_A_MACHINE_ALONE.search(text)]
    assert unfit == []


def _hints() -> Iterator[tuple[str, str]]:
    """Return the texts of hints that no function of `whereabouts` has chosen, with where they stand."""
    bottom = [path for path in SOURCE.glob("*.py") if path.stem in {"address", "device", "folders", "process"}]
    for path in sorted([*bottom, *(file for room in IN_PODS for file in (SOURCE / room).rglob("*.py"))]):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.keyword) and node.arg == "hint":
                for text in _own_texts(node.value):
                    yield f"{path.relative_to(SOURCE)}:{node.value.lineno}", text


def _own_texts(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in SAYS_WHERE:
        return
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    for child in ast.iter_child_nodes(node):
        yield from _own_texts(child)
