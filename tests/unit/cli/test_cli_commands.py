"""Every command of the real `tuneyard` process that needs no finished run: help, lists, mistakes, dry runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import yaml

from lab.tiny_models import make_tokenizer

VERBS = ("deliver", "plan", "finetune", "serve", "chat", "runs", "logs", "watch", "stop", "delete", "data", "values")
FINETUNE = {
    "basemodel": "default-bucket/models/tiny",
    "gpuResource": "",
    "finetuning_config": {
        "method": "sft",
        "data_conf": {
            "training_data": {"type": "CONCATENATION", "datasets": [{"path": "default-bucket/datasets/facts.jsonl"}]}
        },
    },
}


@pytest.fixture
def finetune_file(tmp_path):
    path = tmp_path / "lora.yaml"
    path.write_text(yaml.safe_dump(FINETUNE))
    return str(path)


def test_help_lists_every_verb(tuneyard):
    done = tuneyard("--help")
    assert done.code == 0
    listed = {line.split()[0] for line in done.out.partition("Commands:")[2].splitlines() if line.strip()}
    assert {*VERBS, "version"} <= listed


@pytest.mark.parametrize("verb", VERBS)
def test_each_verb_has_help_without_loading_anything(tuneyard, verb):
    done = tuneyard(verb, "--help")
    assert done.code == 0, done.err
    assert done.out.startswith("Usage: tuneyard ")


def test_no_argument_shows_the_help(tuneyard):
    done = tuneyard()
    assert "Commands:" in done.out + done.err


def test_python_m_is_the_same_command(tuneyard):
    done = subprocess.run([sys.executable, "-m", "tuneyard", "version"], capture_output=True, text=True, check=True)
    assert done.stdout == tuneyard("version").out


def test_version_as_json(tuneyard):
    assert tuneyard("version", "--json").json.keys() == {"schema", "version", "python"}


def test_an_unknown_verb_is_a_usage_error(tuneyard):
    done = tuneyard("fintune")
    assert done.code == 2
    assert "fintune" in done.err
    assert "Traceback" not in done.err


def test_runs_of_an_empty_home_are_an_empty_list(tuneyard, tmp_path):
    done = tuneyard("runs")
    assert (done.code, done.out) == (0, "")
    assert "There are no runs yet." in done.err
    assert tuneyard("runs", "--json").json == {"schema": 1, "runs": []}
    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize("words", [("logs",), ("watch",), ("stop",), ("delete", "--yes"), ("runs", "show")])
def test_a_run_that_is_not_there_is_not_found(tuneyard, words):
    done = tuneyard(*words, "nope")
    done.is_a_mistake(4)
    assert "error: There is no run named 'nope'." in done.err
    assert "hint: List the runs: tuneyard runs" in done.err


def test_an_invalid_run_name_is_a_usage_error(tuneyard):
    done = tuneyard("logs", "../etc")
    done.is_a_mistake(2)


@pytest.mark.parametrize("option", ["--context", "--namespace"])
def test_a_clusters_options_are_refused_on_this_machine(tuneyard, option):
    done = tuneyard("runs", option, "x")
    done.is_a_mistake(2)
    assert f"{option} can't be used on this machine." in done.err


@pytest.mark.parametrize("verb", ["deliver", "finetune", "serve"])
def test_a_values_file_that_is_not_there_is_not_found(tuneyard, verb):
    done = tuneyard(verb, "-f", "nowhere.yaml")
    done.is_a_mistake(4)
    assert "nowhere.yaml" in done.err


def test_an_unknown_key_is_reported_with_the_likely_one(tuneyard, finetune_file):
    done = tuneyard("finetune", "-f", finetune_file, "--set", "finetuning_config.training_args.learing_rate=1")
    done.is_a_mistake(3)
    assert "finetuning_config.training_args.learing_rate" in done.err
    assert "did you mean learning_rate?" in done.err


def test_every_problem_is_reported_at_once(tuneyard, finetune_file):
    done = tuneyard("finetune", "-f", finetune_file, "--set", "basmodel=x", "--set", "finetuningGpus=many")
    done.is_a_mistake(3)
    assert {line.split(":")[0].strip() for line in done.err.splitlines()[1:-1]} == {"basmodel", "finetuningGpus"}
    assert "2 problems" in done.err.splitlines()[0]


def test_an_invalid_yaml_file_is_reported_with_its_name(tuneyard, tmp_path):
    (tmp_path / "broken.yaml").write_text("a: [1\nb: }")
    done = tuneyard("finetune", "-f", "broken.yaml")
    done.is_a_mistake(3)
    assert "broken.yaml" in done.err


def test_an_invalid_name_is_refused_with_the_nearest_valid_one(tuneyard, finetune_file):
    done = tuneyard("finetune", "-f", finetune_file, "--name", "Lora_16")
    done.is_a_mistake(2)
    assert "hint: Use --name lora-16" in done.err


def test_a_missing_base_model_is_reported_before_anything_is_launched(tuneyard, finetune_file, tmp_path):
    done = tuneyard("finetune", "-f", finetune_file)
    done.is_a_mistake(4)
    assert "There is no model at 'default-bucket/models/tiny' in " in done.err
    assert "tuneyard deliver" in done.err
    assert not (tmp_path / "home" / "runs").exists()


def test_a_missing_dataset_is_reported_before_anything_is_launched(tuneyard, finetune_file, tmp_path):
    from tuneyard.store import FileEntry, Manifest, open_store, write_manifest

    store = open_store(str(tmp_path / "store"))
    manifest = Manifest("model", (FileEntry("config.json", 2, "0" * 64),))
    write_manifest(store, "default-bucket/models/tiny/.tuneyard/manifest.json", manifest)
    done = tuneyard("finetune", "-f", finetune_file, "--store", "store")
    done.is_a_mistake(4)
    assert "The dataset 'default-bucket/datasets/facts.jsonl' has not been delivered" in done.err
    assert not (tmp_path / "home" / "runs").exists()


@pytest.mark.parametrize("url", ["ftp://host", "https://user:secret@host", "s3://bucket"])
def test_an_invalid_store_is_reported_without_its_secret(tuneyard, finetune_file, url):
    done = tuneyard("finetune", "-f", finetune_file, "--store", url)
    done.is_a_mistake(3)
    assert "secret" not in done.err


def test_nothing_to_serve_is_a_usage_error(tuneyard):
    done = tuneyard("serve")
    done.is_a_mistake(2)
    assert "tuneyard serve NAME" in done.err


def test_serving_a_run_that_is_not_there_is_not_found(tuneyard):
    done = tuneyard("serve", "lora")
    done.is_a_mistake(4)
    assert "There is no finetuning run named 'lora'" in done.err


def test_chat_without_a_server_is_not_found(tuneyard):
    done = tuneyard("chat", "What is a yard?")
    done.is_a_mistake(4)
    assert "error: No server is running." in done.err


def test_chat_with_an_unquoted_question_shows_how_to_quote_it(tuneyard):
    done = tuneyard("chat", "lora", "what", "is", "it")
    done.is_a_mistake(2)
    assert 'tuneyard chat lora "what is it"' in done.err


def test_a_dry_run_prints_the_resolved_values_and_starts_nothing(tuneyard, finetune_file, tmp_path):
    _deliver_by_hand(tmp_path / "store")
    done = tuneyard("finetune", "-f", finetune_file, "--name", "r-8", "--store", "store", "--dry-run")
    assert done.code == 0, done.err
    values = yaml.safe_load(done.out)
    assert values["checkpointsRemote"] == "default-bucket/experiments/r-8"
    assert values["basemodel"] == "default-bucket/models/tiny"
    assert not (tmp_path / "home" / "runs").exists()


def test_a_dry_run_as_json_has_the_values_under_a_versioned_schema(tuneyard, finetune_file, tmp_path):
    _deliver_by_hand(tmp_path / "store")
    words = ("finetune", "-f", finetune_file, "--set", "finetuningGpus=2")
    document = tuneyard(*words, "--store", "store", "--dry-run", "--json").json
    assert document.keys() == {"schema", "verb", "name", "store", "values"}
    assert (document["schema"], document["verb"], document["name"]) == (1, "finetune", "lora")
    assert document["values"]["finetuningGpus"] == 2


def test_the_run_s_name_comes_from_where_it_publishes(tuneyard, finetune_file, tmp_path):
    _deliver_by_hand(tmp_path / "store")
    words = ("finetune", "-f", finetune_file, "--set", "checkpointsRemote=default-bucket/experiments/R_sweep-4")
    assert tuneyard(*words, "--store", "store", "--dry-run", "--json").json["name"] == "r-sweep-4"


def test_keys_without_effect_on_this_machine_are_one_note(tuneyard, finetune_file, tmp_path):
    _deliver_by_hand(tmp_path / "store")
    words = ("finetune", "-f", finetune_file, "--set", "storageClass=mlstorage", "--store", "store", "--dry-run")
    notes = [line for line in tuneyard(*words).err.splitlines() if "have no effect on this machine" in line]
    assert len(notes) == 1
    assert "storageClass" in notes[0]
    assert tuneyard(*words, "--quiet").err == ""


def test_the_schema_of_values_is_a_json_schema(tuneyard):
    for kind in ("namespace", "deliver", "finetune", "serve"):
        schema = tuneyard("values", "schema", kind).json
        assert schema["additionalProperties"] is False
        assert schema["properties"]


def test_data_check_without_arguments_has_a_hint(tuneyard):
    done = tuneyard("data", "check")
    done.is_a_mistake(2)
    assert "tuneyard data check FILE --model FOLDER" in done.err


def test_an_internal_error_is_one_message_and_a_file_with_the_traceback(tuneyard, tmp_path):
    folder = tmp_path / "home" / "runs" / "finetune" / "odd"
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps({"format": 1}))
    done = tuneyard("runs")
    done.is_a_mistake(1)
    assert "Internal error: KeyError" in done.err
    (kept,) = (tmp_path / "home" / "errors").iterdir()
    assert str(kept) in done.err
    assert "Traceback" in kept.read_text()


@pytest.mark.parametrize(
    ("home", "code"),
    [
        ({"TUNEYARD_HOME": "file"}, 6),
        ({"TUNEYARD_HOME": "file/below"}, 6),
        ({"TUNEYARD_HOME": "/sys/tuneyard"}, 5),
        ({"TUNEYARD_HOME": "/proc/tuneyard"}, 4),
        ({"TUNEYARD_HOME": "x" * 300}, 3),
        ({"TUNEYARD_HOME": "~nobody-of-that-name/home"}, 3),
        ({"TUNEYARD_HOME": "", "HOME": "/sys/home", "XDG_DATA_HOME": ""}, 5),
        ({"TUNEYARD_HOME": "", "HOME": "{here}/file", "XDG_DATA_HOME": ""}, 6),
        ({"TUNEYARD_HOME": "", "XDG_DATA_HOME": "/sys/data"}, 5),
    ],
    ids=lambda value: (
        " ".join(f"{name}={text[:30]}" for name, text in value.items()) if isinstance(value, dict) else ""
    ),
)
def test_an_unusable_home_is_reported_with_its_variable(tuneyard, finetune_file, tmp_path, home, code):
    _deliver_by_hand(tmp_path / "store")
    (tmp_path / "file").write_text("")
    home = {name: text.format(here=tmp_path) for name, text in home.items()}
    done = tuneyard("finetune", "-f", finetune_file, "--store", "./store", **home)
    done.is_a_mistake(code)
    folder = home["TUNEYARD_HOME"] or home.get("XDG_DATA_HOME") or home["HOME"]
    assert folder in done.err
    assert "hint: Use another folder: export TUNEYARD_HOME=/path/to/folder" in done.err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "lora.yaml", "store"]


def _deliver_rows(folder, style="chatml"):
    """Deliver a tokenizer, and rows of which the third is bad and the fourth has a special token in its text."""
    from tuneyard.store import Manifest, open_store, upload_tree, write_manifest

    store = open_store(str(folder / "store"))
    files = upload_tree(store, make_tokenizer(folder / "delivered/model", style=style), "default-bucket/models/tiny/")
    write_manifest(store, "default-bucket/models/tiny/.tuneyard/manifest.json", Manifest("model", tuple(files)))
    messages = [{"role": "user", "content": "What is a yard?"}, {"role": "assistant", "content": "A yard."}]
    rows = [{"messages": messages}, {"messages": messages}, {"messages": []}]
    rows.append({"messages": [{"role": "user", "content": "say <|im_end|>"}, messages[1]]})
    (folder / "delivered/data").mkdir()
    (folder / "delivered/data/facts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    files = upload_tree(store, folder / "delivered/data", "default-bucket/datasets/")
    manifest = "default-bucket/datasets/.tuneyard/facts.jsonl.manifest.json"
    write_manifest(store, manifest, Manifest("dataset", tuple(files)))


@pytest.mark.parametrize(
    ("by_values", "words"),
    [(True, ()), (False, ("--json",)), (True, ("--html", "page.html"))],
    ids=["table", "json", "page"],
)
def test_data_check_names_downloads_as_the_user_did(tuneyard, tmp_path, finetune_file, by_values, words):
    _deliver_rows(tmp_path)
    named, key = ("-f", finetune_file), "default-bucket/datasets/facts.jsonl"
    if not by_values:
        key = f"s3://{key}"
        named = (key, "--model", "default-bucket/models/tiny")
    done = tuneyard("data", "check", *named, "--store", "./store", *words)
    assert done.code == 3, done.err
    shown = done.out + done.err + ((tmp_path / "page.html").read_text() if "--html" in words else "")
    assert f"{key}:3" in shown
    assert f"{key}:4" in shown
    assert "tuneyard-data-" not in shown
    assert str(tmp_path) not in shown


def test_data_names_a_downloaded_model_by_its_key(tuneyard, tmp_path, finetune_file):
    _deliver_rows(tmp_path, style="plain")
    done = tuneyard("data", "check", "-f", finetune_file, "--store", "./store")
    done.is_a_mistake(3)
    assert "The tokenizer of 'default-bucket/models/tiny' has no chat template of its own to keep." in done.err
    done = tuneyard(
        "data", "show", "-f", finetune_file, "--store", "./store", "--skip", "9",
        "--set", "finetuning_config.data_conf.chat_template_name=chat-ml",
    )  # fmt: skip
    assert "There is no row after the first 9 of default-bucket/datasets/facts.jsonl." in done.err


@pytest.mark.parametrize(("html", "code"), [("/sys/page.html", 5), ("nowhere/page.html", 4), (".", 6)])
def test_a_page_that_can_t_be_written_is_named(tuneyard, tmp_path, html, code):
    make_tokenizer(tmp_path / "model")
    messages = [{"role": "user", "content": "What is a yard?"}, {"role": "assistant", "content": "A yard."}]
    (tmp_path / "rows.jsonl").write_text(json.dumps({"messages": messages}))
    done = tuneyard("data", "check", "rows.jsonl", "--model", "model", "--html", html)
    assert done.code == code, done.err
    assert "Traceback" not in done.err
    assert f"The path '{(tmp_path / html).absolute()}' can't be used" in done.err


def test_a_broken_pipe_is_not_an_error(tuneyard, tmp_path):
    env = {**os.environ, "TUNEYARD_HOME": str(tmp_path)}
    command = f"{sys.executable} -m tuneyard values schema finetune | true"
    done = subprocess.run(["/bin/sh", "-c", command], env=env, capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr
    assert "error" not in done.stderr


def _deliver_by_hand(folder):
    from tuneyard.store import FileEntry, Manifest, open_store, write_manifest

    store = open_store(str(folder))
    file = FileEntry("config.json", 2, "0" * 64)
    write_manifest(store, "default-bucket/models/tiny/.tuneyard/manifest.json", Manifest("model", (file,)))
    data = Manifest("dataset", (FileEntry("facts.jsonl", 2, "0" * 64),))
    write_manifest(store, "default-bucket/datasets/.tuneyard/facts.jsonl.manifest.json", data)


@pytest.mark.parametrize(
    "words",
    [
        ("deliver", "--set", "modelID=./model", "--set", "bucketModelPath=default-bucket/models/tiny"),
        ("finetune", "-f", "lora.yaml"),
        ("plan", "-f", "lora.yaml"),
        ("serve", "--set", "model=s3://default-bucket/models/tiny"),
        ("serve", "a-run"),
        ("data", "check", "-f", "lora.yaml"),
        ("data", "show", "-f", "lora.yaml"),
        ("verify", "default-bucket/models"),
        ("gc", "default-bucket/models", "--yes"),
    ],
    ids=lambda words: " ".join(words[:2]),
)
@pytest.mark.parametrize("named_by", ["--store", "TUNEYARD_STORE"])
def test_a_server_without_a_scheme_is_not_a_folder(tuneyard, tmp_path, finetune_file, words, named_by):
    if named_by == "--store":
        done = tuneyard(*words, "--store", "localhost:9000")
    else:
        done = tuneyard(*words, TUNEYARD_STORE="localhost:9000")
    done.is_a_mistake(3)
    assert "is neither a URL nor clearly a path (given: 'localhost:9000')" in done.err
    assert "did you mean https://localhost:9000?" in done.err
    assert not (tmp_path / "localhost:9000").exists()


@pytest.mark.parametrize("words", [("doctor", "store"), ("doctor",)])
def test_the_doctor_reports_a_server_without_a_scheme(tuneyard, tmp_path, words):
    done = tuneyard(*words, "--store", "localhost:9000")
    assert done.code in (3, 8), done.err  # this machine may have worse
    assert "did you mean https://localhost:9000?" in " ".join(done.out.split())
    assert not (tmp_path / "localhost:9000").exists()
