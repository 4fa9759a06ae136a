"""Damage of every file class, by every kind of mutation: found before anything is used, and the one before is taken."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lab.checkpoints import FILES, PREFIX, experiment, is_checkpoint_of, no_damage, publish_steps, record
from tuneyard.checkpoints import RetentionPolicy
from tuneyard.checkpoints.seal import SEAL, from_sealed_json, seal_of, to_sealed_json
from tuneyard.errors import IntegrityError
from tuneyard.store import Manifest, Store, read_manifest

Mutation = Callable[[Store, str, str], None]


def flip(store: Store, key: str, _other: str) -> None:
    body = bytearray(store.get(key).body)
    body[len(body) // 2] ^= 1
    store.put(key, bytes(body))


def truncate(store: Store, key: str, _other: str) -> None:
    body = store.get(key).body
    store.put(key, body[: len(body) // 2])


def lengthen(store: Store, key: str, _other: str) -> None:
    store.put(key, store.get(key).body + b"\0")


def empty(store: Store, key: str, _other: str) -> None:
    store.put(key, b"")


def delete(store: Store, key: str, _other: str) -> None:
    store.delete([key])


def swap(store: Store, key: str, other: str) -> None:
    """The same file of another checkpoint: whole, valid, and wrong."""
    store.put(key, store.get(other).body)


MUTATIONS: dict[str, Mutation] = {
    "flip": flip,
    "truncate": truncate,
    "lengthen": lengthen,
    "empty": empty,
    "delete": delete,
    "swap": swap,
}


@pytest.mark.parametrize("mutation", MUTATIONS)
@pytest.mark.parametrize("name", [*FILES, "manifest.json"])
def test_a_damaged_file_is_reported_and_the_checkpoint_before_is_used(
    store: Store, tmp_path: Path, name: str, mutation: str
) -> None:
    publish_steps(store, tmp_path, 10, 20)
    key, other = (f"{PREFIX}/checkpoint-{step}-1/{name}" for step in (20, 10))
    MUTATIONS[mutation](store, key, other)
    notices: list[str] = []
    restored = experiment(store).restore(tmp_path / "work", on_damage=notices.append)
    assert restored is not None
    assert restored.ref.step == 10
    assert is_checkpoint_of(restored.path, 10)
    assert [path.name for path in (tmp_path / "work").iterdir()] == ["checkpoint-10"]
    assert len(notices) == 1
    assert key in notices[0]


@pytest.mark.parametrize("mutation", ["flip", "delete"])
def test_without_any_that_verifies_the_error_names_the_file_and_nothing_starts_over(
    store: Store, tmp_path: Path, mutation: str
) -> None:
    publish_steps(store, tmp_path, 10, 20)
    keys = [f"{PREFIX}/checkpoint-{step}-1/optimizer.pt" for step in (20, 10)]
    for key in keys:
        MUTATIONS[mutation](store, key, key)
    notices: list[str] = []
    with pytest.raises(IntegrityError) as caught:
        experiment(store).restore(tmp_path / "work", on_damage=notices.append)
    assert caught.value.exit_code == 7
    assert keys[0] in caught.value.message
    assert "1 more" in caught.value.message
    assert caught.value.details["damaged"] == keys
    assert "backup" in caught.value.hint
    assert len(notices) == 2


def test_a_checkpoint_that_only_head_names_is_damage_and_not_a_fresh_start(store: Store, tmp_path: Path) -> None:
    publish_steps(store, tmp_path, 10)
    store.delete([info.key for info in store.list(f"{PREFIX}/checkpoint-10-1/")])
    with pytest.raises(IntegrityError, match=r"checkpoint-10-1/manifest\.json. is missing, but HEAD names it"):
        experiment(store).restore(tmp_path / "work", on_damage=lambda _: None)


def test_files_without_a_manifest_are_not_a_checkpoint(store: Store, tmp_path: Path) -> None:
    publish_steps(store, tmp_path, 10)
    for name in FILES:
        store.put(f"{PREFIX}/checkpoint-20-1/{name}", b"half")
    restored = experiment(store).restore(tmp_path / "work", on_damage=no_damage)
    assert restored is not None
    assert restored.ref.step == 10


def test_a_changed_fact_of_a_manifest_is_damage(store: Store, tmp_path: Path) -> None:
    publish_steps(store, tmp_path, 10, 20)
    key = f"{PREFIX}/checkpoint-20-1/manifest.json"
    body = store.get(key).body
    changed = body.replace(b'"best": null', b'"best": {"step": 10, "attempt": 1}')
    assert changed != body
    store.put(key, changed)
    notices: list[str] = []
    restored = experiment(store).restore(tmp_path / "work", on_damage=notices.append)
    assert restored is not None
    assert restored.ref.step == 10
    assert f"'{key}' is damaged" in notices[0]


def test_a_damaged_head_is_reported_and_the_manifests_are_used(store: Store, tmp_path: Path) -> None:
    publish_steps(store, tmp_path, 10, 20)
    flip(store, f"{PREFIX}/HEAD", "")
    notices: list[str] = []
    restored = experiment(store).restore(tmp_path / "work", on_damage=notices.append)
    assert restored is not None
    assert restored.ref.step == 20
    assert notices[0].startswith(f"'{PREFIX}/HEAD' is damaged")


@pytest.mark.parametrize("mutation", ["flip", "truncate", "empty", "delete"])
def test_the_next_claim_rebuilds_a_damaged_or_lost_head(store: Store, tmp_path: Path, mutation: str) -> None:
    publish_steps(store, tmp_path, 10)
    publish_steps(store, tmp_path, 20)
    MUTATIONS[mutation](store, f"{PREFIX}/HEAD", "")
    attempt = experiment(store).claim(record())
    assert attempt.number == 3
    restored = experiment(store).restore(tmp_path / "work", on_damage=no_damage)
    assert restored is not None
    assert restored.ref.step == 20


def test_a_damaged_head_without_any_checkpoint_is_not_a_fresh_start(store: Store, tmp_path: Path) -> None:
    experiment(store).claim(record())
    flip(store, f"{PREFIX}/HEAD", "")
    with pytest.raises(IntegrityError, match=r"HEAD. is damaged"):
        experiment(store).restore(tmp_path / "work", on_damage=lambda _: None)


def test_a_damaged_local_copy_is_downloaded_again(store: Store, tmp_path: Path) -> None:
    publish_steps(store, tmp_path, 10)
    experiment(store).restore(tmp_path / "work", on_damage=no_damage)
    local = tmp_path / "work" / "checkpoint-10" / "optimizer.pt"
    body = bytearray(local.read_bytes())
    body[7] ^= 16
    local.write_bytes(bytes(body))
    restored = experiment(store).restore(tmp_path / "work", on_damage=no_damage)
    assert restored is not None
    assert is_checkpoint_of(restored.path, 10)


def _any_flip_is_found(store: Store, tmp_path: Path, share: float, bit: int, name: str) -> None:
    key = f"{PREFIX}/checkpoint-20-1/{name}"
    before = store.get(key).body
    body = bytearray(before)
    body[int(share * (len(body) - 1))] ^= 1 << bit
    store.put(key, bytes(body))
    shutil.rmtree(tmp_path / "work", ignore_errors=True)
    restored = experiment(store).restore(tmp_path / "work", on_damage=lambda _: None)
    store.put(key, before)
    assert restored is not None
    # A flip may fall on white space of the manifest: then its meaning, and all that it names, has to be the same.
    assert restored.manifest.about["step"] == restored.ref.step
    assert is_checkpoint_of(restored.path, restored.ref.step)
    if name != "manifest.json":
        assert restored.ref.step == 10


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(share=st.floats(0, 1), bit=st.integers(0, 7), name=st.sampled_from([*FILES, "manifest.json", "manifest.json"]))
def test_one_flipped_bit_anywhere_never_reaches_the_trainer(
    store: Store, tmp_path: Path, share: float, bit: int, name: str
) -> None:
    if experiment(store).head() is None:
        publish_steps(store, tmp_path, 10, 20)
    _any_flip_is_found(store, tmp_path, share, bit, name)


@pytest.mark.soak
def test_every_one_of_2000_flipped_bits_is_found(store: Store, tmp_path: Path) -> None:
    publish_steps(store, tmp_path, 10, 20)
    dice = random.Random(20261124)
    for _ in range(2000):
        name = dice.choice([*FILES, "manifest.json"])
        _any_flip_is_found(store, tmp_path, dice.random(), dice.randrange(8), name)


WEIRD = ("../../other/run/x", "1/../2", "1", 1.5, True, -1, 0, None, [], {}, 10**20)


@pytest.mark.parametrize("value", WEIRD, ids=map(repr, WEIRD))
@pytest.mark.parametrize("name", ["step", "attempt"])
def test_an_invented_reference_is_damage(store: Store, tmp_path: Path, name: str, value: object) -> None:
    publish_steps(store, tmp_path, 1)
    if (name, value) == ("step", 0) and value is not False:
        return  # a checkpoint before the first step is one
    facts = {"step": 1, "attempt": 1, "key": "checkpoint-1-1", name: value}
    head = from_sealed_json(store.get(f"{PREFIX}/HEAD").body, where="HEAD")
    store.put(f"{PREFIX}/HEAD", to_sealed_json({**head, "checkpoint": facts}))
    with pytest.raises(IntegrityError):
        experiment(store).head()
    store.put(f"{PREFIX}/HEAD", to_sealed_json(head))
    where = f"{PREFIX}/checkpoint-1-1/manifest.json"
    manifest = read_manifest(store, where)
    about = {**manifest.about, "best": facts}
    store.put(where, Manifest(manifest.kind, manifest.files, {**about, SEAL: seal_of(about)}).to_json())
    with pytest.raises(IntegrityError):
        experiment(store).restore(tmp_path / "restored-again", on_damage=lambda _: None)
    experiment(store).claim(record()).prune(RetentionPolicy(keep=1))
    assert (tmp_path / "restored").exists()
    assert {path.name for path in (tmp_path / "restored-again").iterdir()} == set()
