"""All damage under a key is found and named, on every store; complete parts are reported as complete."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from lab.checkpoints import experiment, make_checkpoint, record
from lab.inventories import ABOUT, put_data, put_model, put_run
from lab.places import Place
from tuneyard.checkpoints import METRICS_FILE
from tuneyard.errors import NotFoundError
from tuneyard.inventory import take_inventory, verify_place
from tuneyard.store import Store


@pytest.fixture
def stored(place: Place, tmp_path: Path) -> Place:
    put_model(place.store, place / "models/m", tmp_path / "model", {"config.json": b"{}", "sub/w.bin": b"w" * 9000})
    put_data(place.store, place / "datasets/d.jsonl", tmp_path / "d.jsonl", b'{"messages": []}\n' * 50)
    put_run(place.store, place / "experiments/run", tmp_path, 10, 20)
    return place


def _flip(store: Store, key: str) -> None:
    body = bytearray(store.get(key).body)
    body[len(body) // 2] ^= 4
    store.put(key, bytes(body))


def _cut(store: Store, key: str) -> None:
    body = store.get(key).body
    store.put(key, body[: len(body) // 2])


def _grow(store: Store, key: str) -> None:
    store.put(key, store.get(key).body + b"x")


def _delete(store: Store, key: str) -> None:
    store.delete([key])


RUN = "experiments/run"
FILES = (
    "models/m/sub/w.bin",
    "datasets/d.jsonl",
    f"{RUN}/checkpoint-10-1/optimizer.pt",
    f"{RUN}/checkpoint-20-1/extra/tokenizer.json",
    f"{RUN}/checkpoint-final/model.safetensors",
)
FACTS = (
    "models/m/.tuneyard/manifest.json",
    "datasets/.tuneyard/d.jsonl.manifest.json",
    f"{RUN}/checkpoint-20-1/manifest.json",
    f"{RUN}/checkpoint-final/manifest.json",
    f"{RUN}/HEAD",
    f"{RUN}/run.json",
)


def test_complete_parts_are_reported_as_complete(stored: Place):
    found = verify_place(stored.store, stored.prefix)
    assert not found.damage
    kinds = sorted((one.part.kind, one.state) for one in found.parts)
    assert kinds == [(kind, "whole") for kind in ("checkpoint", "checkpoint", "dataset", "final", "model")]
    assert list(found.resume.values()) == ["nothing to do: checkpoint-final is complete"]
    assert not found.inventory.leftovers


@pytest.mark.parametrize("damage", [_flip, _cut, _grow, _delete])
@pytest.mark.parametrize("name", FILES)
def test_damage_of_a_file_is_named(stored: Place, name: str, damage: Callable[[Store, str], None]):
    damage(stored.store, stored / name)
    found = verify_place(stored.store, stored.prefix)
    assert [one.key for one in found.damage] == [stored / name]
    assert sum(one.state == "damaged" for one in found.parts) == 1


@pytest.mark.parametrize("damage", [_flip, _cut])
@pytest.mark.parametrize("name", FACTS)
def test_damage_of_a_manifest_or_record_is_found(stored: Place, name: str, damage: Callable[[Store, str], None]):
    damage(stored.store, stored / name)
    assert stored / name in [one.key for one in verify_place(stored.store, stored.prefix).damage]


@pytest.mark.parametrize("name", [f"{RUN}/HEAD", f"{RUN}/run.json", f"{RUN}/checkpoint-20-1/manifest.json"])
def test_a_missing_object_that_head_or_a_checkpoint_needs_is_damage(stored: Place, name: str):
    stored.store.delete([stored / name])
    assert [one.key for one in verify_place(stored.store, stored / RUN).damage] == [stored / name]


@pytest.mark.parametrize("damage", [_flip, _cut, _delete])
def test_published_rows_that_differ_from_the_newest_checkpoints_are_damage(
    place: Place, tmp_path: Path, damage: Callable[[Store, str], None]
):
    exp = experiment(place.store, place / RUN)
    attempt = exp.claim(record())
    rows = b"".join(b'{"step": %d, "loss": 1.25}\n' % step for step in range(1, 11))
    folder = make_checkpoint(tmp_path / "10", 10)
    (folder / METRICS_FILE).write_bytes(rows)
    attempt.write_metrics(rows + b'{"step": 11, "loss": 1.125}\n')
    attempt.publish(folder, 10, {"best": None})
    assert not verify_place(place.store, place / RUN).damage
    notices: list[str] = []
    restored = exp.restore(tmp_path / "whole", on_damage=notices.append)
    assert restored is not None
    assert exp.rows_of(restored, on_damage=notices.append) == rows
    assert notices == []
    damage(place.store, place / f"{RUN}/{METRICS_FILE}")
    assert [one.key for one in verify_place(place.store, place / RUN).damage] == [place / f"{RUN}/{METRICS_FILE}"]
    assert exp.rows_of(restored, on_damage=notices.append) == rows
    assert ["metrics.jsonl' is damaged or missing" in sentence for sentence in notices] == [True]


def test_two_files_swapped_are_both_damaged(stored: Place):
    one, other = stored / f"{RUN}/checkpoint-10-1/scheduler.pt", stored / f"{RUN}/checkpoint-20-1/scheduler.pt"
    bodies = stored.store.get(one).body, stored.store.get(other).body
    stored.store.put(one, bodies[1])
    stored.store.put(other, bodies[0])
    assert sorted(found.key for found in verify_place(stored.store, stored / RUN).damage) == [one, other]


def test_it_reports_what_a_relaunch_will_do(place: Place, tmp_path: Path):
    put_run(place.store, place / RUN, tmp_path, 10, 20, final=False)

    def relaunch() -> str:
        return verify_place(place.store, place / RUN).resume[place / RUN]

    assert relaunch() == "resumes from step 20 (checkpoint-20-1)"
    _flip(place.store, place / f"{RUN}/checkpoint-20-1/optimizer.pt")
    assert relaunch() == "resumes from step 10 (checkpoint-10-1)"
    _flip(place.store, place / f"{RUN}/checkpoint-10-1/optimizer.pt")
    assert relaunch() == "stops with exit code 7: no checkpoint is intact"


def test_leftovers_of_a_killed_attempt_are_not_damage(place: Place, tmp_path: Path):
    put_run(place.store, place / RUN, tmp_path, 10, final=False)
    place.store.put(place / f"{RUN}/checkpoint-20-1/optimizer.pt", b"half")
    found = verify_place(place.store, place / RUN)
    assert not found.damage
    assert [(one.info.key, one.why) for one in found.inventory.leftovers] == [
        (place / f"{RUN}/checkpoint-20-1/optimizer.pt", "not committed")
    ]


def test_a_dataset_can_be_verified(stored: Place):
    assert [one.part.kind for one in verify_place(stored.store, stored / "datasets/d.jsonl").parts] == ["dataset"]


def test_an_empty_key_is_not_found(place: Place):
    with pytest.raises(NotFoundError, match="nothing under"):
        take_inventory(place.store, place / "experiments/nobody")


def test_a_superseded_checkpoint_is_not_resumed_from(place: Place, tmp_path: Path):
    put_run(place.store, place / RUN, tmp_path, 10, 20, final=False)
    attempt = experiment(place.store, place / RUN).claim(record(), resume=False)
    attempt.publish(make_checkpoint(tmp_path / "anew", 5), 5, ABOUT)
    assert verify_place(place.store, place / RUN).resume[place / RUN] == "resumes from step 5 (checkpoint-5-2)"
