"""From values to verified folders: what is served, under which names, and what is refused. No model is loaded here."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from lab.deliveries import safetensors
from lab.hub_server import hub_server
from lab.places import Place
from lab.s3_servers import BUCKET
from tuneyard.errors import IntegrityError, InvalidDataError, InvalidValuesError, NotFoundError
from tuneyard.serving.placement import Placement, place_models
from tuneyard.store import Manifest, open_store, upload_tree, write_manifest
from tuneyard.values import InferenceValues

BASE = "default-bucket/models/base"
FINAL = "default-bucket/experiments/run-1/checkpoint-final"
ADAPTER = {"adapter_config.json": '{"peft_type": "LORA"}', "adapter_model.safetensors": "adapter"}


@pytest.fixture
def place(tmp_path) -> Place:
    return Place(open_store((tmp_path / "store").as_uri()), "default-bucket/", {})


def put(place: Place, tmp_path: Path, key: str, files: dict[str, str], kind: str = "final", **about: Any) -> str:
    folder = tmp_path / "made" / key.replace("/", "-")
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    manifest = Manifest(kind=kind, files=tuple(upload_tree(place.store, folder, f"{key}/")), about=about)
    where = f"{key}/.tuneyard/manifest.json" if kind == "model" else f"{key}/manifest.json"
    write_manifest(place.store, where, manifest, replace=True)
    return manifest.content_sha256


def put_run(place: Place, tmp_path: Path, *, sha256: str | None = None) -> str:
    base = put(place, tmp_path, BASE, {"config.json": "{}", "sub/weights": "base"}, "model")
    recorded = {"key": BASE, "content_sha256": sha256 or base}
    put(place, tmp_path, FINAL, ADAPTER, type="adapter", run="run-1", base=recorded)
    return base


def placed(place: Place, tmp_path: Path, model: str = f"s3://{FINAL}", **more: Any) -> Placement:
    values = InferenceValues.model_validate({"model": model, **more})
    return place_models(values, place.store, tmp_path / "work")


def test_adapter_is_placed_with_its_base_under_two_names(place, tmp_path):
    base = put_run(place, tmp_path)
    placement = placed(place, tmp_path)
    assert placement.served == ("run-1", "base")
    assert placement.requested == ("run-1",)
    assert placement.model.content_sha256 == base
    assert (placement.model.folder / "sub/weights").read_text() == "base"
    assert (placement.adapters[0].weights.folder / "adapter_config.json").exists()


def test_served_model_name_names_the_adapter(place, tmp_path):
    put_run(place, tmp_path)
    placement = placed(place, tmp_path, vllm_engine_args={"served-model-name": ["mine", "base"]})
    assert placement.served == ("mine", "base", "base-base")


def test_model_with_adapters_is_served_under_all_names(place, tmp_path):
    put_run(place, tmp_path)
    placement = placed(place, tmp_path, f"s3://{BASE}", adapters={"one": FINAL, "two": FINAL})
    assert placement.served == ("base", "one", "two")
    assert placement.requested == ("base",)


def test_full_model_is_placed_alone(place, tmp_path):
    key = "default-bucket/experiments/full/checkpoint-final"
    put(place, tmp_path, key, {"config.json": "{}"}, type="model", base={"key": BASE, "content_sha256": "0" * 64})
    placement = placed(place, tmp_path, f"s3://{key}")
    assert placement.served == ("full",)
    assert placement.adapters == ()


def test_only_files_that_the_manifest_names_can_be_loaded(place, tmp_path):
    put_run(place, tmp_path)
    stray = place.store.local_path(f"{BASE}/chat_template.jinja")
    assert stray is not None
    stray.write_text("{{ 'planted' }}")
    folder = placed(place, tmp_path).model.folder
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    assert names == ["config.json", "sub/weights"]


def test_second_start_places_the_current_content(place, tmp_path):
    put_run(place, tmp_path)
    first = placed(place, tmp_path).model.folder
    (first / "left-over").write_text("x")
    assert not (placed(place, tmp_path).model.folder / "left-over").exists()


@pytest.mark.parametrize("part", [f"{BASE}/sub/weights", f"{FINAL}/adapter_config.json"])
def test_tampered_file_of_base_or_adapter_is_an_integrity_error(place, tmp_path, part):
    put_run(place, tmp_path)
    path = place.store.local_path(part)
    assert path is not None
    body = path.read_bytes()
    path.write_bytes(body[:-1] + bytes([body[-1] ^ 1]))
    with pytest.raises(IntegrityError, match=path.name):
        placed(place, tmp_path)


def test_damage_to_any_file_is_never_placed(place, tmp_path):
    """Fifty damages: a flipped bit, a byte less, a byte more, a file gone; of the base and of the adapter."""
    put_run(place, tmp_path)
    paths = [place.store.local_path(f"{BASE}/{name}") for name in ("config.json", "sub/weights")]
    paths.append(place.store.local_path(f"{FINAL}/adapter_config.json"))
    chance = random.Random(20)
    for _ in range(50):
        path = chance.choice(paths)
        assert path is not None
        body = path.read_bytes()
        at, bit = chance.randrange(len(body)), 1 << chance.randrange(8)
        flipped = body[:at] + bytes([body[at] ^ bit]) + body[at + 1 :]
        damaged = chance.choice([flipped, flipped, body[:-1], body + b"x", None])
        path.unlink() if damaged is None else path.write_bytes(damaged)
        with pytest.raises(IntegrityError):
            placed(place, tmp_path)
        path.write_bytes(body)
    assert placed(place, tmp_path).served == ("run-1", "base")


@pytest.mark.parametrize("part", ["model", "base", "adapter", "further"])
def test_files_that_could_run_code_are_refused_anywhere(place, tmp_path, part):
    evil, sound = {"config.json": '{"trust_remote_code": true}'}, {"config.json": "{}"}
    evil_adapter = {**ADAPTER, "adapter_config.json": '{"peft_type": "XLORA"}'}
    sha256 = put(place, tmp_path, BASE, evil if part in ("model", "base") else sound, "model")
    recorded = {"key": BASE, "content_sha256": sha256}
    put(place, tmp_path, FINAL, evil_adapter if part == "adapter" else ADAPTER, type="adapter", base=recorded)
    further = FINAL.replace("run-1", "run-2")
    put(place, tmp_path, further, evil_adapter if part == "further" else ADAPTER, type="adapter", base=recorded)
    model = f"s3://{BASE}" if part in ("model", "further") else f"s3://{FINAL}"
    what = "trusts a repository's code" if part in ("model", "base") else "is of a type that can't be loaded"
    with pytest.raises(InvalidDataError, match=what):
        placed(place, tmp_path, model, adapters={"two": further} if part == "further" else {})


def test_base_other_than_the_trained_one_is_an_integrity_error(place, tmp_path):
    put_run(place, tmp_path, sha256="0" * 64)
    with pytest.raises(IntegrityError, match="on a different model than the one at 'default-bucket/models/base'"):
        placed(place, tmp_path)


def test_further_adapter_of_another_base_is_an_integrity_error(place, tmp_path):
    put_run(place, tmp_path)
    put(place, tmp_path, "default-bucket/models/second", {"config.json": "{ }"}, "model")
    with pytest.raises(IntegrityError, match="trained on a different model"):
        placed(place, tmp_path, "s3://default-bucket/models/second", adapters={"one": FINAL})


def test_model_without_manifest_is_not_found(place, tmp_path):
    put_run(place, tmp_path)
    place.store.delete([f"{FINAL}/manifest.json"])
    with pytest.raises(NotFoundError, match="is incomplete") as caught:
        placed(place, tmp_path)
    assert "tuneyard runs" in caught.value.hint


def test_missing_base_is_not_found(place, tmp_path):
    put_run(place, tmp_path)
    place.store.delete([f"{BASE}/.tuneyard/manifest.json"])
    with pytest.raises(NotFoundError, match="models/base"):
        placed(place, tmp_path)


def test_training_checkpoint_can_not_be_served(place, tmp_path):
    key = "default-bucket/experiments/run-1/checkpoint-4-1"
    put(place, tmp_path, key, {"config.json": "{}"}, "checkpoint")
    with pytest.raises(InvalidValuesError, match="to resume training from"):
        placed(place, tmp_path, f"s3://{key}")


def test_adapter_without_recorded_base_is_served_only_on_a_given_model(place, tmp_path):
    put_run(place, tmp_path)
    put(place, tmp_path, "default-bucket/models/adapter", ADAPTER, "model")
    with pytest.raises(InvalidValuesError, match="names no base model") as caught:
        placed(place, tmp_path, "s3://default-bucket/models/adapter")
    assert "adapters.NAME" in caught.value.hint
    placement = placed(place, tmp_path, f"s3://{BASE}", adapters={"x": "default-bucket/models/adapter"})
    assert placement.served == ("base", "x")


def test_model_among_the_adapters_is_refused(place, tmp_path):
    put_run(place, tmp_path)
    with pytest.raises(InvalidValuesError, match=r"adapters\.x is not an adapter"):
        placed(place, tmp_path, f"s3://{BASE}", adapters={"x": BASE})


def test_two_models_with_one_name_are_refused(place, tmp_path):
    put_run(place, tmp_path)
    with pytest.raises(InvalidValuesError, match="'run-1'"):
        placed(place, tmp_path, adapters={"run-1": FINAL})


def test_verified_folder_is_placed(place, tmp_path):
    put_run(place, tmp_path)
    folder = tmp_path / "store" / BASE
    placement = placed(place, tmp_path, str(folder))
    assert placement.served == ("base",)
    (folder / "config.json").write_text("[]")
    with pytest.raises(IntegrityError, match=r"config\.json"):
        placed(place, tmp_path, str(folder))
    (folder / ".tuneyard/manifest.json").unlink()
    with pytest.raises(NotFoundError, match="no verifiable model"):
        placed(place, tmp_path, str(folder))


def test_hub_model_is_pinned_and_verified_as_by_a_delivery(place, tmp_path, monkeypatch):
    files = {"config.json": b"{}", "model.safetensors": safetensors("a.weight", b"weights"), "tokenizer.json": b"{}"}
    with hub_server() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        hub.add_model("someone/tiny", files)
        placement = placed(place, tmp_path, "someone/tiny")
        assert placement.served == ("someone/tiny",)
        assert (placement.model.folder / "model.safetensors").read_bytes() == files["model.safetensors"]
        assert list(place.store.list("hub/")) == []
        before = len(hub.seen)
        assert placed(place, tmp_path, "someone/tiny").model.folder == placement.model.folder
        later = [seen.path for seen in hub.seen[before:]]
        assert not [path for path in later if path.endswith("model.safetensors")]


@pytest.mark.s3
def test_files_from_s3_are_pulled_and_verified(s3_server, tmp_path):
    place = Place(s3_server.open(), f"{BUCKET}/", s3_server.env)
    base, final = f"{BUCKET}/serve/models/base", f"{BUCKET}/serve/run/checkpoint-final"
    sha256 = put(place, tmp_path, base, {"config.json": "{}", "sub/weights": "base"}, "model")
    recorded = {"key": base, "content_sha256": sha256}
    put(
        place,
        tmp_path,
        final,
        {**ADAPTER, "adapter_config.json": json.dumps({"peft_type": "LORA", "r": 4})},
        base=recorded,
    )
    placement = placed(place, tmp_path, f"s3://{final}")
    assert placement.served == ("run", "base")
    assert (placement.model.folder / "sub/weights").read_text() == "base"
    place.store.put(f"{base}/sub/weights", b"bass")
    with pytest.raises(IntegrityError, match="sub/weights"):
        place_models(
            InferenceValues.model_validate({"model": f"s3://{final}"}), place.store, tmp_path / "another machine"
        )


ROTATION = {"rope_parameters": {"rope_type": "default", "rope_theta": 50.0}}


def put_tuned(place: Place, tmp_path: Path, name: str, base: str, config: dict[str, Any] | None) -> str:
    key = f"default-bucket/experiments/{name}/checkpoint-final"
    more = {} if config is None else {"config": config}
    put(place, tmp_path, key, ADAPTER, type="adapter", run=name, base={"key": BASE, "content_sha256": base}, **more)
    return key


def test_base_is_loaded_with_the_config_entries_of_the_adapter_s_training(place, tmp_path):
    base = put_run(place, tmp_path)
    one = put_tuned(place, tmp_path, "one", base, ROTATION)
    two = put_tuned(place, tmp_path, "two", base, {**ROTATION, "attention_dropout": 0.1})
    assert placed(place, tmp_path, f"s3://{one}", adapters={"x": two}).config == ROTATION
    assert placed(place, tmp_path).config == {}


@pytest.mark.parametrize(("first", "second"), [(ROTATION, None), (None, ROTATION), (ROTATION, {"rope_theta": 7.0})])
def test_adapters_with_conflicting_config_entries_are_refused(place, tmp_path, first, second):
    base = put_run(place, tmp_path)
    one, two = put_tuned(place, tmp_path, "one", base, first), put_tuned(place, tmp_path, "two", base, second)
    with pytest.raises(InvalidValuesError, match=r"adapters\.x was trained with a different rope_parameters") as caught:
        placed(place, tmp_path, f"s3://{one}", adapters={"x": two})
    assert caught.value.exit_code == 3
    assert f"--set model=s3://{two}" in caught.value.hint


def test_adapter_does_not_change_the_model_in_the_values(place, tmp_path):
    two = put_tuned(place, tmp_path, "two", put_run(place, tmp_path), ROTATION)
    with pytest.raises(InvalidValuesError, match=r"adapters\.x was trained with a different rope_parameters"):
        placed(place, tmp_path, f"s3://{BASE}", adapters={"x": two})


def test_manifest_whose_config_entries_name_code_is_refused(place, tmp_path):
    base = put_run(place, tmp_path)
    for config in ({"auto_map": {"AutoModelForCausalLM": "evil.Model"}}, {"trust_remote_code": True}):
        key = put_tuned(place, tmp_path, "evil", base, config)
        with pytest.raises(InvalidDataError, match="settings of its base that can't be used"):
            placed(place, tmp_path, f"s3://{key}")
        with pytest.raises(InvalidDataError, match="settings of its base that can't be used"):
            placed(place, tmp_path, f"s3://{BASE}", adapters={"x": key})
