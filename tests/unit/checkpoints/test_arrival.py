"""Nothing is committed before all of it has arrived: what vanishes or changes between upload and manifest is found."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from lab.checkpoints import PREFIX, experiment, is_checkpoint_of, make_checkpoint, no_damage, publish_steps, record
from lab.faulty_store import FaultyStore
from tuneyard.checkpoints import CheckpointRef
from tuneyard.errors import IntegrityError, NotFoundError
from tuneyard.store import Store

DAMAGES: dict[str, Callable[[Store, str], None]] = {
    "is gone": lambda store, key: store.delete([key]),
    "is shorter": lambda store, key: store.put(key, store.get(key).body[:-1]) and None,
    "is longer": lambda store, key: store.put(key, store.get(key).body + b"x") and None,
    "is empty": lambda store, key: store.put(key, b"") and None,
}


def damaging(store: Store, key: str, damage: Callable[[Store, str], None]) -> Store:
    """Return the store; as soon as all files of the folder that `key` lies in are written, that one is damaged.

    The uploads ask for each file by itself; what comes after them begins with a listing.
    """
    folder = key.rpartition("/")[0]
    written = done = False

    def damage_once(verb: str, called: str) -> None:
        nonlocal written, done
        written = written or (verb, called) == ("write", key)
        if written and verb == "list" and called == f"{folder}/" and not done:
            done = True
            damage(store, key)

    return FaultyStore(store, before=damage_once)


@pytest.mark.parametrize("name", ["model.safetensors", "rng_state.pth"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_checkpoint_with_an_incomplete_file_is_not_committed(
    store: Store, tmp_path: Path, damage: str, name: str
) -> None:
    publish_steps(store, tmp_path, 10)
    key = f"{PREFIX}/checkpoint-20-2/{name}"
    attempt = experiment(damaging(store, key, DAMAGES[damage])).claim(record())
    attempt.begin(CheckpointRef.at(PREFIX, 10, 1))
    folder = make_checkpoint(tmp_path / "20", 20)
    with pytest.raises(IntegrityError, match=f"{name}. is incomplete") as caught:
        attempt.publish(folder, 20, {"best": None})
    assert caught.value.details["key"] == key
    with pytest.raises(NotFoundError):
        store.head(f"{PREFIX}/checkpoint-20-2/manifest.json")
    head = experiment(store).head()
    assert head is not None
    assert head.checkpoint == CheckpointRef.at(PREFIX, 10, 1)
    # and once the store holds what it is given, the same folder is committed
    attempt.publish(folder, 20, {"best": None})
    restored = experiment(store).restore(tmp_path / "work", on_damage=no_damage)
    assert restored is not None
    assert is_checkpoint_of(restored.path, 20)


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_final_model_with_an_incomplete_file_is_not_published(store: Store, tmp_path: Path, damage: str) -> None:
    key = f"{PREFIX}/checkpoint-final/model.safetensors"
    attempt = experiment(damaging(store, key, DAMAGES[damage])).claim(record())
    with pytest.raises(IntegrityError, match=r"model\.safetensors. is incomplete"):
        attempt.publish_final(make_checkpoint(tmp_path / "final", 30), "checkpoint-final", {})
    with pytest.raises(NotFoundError):
        store.head(f"{PREFIX}/checkpoint-final/manifest.json")
    head = experiment(store).head()
    assert head is not None
    assert not head.finished
