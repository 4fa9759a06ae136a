"""Every key of a delivery changes what is in the store afterwards, or how the delivery ends.

Those for clusters change what Helm renders (`tests/unit/charts/test_every_key_renders.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lab.chart_keys import CASES
from lab.charts import DELIVER
from lab.deliveries import FILES, MODEL, Delivery
from lab.value_keys import keys_of
from tuneyard.delivery import deliver
from tuneyard.errors import TuneyardError
from tuneyard.hub import Hub, RetryPolicy
from tuneyard.sandbox import Locks
from tuneyard.store import open_store
from tuneyard.values import DeliverValues

SCRIPT = "open('/downloads/datasets/{}.jsonl', 'w').write('{{\"text\": \"a\"}}\\n')"
DATA = {"dataScript": SCRIPT.format("a"), "bucketDataDir": "default-bucket/datasets"}
KEYS: dict[str, tuple[dict[str, Any], Any]] = {
    "modelID": ({}, "org/other"),
    "modelRevision": ({}, "COMMIT"),
    "bucketModelPath": ({}, "default-bucket/models/other"),
    "downloadExcludeGlob": ({}, "original/*"),
    "dataScript": (DATA, SCRIPT.format("b")),
    "dataScriptSandbox": (DATA, "required"),
    "bucketDataDir": (DATA, "default-bucket/other"),
    "allowOverwrite": ({"modelID": "org/other"}, True),
}


def outcome(make: Callable[..., Delivery], folder: Path, given: dict[str, Any], *, after: bool) -> Any:
    """What is in the store after a delivery, `after` another one to the same place, or how it ends."""
    store = open_store((folder / "store").as_uri())
    delivery = make(store)
    commit = delivery.hub.add_model("org/tiny", FILES)
    delivery.hub.add_model("org/tiny", {**FILES, "config.json": b'{"model_type": "llama", "newer": true}'})
    delivery.hub.add_model("org/other", {**FILES, "config.json": b'{"model_type": "llama", "other": true}'})
    values: dict[str, Any] = {"modelID": "org/tiny", "bucketModelPath": MODEL, **given}
    values = {key: commit if value == "COMMIT" else value for key, value in values.items()}
    read = DeliverValues.model_validate(values)
    if after:
        delivery.run(modelID="org/tiny", bucketModelPath=MODEL)
    hub = Hub(endpoint=delivery.hub.url, token="hf_right", retry_policy=RetryPolicy(attempts=2, sleep=lambda _: None))
    try:
        deliver(read, store, workdir=folder / "work", hub=hub, locks=Locks(2) if read.dataScript else None)
    except TuneyardError as error:
        return type(error).__name__, error.exit_code
    kept = [info for info in store.list("default-bucket/") if "/.tuneyard/" not in info.key]
    return [(info.key, store.get(info.key).body) for info in kept]


def test_every_key_is_in_one_table() -> None:
    cluster = {key for key, marked in keys_of(DeliverValues) if marked} | CASES[DELIVER.name].keys()
    assert {key for key, _ in keys_of(DeliverValues)} - cluster == KEYS.keys()


@pytest.mark.parametrize("key", KEYS)
def test_a_key_changes_what_is_delivered(key: str, delivery_to: Callable[..., Delivery], tmp_path: Path) -> None:
    beside, value = KEYS[key]
    found = [
        outcome(delivery_to, tmp_path / name, given, after=key == "allowOverwrite")
        for name, given in (("without", beside), ("with", {**beside, key: value}))
    ]
    assert found[0] != found[1]
