"""Running a dataScript: its environment, where it writes, and how its errors are reported."""

from __future__ import annotations

import json
import time
from pathlib import Path

import psutil
import pytest

from lab.deliveries import safetensors
from tuneyard.delivery import deliver
from tuneyard.delivery.script import check_sandbox, empty, produced_files, run_script, script_environment
from tuneyard.errors import InvalidDataError, InvalidValuesError
from tuneyard.sandbox import Locks
from tuneyard.store import open_store
from tuneyard.values import DeliverValues

SECRETS = {
    "AWS_ACCESS_KEY_ID": "canary", "AWS_SECRET_ACCESS_KEY": "canary", "AWS_SESSION_TOKEN": "canary",
    "TUNEYARD_API_KEY": "canary", "TUNEYARD_STORE": "canary", "API_ACCESS_KEY": "canary", "GITHUB_TOKEN": "canary",
    "HF_TOKEN": "canary", "HF_TOKEN_PATH": "canary", "PYTHONPATH": "canary", "LD_PRELOAD": "canary",
}  # fmt: skip
HARMLESS = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "HF_ENDPOINT": "http://hub", "HTTPS_PROXY": "http://proxy",
            "SSL_CERT_FILE": "/ca.pem", "LC_ALL": "C.UTF-8"}  # fmt: skip

WRITE_ENVIRONMENT = """
import json, os
open("/downloads/datasets/env.jsonl", "w").write(json.dumps(dict(os.environ)) + "\\n")
"""


def run(script: str, workdir: Path, *, with_hub_token: bool = False) -> Path:
    return run_script(script, workdir, with_hub_token=with_hub_token, environ={**SECRETS, **HARMLESS})


def test_the_environment_has_no_secret_and_a_home_of_its_own(tmp_path: Path) -> None:
    output = run(WRITE_ENVIRONMENT, tmp_path)
    known = json.loads((output / "env.jsonl").read_text())
    assert "canary" not in known.values()
    assert {name: known[name] for name in HARMLESS} == HARMLESS
    assert Path(known["HOME"]).parent == tmp_path
    assert known["HF_HUB_DISABLE_IMPLICIT_TOKEN"] == "1"


def test_the_environment_has_the_hubs_token_only_where_values_configure_it(tmp_path: Path) -> None:
    known = script_environment(SECRETS, tmp_path, with_hub_token=True)
    assert known == {"HF_TOKEN": "canary", "HF_TOKEN_PATH": "canary", "HOME": str(tmp_path)}
    login = tmp_path / "hub" / "token"
    login.parent.mkdir()
    login.write_text("canary")
    known = script_environment({"HF_HOME": str(login.parent)}, tmp_path, with_hub_token=True)
    assert known == {"HF_TOKEN_PATH": str(login), "HOME": str(tmp_path)}


def test_the_environment_names_none_of_the_users_caches(tmp_path: Path) -> None:
    """The user's other programs load what lies there: modules of models, tokens, datasets."""
    names = ("HF_HOME", "HF_HUB_CACHE", "HF_DATASETS_CACHE", "HF_MODULES_CACHE", "HF_ASSETS_CACHE", "HF_XET_CACHE")
    environ = {**dict.fromkeys(names, "/home/me/cache"), "HF_ENDPOINT": "http://hub", "HF_HUB_OFFLINE": "1"}
    known = script_environment(environ, tmp_path, with_hub_token=False)
    expected = {"HF_ENDPOINT": "http://hub", "HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1"}
    assert known == {**expected, "HOME": str(tmp_path)}


def test_the_environment_has_no_token_under_any_name(tmp_path: Path) -> None:
    names = ("HF_WRITE_TOKEN", "HF_TOKEN_PRIVATE", "HF_ORG_SECRET", "HF_API_KEY", "HF_KEY_2", "HF_PASSWORD", "HF_MINE")
    environ = {**dict.fromkeys(names, "hf_canary"), "HF_TEAM_TOKEN": "canary", "HF_HUB_DOWNLOAD_TIMEOUT": "60"}
    known = script_environment(environ, tmp_path, with_hub_token=True)
    assert known == {"HF_HUB_DOWNLOAD_TIMEOUT": "60", "HOME": str(tmp_path)}


