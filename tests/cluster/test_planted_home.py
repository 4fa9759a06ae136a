"""A dataScript that plants code and settings for the container that has the bucket's keys; that one uses none of it.

What holds is taken away piece by piece: the script without its sandbox, the two containers with one folder, and last
the isolated start, which shows that what is planted would run. In each case the delivering container first lists what
it sees of the plants, and then becomes the chart's own command.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import yaml

from lab.cluster.canaries import find
from lab.cluster.training_jobs import until
from lab.cluster.workspaces import STORE, Workspace, helm, kubectl, workspace
from tuneyard.store import read_manifest

pytestmark = pytest.mark.cluster

CHART = "deliver-huggingface-example-resources/helm/chart"
MARK = "planted-by-the-script"
CODE = f"import os\nos.write(2, b'{MARK} ran: %r\\n' % os.environ.get('AWS_SECRET_ACCESS_KEY'))\nos._exit(66)\n"
LINE = f"import os; os.write(2, b'{MARK} ran\\n'); os._exit(66)\n"
PACKAGES = ".local/lib/python3.11/site-packages"
PLANTS = {
    **{f"{name}.py": CODE for name in ("usercustomize", "sitecustomize", "json", "random", "typing", "tuneyard")},
    **{f"{name}.py": CODE for name in ("obstore", "pydantic", "httpx", "yaml", "encodings", ".pythonrc")},
    "planted.pth": LINE,
    f"{PACKAGES}/usercustomize.py": CODE,
    f"{PACKAGES}/planted.pth": LINE,
    "pip.conf": f"[global]\nindex-url = https://{MARK}.invalid\n",
    ".config/pip/pip.conf": f"[global]\nindex-url = https://{MARK}.invalid\n",
    ".netrc": f"default login {MARK} password {MARK}\n",
    ".aws/config": f"[default]\nendpoint_url = https://{MARK}.invalid\n",
    ".aws/credentials": f"[default]\naws_access_key_id = {MARK}\naws_secret_access_key = {MARK}\n",
    ".cache/huggingface/token": MARK,
    "home/.netrc": f"default login {MARK} password {MARK}\n",
}
ROWS = [{"messages": [{"role": "user", "content": "a yard?"}, {"role": "assistant", "content": "A tuneyard."}]}] * 3

# Plants files wherever it can write, and records everything it can read that is not the image's.
SCRIPT = f"""
import glob, json, os, pathlib

def folders():
    for folder, names, _ in os.walk("/"):
        names[:] = [name for name in names if folder != "/" or name not in ("proc", "sys", "usr", "opt")]
        yield pathlib.Path(folder)

target = pathlib.Path("/downloads/datasets")
target.mkdir(parents=True, exist_ok=True)
planted = []
for folder in [pathlib.Path.home(), *list(folders())]:
    try:
        for name, text in json.loads({json.dumps(PLANTS)!r}).items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        if folder != target:
            (folder / "to-environ").symlink_to("/proc/self/environ")
            (folder / "to-all").symlink_to("/")
        planted.append(str(folder))
    except OSError:
        pass
seen = {{"planted": planted, "environ": dict(os.environ)}}
names = ["/dev/termination-log", *glob.glob("/proc/[0-9]*/environ"), *glob.glob("/proc/[0-9]*/cmdline")]
for place in ("/etc/tuneyard", "/run", "/var/run", "/work", "/tmp", "/dev/shm"):
    names += [f"{{folder}}/{{name}}" for folder, _, files in os.walk(place) for name in files]
for name in names:
    try:
        seen[name] = open(name, errors="replace").read(100_000)
    except OSError as error:
        seen[name] = str(error)
print(json.dumps(seen))
(target / "chat.jsonl").write_text("".join(json.dumps(row) + "\\n" for row in json.loads({json.dumps(ROWS)!r})))
(target / "seen.jsonl").write_text(json.dumps(seen) + "\\n")
"""
LINKS = """
import os, pathlib
target = pathlib.Path("/downloads/datasets")
target.mkdir(parents=True, exist_ok=True)
(target / "chat.jsonl").write_text("{}")
(target / "environ.jsonl").symlink_to("/proc/self/environ")
(target / "deep").symlink_to("/proc/self")
os.mkfifo(target / "pipe.jsonl")
"""
WHOLE_LINK = """
import os
os.makedirs("/downloads", exist_ok=True)
os.symlink("/proc/self", "/downloads/datasets")
"""
WITNESS = f"""
import json, os, sys

