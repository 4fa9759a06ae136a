"""Running a dataScript: what it may know, where it writes, how its mistakes are told."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tuneyard.deliver.script import produced_files, run_script, script_environment
from tuneyard.errors import InvalidDataError, InvalidValuesError

SECRETS = {
    "AWS_ACCESS_KEY_ID": "canary", "AWS_SECRET_ACCESS_KEY": "canary", "AWS_SESSION_TOKEN": "canary",
    "TUNEYARD_API_KEY": "canary", "TUNEYARD_STORE": "canary", "API_ACCESS_KEY": "canary", "GITHUB_TOKEN": "canary",
    "HF_TOKEN": "canary", "HF_TOKEN_PATH": "canary", "PYTHONPATH": "canary", "LD_PRELOAD": "canary",
}  # fmt: skip
HARMLESS = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "HF_ENDPOINT": "http://hub", "HTTPS_PROXY": "http://proxy",
            "SSL_CERT_FILE": "/ca.pem", "LC_ALL": "C.UTF-8"}  # fmt: skip

TELL_ENVIRONMENT = """
import json, os
open("/downloads/datasets/env.jsonl", "w").write(json.dumps(dict(os.environ)) + "\\n")
"""


def run(script: str, workdir: Path, *, with_hub_token: bool = False) -> Path:
    return run_script(script, workdir, with_hub_token=with_hub_token, environ={**SECRETS, **HARMLESS})


def test_a_script_knows_no_secret_and_has_a_home_of_its_own(tmp_path: Path) -> None:
    output = run(TELL_ENVIRONMENT, tmp_path)
    known = json.loads((output / "env.jsonl").read_text())
    assert "canary" not in known.values()
    assert {name: known[name] for name in HARMLESS} == HARMLESS
    assert known["HOME"] == str(tmp_path / "home")
    assert known["HF_HUB_DISABLE_IMPLICIT_TOKEN"] == "1"


def test_a_script_knows_the_hubs_token_only_where_the_values_ask_for_it(tmp_path: Path) -> None:
    known = script_environment(SECRETS, tmp_path, with_hub_token=True)
    assert known == {"HF_TOKEN": "canary", "HF_TOKEN_PATH": "canary", "HOME": str(tmp_path)}


def test_the_specifications_path_is_mapped_in_every_form_it_is_written(tmp_path: Path) -> None:
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


def test_each_run_begins_with_an_empty_folder(tmp_path: Path) -> None:
    first = run('open("/downloads/datasets/a.jsonl", "w").write("{}")', tmp_path)
    second = run('open("/downloads/datasets/b.jsonl", "w").write("{}")', tmp_path)
    assert (produced_files(first), produced_files(second)) == (("a.jsonl",), ("b.jsonl",))


def test_a_failing_script_is_told_by_its_last_line_and_its_output_is_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(InvalidDataError, match="failed with exit code 1: KeyError: 'kind'") as caught:
        run('print("loading")\nrow = {}\nrow["kind"]\n', tmp_path)
    assert caught.value.exit_code == 3
    assert "data_script.py" in caught.value.hint
    shown = capsys.readouterr().err
    assert "loading" in shown
    assert "line 3" in shown


def test_a_missing_package_is_told_with_how_to_install_it(tmp_path: Path) -> None:
    with pytest.raises(InvalidDataError, match="No module named 'no_such_package'") as caught:
        run("import no_such_package", tmp_path)
    assert "pip install" in caught.value.hint


def test_a_script_that_kills_itself_is_told_by_its_signal(tmp_path: Path) -> None:
    with pytest.raises(InvalidDataError, match="ended by signal 9"):
        run("import os; os.kill(os.getpid(), 9)", tmp_path)


def test_a_script_that_writes_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidDataError, match="wrote nothing into /downloads/datasets"):
        produced_files(run("pass", tmp_path))


def test_other_files_are_named_and_not_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = run('[open("/downloads/datasets/" + n, "w").write("{}") for n in ("a.jsonl", "notes.txt")]', tmp_path)
    capsys.readouterr()
    assert produced_files(output) == ("a.jsonl",)
    assert "notes.txt" in capsys.readouterr().err


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


def test_a_folder_whose_name_would_break_the_script_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidValuesError, match="can't stand in a dataScript"):
        run("pass", tmp_path / 'a"b')