def test_the_sandbox_is_logged_and_refused_where_required_and_not_sufficient(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    check_sandbox(required=False, locks=Locks(2))
    check_sandbox(required=False, locks=Locks())
    assert caplog.messages == [
        "The dataScript is confined by Landlock 2; restricted: writes, reads, processes; "
        "not restricted: truncation, signals, abstract sockets, shared memory, modes and times, the network.",
        "The dataScript is confined by none; restricted: nothing; not restricted: writes, truncation, reads, "
        "processes, signals, abstract sockets, shared memory, modes and times, the network.",
    ]
    assert check_sandbox(required=True, locks=Locks(6)) == Locks(6)
    for locks in (Locks(), Locks(5), Locks(2, seccomp=True)):
        with pytest.raises(InvalidValuesError, match="no sufficient sandbox") as caught:
            check_sandbox(required=True, locks=locks)
        assert caught.value.exit_code == 3
        assert "signals" in str(caught.value)
        assert "--set dataScriptSandbox=best-effort" in caught.value.hint


def test_a_missing_required_sandbox_is_refused_before_the_model_is_copied(tmp_path: Path) -> None:
    store = open_store((tmp_path / "store").as_uri())
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    (tmp_path / "model" / "model.safetensors").write_bytes(safetensors("a.weight", b"body"))
    script = 'open("/downloads/datasets/a.jsonl", "w").write("{}")'
    given = {"dataScript": script, "bucketDataDir": "bucket/data", "dataScriptSandbox": "required"}
    model = {"modelID": str(tmp_path / "model"), "bucketModelPath": "bucket/models/m"}
    values = DeliverValues.model_validate({**given, **model})
    with pytest.raises(InvalidValuesError, match="no sufficient sandbox"):
        deliver(values, store, workdir=tmp_path / "work", locks=Locks(5))
    assert list(store.list("bucket/")) == []
    relaxed = values.model_copy(update={"dataScriptSandbox": "best-effort"})
    assert deliver(relaxed, store, workdir=tmp_path / "work", locks=Locks()).script == "run"
    assert deliver(values, store, workdir=tmp_path / "work", locks=Locks()).script == "skipped", (
        "a delivered script is not run"
    )


def test_every_form_of_the_specifications_path_is_mapped(tmp_path: Path) -> None:
    script = """
from pathlib import Path
root = "/downloads"
Path("/downloads/datasets/a.jsonl").write_text("{}")
Path(f"{root}/datasets/b.jsonl").write_text("{}")
Path('/downloads', "datasets", 'c.jsonl').write_text("{}")
import subprocess; subprocess.run("cp /downloads/datasets/a.jsonl /downloads/datasets/d.jsonl", shell=True, check=True)
Path("e.txt").write_text("in the job's folder")
assert "https://example.com/downloads/datasets" == "https://example.com/down" + "loads/datasets"
assert "/srv/downloads/x" == "/srv" + "/down" + "loads/x"
"""
    output = run(script, tmp_path)
    assert produced_files(output) == ("a.jsonl", "b.jsonl", "c.jsonl", "d.jsonl")
    assert tmp_path in output.parents


def test_a_given_downloads_folder_is_used_as_it_is(tmp_path: Path) -> None:
    downloads = tmp_path / "downloads"
    script = 'open("/downloads/datasets/a.jsonl", "w").write("{}")'
    output = run_script(script, tmp_path / "work", with_hub_token=False, environ=HARMLESS, downloads=downloads)
    assert (output, produced_files(output)) == (downloads / "datasets", ("a.jsonl",))


def test_empty_deletes_what_an_earlier_script_left(tmp_path: Path) -> None:
    datasets = tmp_path / "datasets"
    (datasets / "deep" / "closed").mkdir(parents=True)
    (datasets / "deep" / "closed" / "old.jsonl").write_text("{}")
    (datasets / "deep").chmod(0)
    assert list((empty(tmp_path) / "datasets").iterdir()) == []
    datasets.rmdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "kept.jsonl").write_text("{}")
    datasets.symlink_to(tmp_path / "elsewhere")
    assert list((empty(tmp_path) / "datasets").iterdir()) == []
    assert (tmp_path / "elsewhere" / "kept.jsonl").exists()


def test_each_script_has_its_own_home_which_its_runs_share(tmp_path: Path) -> None:
    plant = 'import pathlib; pathlib.Path.home().joinpath(".netrc").write_text("planted")\n'
    look = 'import os; open("/downloads/datasets/a.jsonl", "w").write(str(os.listdir(os.environ["HOME"])))'
    first, again = run(plant + look, tmp_path), run(plant + look, tmp_path)
    assert (first / "a.jsonl").read_text() == (again / "a.jsonl").read_text() == "['.netrc']"
    assert (run(look, tmp_path) / "a.jsonl").read_text() == "[]"


def test_each_run_starts_with_an_empty_folder(tmp_path: Path) -> None:
    first = run('open("/downloads/datasets/a.jsonl", "w").write("{}")', tmp_path)
    second = run('open("/downloads/datasets/b.jsonl", "w").write("{}")', tmp_path)
    assert (produced_files(first), produced_files(second)) == (("a.jsonl",), ("b.jsonl",))