names = {sorted({name.rpartition("/")[2] for name in PLANTS})!r}
seen = []
for folder, below, files in os.walk("/"):
    below[:] = [name for name in below if folder != "/" or name not in ("proc", "sys")]
    for name in set(files) & set(names):
        try:
            seen += [folder] if {MARK!r} in open(os.path.join(folder, name)).read() else []
        except (OSError, ValueError):
            pass
try:
    open("/downloads/new", "w")
    writes = True
except OSError:
    writes = False
print("witness", json.dumps({{"seen": sorted(set(seen)), "writes": writes}}), file=sys.stderr, flush=True)
os.execvp(sys.argv[1], sys.argv[1:])
"""

Change = Callable[[dict[str, Any], dict[str, Any]], None]
"""Changes the pod's two containers, the script's and the delivering one."""


def without_sandbox(script: str) -> Change:
    def change(first: dict[str, Any], _: dict[str, Any]) -> None:
        first["command"] = ["python", "-c", script]

    return change


def with_one_folder(first: dict[str, Any], second: dict[str, Any]) -> None:
    without_sandbox(SCRIPT)(first, second)
    (own,) = (mount for mount in first["volumeMounts"] if mount["mountPath"] == "/work")
    second["volumeMounts"] = [own if mount["mountPath"] == "/work" else mount for mount in second["volumeMounts"]]


def without_isolation(first: dict[str, Any], second: dict[str, Any]) -> None:
    with_one_folder(first, second)
    first["env"] = second["env"]
    second["command"] = [word for word in second["command"] if word not in ("-s", "-P")]


def unchanged(first: dict[str, Any], second: dict[str, Any]) -> None:
    del first, second


CASES: dict[str, Change] = {
    "as-it-is": unchanged,
    "no-sandbox": without_sandbox(SCRIPT),
    "one-folder": with_one_folder,
    "nothing-holds": without_isolation,
    "links": without_sandbox(LINKS),
    "whole-link": without_sandbox(WHOLE_LINK),
}
HELD = ("as-it-is", "no-sandbox", "kept", "one-folder")


def values(made: Workspace, case: str, **more: Any) -> dict[str, Any]:
    return {
        "bucketStorageHost": STORE,
        "dataScript": SCRIPT,
        "bucketDataDir": f"{made.prefix}/{case}",
        "storageQuantity": "1Gi",
        "storageClass": "",
        **more,
    }


def start(made: Workspace, case: str, change: Change, **more: Any) -> None:
    """Render a delivery, change its containers, and apply it; its pod is not tried twice."""
    rendered = list(yaml.safe_load_all(helm(CHART, case, made.namespace, values(made, case, **more))))
    (job,) = (document for document in rendered if document["kind"] == "Job")
    pod = job["spec"]["template"]["spec"]
    change(pod["initContainers"][0], pod["containers"][0])
    pod["containers"][0]["command"] = ["python", "-s", "-P", "-c", WITNESS, *pod["containers"][0]["command"]]
    job["spec"]["backoffLimit"] = 0
    kubectl("apply", "-f", "-", given=yaml.safe_dump_all(rendered))


def exit_code(made: Workspace, case: str) -> int:
    """Wait for the end of a delivery's pod, and return the exit code of the delivering container."""

    def look() -> dict[str, Any] | None:
        pods = json.loads(kubectl("get", "pods", "-n", made.namespace, "-l", f"job-name={case}", "-o", "json"))["items"]
        ended = [pod["status"] for pod in pods if pod["status"]["phase"] in ("Succeeded", "Failed")]
        return ended[0] if ended else None

    status = until(look, f"the end of {case}", every=1.0)
    (first,) = status["initContainerStatuses"]
    assert first["state"]["terminated"]["exitCode"] == 0, log_of(made, case, "data-script")
    return status["containerStatuses"][0]["state"]["terminated"]["exitCode"]


