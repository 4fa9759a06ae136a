"""Models that try to run code: delivered, prepared for training, placed and loaded for serving. None ever does."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import jinja2
import pytest

from lab import serving
from lab.hostile_models import HostileModel, hostile_models
from tuneyard.data import Conversation, Message
from tuneyard.delivery import deliver, vet_model
from tuneyard.errors import InvalidDataError, TuneyardError
from tuneyard.serving.flags import app_settings
from tuneyard.serving.placement import place_models
from tuneyard.store import open_store, pull, read_manifest
from tuneyard.values import DeliverValues, InferenceValues
from tuneyard.values.finetuning import DataConf

MODELS = hostile_models()
KEY = "default-bucket/models/hostile"
CONVERSATION = Conversation((Message("user", "Hello"), Message("assistant", "Hi")))
QUESTION = [{"role": "user", "content": "Hello"}]
WATCHED = ("socket.connect", "socket.getaddrinfo", "subprocess.Popen", "os.system", "os.exec", "os.posix_spawn")

_events: list[str] | None = None


def _record_event(event: str, arguments: tuple[object, ...]) -> None:
    ours = "tuneyard.data.template_process" in repr(arguments)  # renders templates, with limits, wherever it was ended
    if _events is not None and event in WATCHED and not ours:
        _events.append(f"{event} {arguments!r}"[:200])


@pytest.fixture(scope="module")
def audit_hook() -> None:
    sys.addaudithook(_record_event)  # it stays, and does nothing outside of these tests


@pytest.fixture
def events(audit_hook: None) -> Iterator[list[str]]:
    global _events
    _events = []
    yield _events
    _events = None


def test_there_are_enough_of_them() -> None:
    assert len([model for model in MODELS if not model.soak]) >= 60


TRUSTING = {
    "config.json: AutoConfig": "AutoConfig.from_pretrained(folder, trust_remote_code=True)",
    "tokenizer_config.json: auto_map": "AutoTokenizer.from_pretrained(folder, trust_remote_code=True)",
    "a pickle as pytorch_model.bin, alone": "torch.load(folder + '/pytorch_model.bin', weights_only=False)",
}


@pytest.mark.parametrize("name", TRUSTING)
def test_canary_appears_where_a_model_is_trusted(stored_models, tmp_path: Path, name: str) -> None:
    folder, canary = tmp_path / "model", tmp_path / "canary"
    shutil.copytree(stored_models.beside / "base", folder)
    next(model for model in MODELS if model.name == name).change(folder, f"open({str(canary)!r}, 'w').close()")
    code = (
        f"import torch\nfrom transformers import AutoConfig, AutoTokenizer\nfolder = {str(folder)!r}\n{TRUSTING[name]}"
    )
    environment = {**os.environ, "HF_HOME": str(tmp_path / "cache")}
    subprocess.run([sys.executable, "-c", code], env=environment, cwd=tmp_path, capture_output=True, timeout=120)
    assert canary.exists()


def prepare(store: Path, folder: Path) -> None:
    """Do with a model what a finetuning does on the CPU: verify, look into it, tokenizer, template, weights."""
    from tuneyard.data import ChatEncoder, load_tokenizer
    from tuneyard.network.model import load_base, quiet_libraries
    from tuneyard.values.adapters import QuantConf

    quiet_libraries()
    opened = open_store(store.as_uri())
    manifest = read_manifest(opened, f"{KEY}/.tuneyard/manifest.json")
    base = pull(opened, f"{KEY}/", manifest, folder)
    vet_model(base, [entry.path for entry in manifest.files], where=KEY)
    tokenizer = load_tokenizer(base, DataConf.model_validate({"training_data": {"datasets": [{"path": "a/b.jsonl"}]}}))
    with contextlib.suppress(InvalidDataError):  # a template that is refused is no reason not to go on attacking
        ChatEncoder(tokenizer).encode(CONVERSATION)
    load_base(base, QuantConf(), "cpu", where="base", dtype="float32", arguments={})


def serve(store: Path, workdir: Path, model: str) -> None:
    """Do with a model what a server does before it is ready, and ask it for two tokens."""
    from tuneyard.serving.loading import load_models

    values = InferenceValues.model_validate(serving.values(f"s3://{model}"))
    placement = place_models(values, open_store(store.as_uri()), workdir)
    one = load_models(placement, app_settings({}), "cpu")[0]
    # the server answers 400 or 500 for what Jinja's sandbox refuses
    with contextlib.suppress(jinja2.TemplateError, TypeError, ArithmeticError):
        one.tokenizer.apply_chat_template(QUESTION, tokenize=False)
    one.model.generate(
        **one.tokenizer("Hello", return_tensors="pt"), generation_config=one.generation, max_new_tokens=2
    )


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    "model",
    [pytest.param(model, marks=pytest.mark.soak if model.soak else ()) for model in MODELS],
    ids=[model.name.replace("/", "|").replace("\\", "|") for model in MODELS],
)
def test_no_hostile_model_runs_code(
    stored_models, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, events: list[str], model: HostileModel
) -> None:
    canary = tmp_path / "canary"
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    folder = tmp_path / "model"
    shutil.copytree(stored_models.beside / ("adapter-1" if model.adapter else "base"), folder)
    model.change(folder, f"open({str(canary)!r}, 'w').close()")
    store = tmp_path / "store"
    shutil.copytree(stored_models.store / "default-bucket" / "models", store / "default-bucket" / "models")
    outcomes = [_try(lambda: _deliver(store, folder, work)), *_loads(store, work, model)]
    # once more, as if someone with write access had put it into the bucket, pickles included
    shutil.rmtree(store / "default-bucket" / "models" / "hostile", ignore_errors=True)
    base = read_manifest(open_store(store.as_uri()), f"{serving.BASE}/.tuneyard/manifest.json").content_sha256
    about = {"base": {"key": serving.BASE, "content_sha256": base}} if model.adapter else {}
    serving.put(store, KEY, folder, kind="model", about=about)
    outcomes += _loads(store, tmp_path / "second", model)
    assert not canary.exists(), outcomes
    assert not events, events
    for outcome in outcomes:
        if isinstance(outcome, TuneyardError):
            assert outcome.exit_code in (3, 4, 7), repr(outcome)


def _deliver(store: Path, folder: Path, work: Path) -> None:
    values = {"modelID": str(folder), "bucketModelPath": KEY}
    deliver(DeliverValues.model_validate(values), open_store(store.as_uri()), workdir=work / "delivery")


def _loads(store: Path, work: Path, model: HostileModel) -> list[TuneyardError | None]:
    steps = [_try(lambda: serve(store, work / "served", KEY))]
    if not model.adapter:
        steps.append(_try(lambda: prepare(store, work / "base")))
    return steps


def _try(step) -> TuneyardError | None:
    try:
        step()
    except TuneyardError as error:
        return error
    return None