def test_a_failure_reports_the_last_line_and_logs_the_output(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    with pytest.raises(InvalidDataError, match="failed with exit code 1: KeyError: 'kind'") as caught:
        run('print("loading")\nprint("10 %\\r20 %\\r")\nrow = {}\nrow["kind"]\n', tmp_path)
    assert caught.value.exit_code == 3
    assert "data_script.py" in caught.value.hint
    start = caplog.messages.index("loading")
    assert caplog.messages[start : start + 3] == ["loading", "20 %", "Traceback (most recent call last):"]
    assert any("line 4" in line for line in caplog.messages)


def test_a_missing_package_is_reported_with_how_to_install_it(tmp_path: Path) -> None:
    with pytest.raises(InvalidDataError, match="No module named 'no_such_package'") as caught:
        run("import no_such_package", tmp_path)
    assert "pip install" in caught.value.hint


def test_a_killed_script_is_reported_with_its_signal(tmp_path: Path) -> None:
    with pytest.raises(InvalidDataError, match="killed by signal 9"):
        run("import os; os.kill(os.getpid(), 9)", tmp_path)


def test_a_script_that_writes_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidDataError, match="wrote nothing to /downloads/datasets"):
        produced_files(run("pass", tmp_path))


def test_other_files_are_logged_and_not_delivered(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    output = run('[open("/downloads/datasets/" + n, "w").write("{}") for n in ("a.jsonl", "notes.txt")]', tmp_path)
    assert produced_files(output) == ("a.jsonl",)
    assert caplog.messages[-1] == "Not delivered, since only .jsonl and .parquet files are datasets: notes.txt."


@pytest.mark.parametrize("folder", ["/downloads/datasets", "/downloads"])
def test_a_folder_replaced_by_a_link_is_refused(tmp_path: Path, folder: str) -> None:
    (tmp_path / "private" / "datasets").mkdir(parents=True)
    (tmp_path / "private" / "datasets" / "a.jsonl").write_text("private")
    target = tmp_path / "private" / ("datasets" if folder.endswith("datasets") else "")
    script = f"import os; os.rename('{folder}', 'aside'); os.symlink({str(target)!r}, '{folder}')"
    with pytest.raises(InvalidDataError, match="replaced the folder"):
        run(script, tmp_path / "work")
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "private" / "datasets")
    with pytest.raises(InvalidDataError, match="replaced the folder"):
        produced_files(link)


def test_processes_left_running_are_killed_and_cannot_change_the_files(tmp_path: Path) -> None:
    here = "import time; time.sleep(60)"
    apart = (
        "import os, time\n"
        "while os.path.exists('/downloads/datasets/a.jsonl'): pass\n"
        "for place in os.listdir({work!r}):\n"
        "    try: open(os.path.join({work!r}, place, 'datasets', 'a.jsonl'), 'a').write('changed')\n"
        "    except OSError: pass\n"
        "open(os.path.expanduser('~/tried'), 'w')\n"
    )
    script = (
        "import subprocess, sys\nopen('/downloads/datasets/a.jsonl', 'w').write('{}')\n"
        "quiet = {'stdout': subprocess.DEVNULL, 'stderr': subprocess.DEVNULL}\n"
        f"subprocess.Popen([sys.executable, '-c', {here!r}], **quiet)\n"
        f"apart = [sys.executable, '-c', {apart.format(work=str(tmp_path))!r}]\n"
        "subprocess.Popen(apart, start_new_session=True, **quiet)\n"
    )
    output = run(script, tmp_path)
    (home,) = tmp_path.glob("home-*")
    until = time.monotonic() + 120
    while not (home / "tried").exists() and time.monotonic() < until:
        time.sleep(0.02)
    assert (output / "a.jsonl").read_text() == "{}"
    alive = [one.info for one in psutil.process_iter(["cmdline", "environ", "status"])]
    assert not [one for one in alive if here in (one["cmdline"] or ()) and str(tmp_path) in str(one["environ"])]


@pytest.mark.parametrize(
    ("script", "wrong"),
    [
        ('import os; os.symlink("/etc/passwd", "/downloads/datasets/a.jsonl")', "is a link"),
        ('import os; os.symlink("/etc", "/downloads/datasets/folder")', "is a link"),
        ('open("/downloads/datasets/a\\nb.jsonl", "w").write("{}")', "character in its name"),
        ('open("/downloads/datasets/.a.jsonl", "w").write("{}")', "begins with a dot"),
        ('open("/downloads/datasets/a.jsonl", "w")', "is empty"),
    ],
)
def test_links_and_odd_names_are_refused(tmp_path: Path, script: str, wrong: str) -> None:
    with pytest.raises(InvalidDataError, match="can't be delivered") as caught:
        produced_files(run(script, tmp_path))
    assert wrong in str(caught.value.problems[0])


def test_a_workdir_whose_name_would_break_the_script_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidValuesError, match="can't be used in a dataScript"):
        run("pass", tmp_path / 'a"b')