def log_of(made: Workspace, case: str, container: str) -> str:
    return kubectl("logs", "-n", made.namespace, f"job/{case}", "-c", container)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A namespace in which each case has run: its delivery is rendered from the chart and runs the image."""
    with workspace("tuneyard-planted", tmp_path_factory.mktemp("planted")) as made:
        claim = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}
        given = {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "kept"}, "spec": claim}
        kubectl("apply", "-n", made.namespace, "-f", "-", given=json.dumps(given))
        start(made, "kept", without_sandbox(SCRIPT), volumeClaim="kept")
        for case, change in CASES.items():
            start(made, case, change)
        assert exit_code(made, "kept") == 0, log_of(made, "kept", "deliver")
        kubectl("delete", "job", "kept", "-n", made.namespace, "--cascade=foreground", "--wait=true")
        # What an earlier script has left on a volume, the next delivery under the same name finds there.
        start(made, "kept", unchanged, volumeClaim="kept", bucketDataDir=f"{made.prefix}/kept-again")
        yield made


def witnessed(made: Workspace, case: str) -> dict[str, Any]:
    (line,) = (line for line in log_of(made, case, "deliver").splitlines() if line.startswith("witness "))
    return json.loads(line.removeprefix("witness "))


def delivered(made: Workspace, case: str) -> dict[str, bytes]:
    """Read every object below a delivery's place."""
    prefix = f"{values(made, case)['bucketDataDir']}{'-again' if case == 'kept' else ''}/"
    return {info.key.removeprefix(prefix): made.store.get(info.key).body for info in made.store.list(prefix)}


@pytest.mark.parametrize("case", HELD)
def test_the_delivery_runs_nothing_that_the_script_planted_and_succeeds(made, case):
    assert exit_code(made, case) == 0, log_of(made, case, "deliver")
    assert f"{MARK} ran" not in log_of(made, case, "deliver")
    found = delivered(made, case)
    assert [json.loads(line) for line in found["chat.jsonl"].splitlines()] == ROWS
    assert sorted(found) == [
        ".tuneyard/chat.jsonl.manifest.json",
        ".tuneyard/seen.jsonl.manifest.json",
        "chat.jsonl",
        "seen.jsonl",
    ]
    again = "-again" if case == "kept" else ""
    key = f"{values(made, case)['bucketDataDir']}{again}/.tuneyard/chat.jsonl.manifest.json"
    assert read_manifest(made.store, key).about["rows"] == len(ROWS)


@pytest.mark.parametrize("case", HELD)
def test_the_script_plants_files_wherever_it_can_and_the_delivery_reads_its_data_only(made, case):
    exit_code(made, case)
    planted = set(json.loads(delivered(made, case)["seen.jsonl"])["planted"])
    assert "/downloads/datasets" in planted
    if case in ("no-sandbox", "one-folder"):
        assert planted >= {"/work", "/work/home", "/tmp", "/dev/shm", "/downloads"}
    else:
        assert not planted & {"/work", "/work/home", "/tmp", "/downloads"}
        assert any(folder.startswith("/work/home-") for folder in planted)
    view = witnessed(made, case)
    assert view["writes"] is False
    elsewhere = {folder for folder in view["seen"] if not folder.startswith("/downloads")}
    assert bool(elsewhere) is (case == "one-folder"), elsewhere
    assert "/downloads/datasets" in view["seen"]


@pytest.mark.parametrize("case", HELD)
def test_the_bucket_s_keys_do_not_reach_the_script(made, case):
    exit_code(made, case)
    keys = dict(zip(("the access key", "the secret key"), made.keys, strict=True))
    seen = delivered(made, case)["seen.jsonl"]
    assert b"TUNEYARD_CHART" in seen or b"HF_HUB_DISABLE_IMPLICIT_TOKEN" in seen, "it has seen its environment"
    assert find(keys, {"its report": seen, "its log": log_of(made, case, "data-script").encode()}) == []


def test_without_isolation_the_planted_code_runs_and_the_keys_are_visible(made):
    assert exit_code(made, "nothing-holds") == 66
    assert f"{MARK} ran" in log_of(made, "nothing-holds", "deliver")
    keys = dict(zip(("the access key", "the secret key"), made.keys, strict=True))
    assert len(find(keys, {"its log": log_of(made, "nothing-holds", "data-script").encode()})) == 2
    assert delivered(made, "nothing-holds") == {}


@pytest.mark.parametrize(
    ("case", "words"), [("links", ("environ.jsonl", "deep", "pipe.jsonl")), ("whole-link", ("datasets",))]
)
def test_links_and_pipes_that_the_script_leaves_are_not_followed(made, case, words):
    assert exit_code(made, case) == 3
    message = log_of(made, case, "deliver")
    assert all(word in message for word in words), message
    assert delivered(made, case) == {}
