"""Every key of serving changes what is started; those for clusters change what Helm renders.

The latter are in `tests/unit/charts/test_every_key_renders.py`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lab.chart_keys import CASES
from lab.charts import SERVE
from lab.deliveries import safetensors
from lab.tiny_models import make_model
from lab.value_keys import keys_of
from tuneyard.errors import TuneyardError
from tuneyard.serving.flags import NEUTRAL, TUNING, app_settings
from tuneyard.serving.placement import place_models
from tuneyard.serving.vllm import build_command
from tuneyard.store import Manifest, Store, open_store, upload_tree, write_manifest
from tuneyard.values import InferenceValues

FIRST, SECOND, TUNED = (f"bucket/models/{name}" for name in ("first", "second", "tuned"))
KEYS: dict[str, Any] = {
    "model": f"s3://{SECOND}",
    "adapters": {"tuned": TUNED},
    "vllm_engine_args": {"max_model_len": 64},
}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    folder = tmp_path_factory.mktemp("models")
    opened = open_store((folder / "store").as_uri())
    manifests: list[Manifest] = []
    for key in (FIRST, SECOND):
        files = tuple(upload_tree(opened, make_model(folder / key.rpartition("/")[2]), f"{key}/"))
        manifests.append(Manifest(kind="model", files=files))
        write_manifest(opened, f"{key}/.tuneyard/manifest.json", manifests[-1])
    (folder / "tuned").mkdir()
    settings = {"peft_type": "LORA", "r": 8, "base_model_name_or_path": FIRST}
    (folder / "tuned/adapter_config.json").write_text(json.dumps(settings))
    (folder / "tuned/adapter_model.safetensors").write_bytes(safetensors("a.lora_A.weight", bytes(8)))
    files = tuple(upload_tree(opened, folder / "tuned", f"{TUNED}/"))
    about = {"type": "adapter", "base": {"key": FIRST, "content_sha256": manifests[0].content_sha256}}
    write_manifest(opened, f"{TUNED}/manifest.json", Manifest(kind="final", files=files, about=about))
    return opened


def started(values: dict[str, Any], store: Store, folder: Path) -> list[str]:
    """The command that serves, for one folder and port."""
    read = InferenceValues.model_validate(values)
    where = place_models(read, store, folder)
    return build_command(read, where, host="127.0.0.1", port=1, guarded=True, on_cpu=True, finish_seconds=1)


def test_every_key_is_in_one_table() -> None:
    elsewhere = {key for key, cluster in keys_of(InferenceValues) if cluster} | CASES[SERVE.name].keys()
    assert {key for key, _ in keys_of(InferenceValues)} - elsewhere == KEYS.keys()


@pytest.mark.parametrize("key", KEYS)
def test_each_key_changes_the_command(key: str, store: Store, tmp_path: Path) -> None:
    plain = {"model": f"s3://{FIRST}"}
    before = started(plain, store, tmp_path)
    assert started({**plain, key: KEYS[key]}, store, tmp_path) != before


def test_own_server_honours_ignores_or_refuses_each_vllm_flag() -> None:
    plain = app_settings({})
    for flag, value in {"dtype": "float32", "max_model_len": 64, "seed": 3}.items():
        assert app_settings({flag: value}) != plain
    for flag in TUNING:
        assert app_settings({flag: 1}).ignored == (flag,)
    for flag in (*NEUTRAL, "a_flag_of_next_year"):
        with pytest.raises(TuneyardError, match=f"vllm_engine_args.{flag}"):
            app_settings({flag: "another"})
