"""Publishing, restoring and finishing, one attempt after the other."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lab.checkpoints import (
    FILES,
    PREFIX,
    experiment,
    is_checkpoint_of,
    make_checkpoint,
    no_damage,
    publish_steps,
    record,
)
from lab.faulty_store import FaultyStore
from tuneyard.checkpoints import CheckpointRef, Experiment
from tuneyard.errors import (
    ConflictError,
    DeniedError,
    IntegrityError,
    InvalidValuesError,
    NotFoundError,
    UnavailableError,
)
from tuneyard.store import Store


def test_a_published_checkpoint_is_restored_unchanged(store: Store, tmp_path: Path) -> None:
    publish_steps(store, tmp_path, 10, 20)
    restored = experiment(store).restore(tmp_path / "work", on_damage=no_damage)
    assert restored is not None
    assert restored.ref == CheckpointRef(step=20, attempt=1, key=f"{PREFIX}/checkpoint-20-1")
    assert restored.path == tmp_path / "work" / "checkpoint-20"
    assert is_checkpoint_of(restored.path, 20)
    assert restored.manifest.about["step"] == 20
    assert restored.best is None


def test_a_restored_checkpoint_is_a_copy_that_may_be_changed(store: Store, tmp_path: Path) -> None:
    publish_steps(store, tmp_path, 10)
    restored = experiment(store).restore(tmp_path / "work", on_damage=no_damage)
    assert restored is not None
    (restored.path / "optimizer.pt").write_bytes(b"spoilt")
    (restored.path / "left over.tmp").write_bytes(b"")
    again = experiment(store).restore(tmp_path / "work", on_damage=no_damage)
    assert again is not None
    assert is_checkpoint_of(again.path, 10)


def test_nothing_published_restores_nothing(store: Store, tmp_path: Path) -> None:
    assert experiment(store).restore(tmp_path / "work", on_damage=no_damage) is None
    experiment(store).claim(record())
    assert experiment(store).restore(tmp_path / "work", on_damage=no_damage) is None


def test_the_best_checkpoint_is_restored_too(store: Store, tmp_path: Path) -> None:
    attempt = experiment(store).claim(record())
    for step, best in ((10, 10), (20, 10)):
        attempt.publish(make_checkpoint(tmp_path / str(step), step), step, {"best": best})
    restored = experiment(store).restore(tmp_path / "work", on_damage=no_damage)
    assert restored is not None
    assert restored.best == tmp_path / "work" / "checkpoint-10"
    assert is_checkpoint_of(restored.best, 10)
    assert is_checkpoint_of(restored.path, 20)
    head = experiment(store).head()
    assert head is not None
    assert head.best == CheckpointRef.at(PREFIX, 10, 1)


def test_a_damaged_best_checkpoint_is_reported_and_skipped(store: Store, tmp_path: Path) -> None:
    attempt = experiment(store).claim(record())
    for step in (10, 20):
        attempt.publish(make_checkpoint(tmp_path / str(step), step), step, {"best": 10})
    store.put(f"{PREFIX}/checkpoint-10-1/model.safetensors", b"damaged")
    notices: list[str] = []
    restored = experiment(store).restore(tmp_path / "work", on_damage=notices.append)
    assert restored is not None
    assert restored.ref.step == 20
    assert restored.best is None
    assert len(notices) == 1
    assert "checkpoint-10-1/model.safetensors" in notices[0]


def test_an_uncommitted_best_checkpoint_is_refused(store: Store, tmp_path: Path) -> None:
    attempt = experiment(store).claim(record())
    with pytest.raises(NotFoundError, match=r"names step 5 as the best checkpoint of .*, but that is not committed"):
        attempt.publish(make_checkpoint(tmp_path / "10", 10), 10, {"best": 5})
    assert experiment(store).committed() == []


def test_local_files_that_verify_are_not_downloaded(store: Store, tmp_path: Path) -> None:
    publish_steps(store, tmp_path, 10)
    experiment(store).restore(tmp_path / "work", on_damage=no_damage)
    (tmp_path / "work" / "checkpoint-10" / "scheduler.pt").unlink()
    read: list[str] = []
    watched = FaultyStore(store, before=lambda verb, key: read.append(key) if verb == "read" else None)
    restored = experiment(watched).restore(tmp_path / "work", on_damage=no_damage)
    assert restored is not None
    assert is_checkpoint_of(restored.path, 10)
    assert read == [f"{PREFIX}/checkpoint-10-1/scheduler.pt"]


def test_an_interrupted_restore_resumes(store: Store, tmp_path: Path) -> None:
    publish_steps(store, tmp_path, 10)

    def cut_off(verb: str, key: str) -> None:
        if verb == "read" and key.endswith("trainer_state.json"):
            raise UnavailableError("not now")

    with pytest.raises(UnavailableError):
        experiment(FaultyStore(store, before=cut_off)).restore(tmp_path / "work", on_damage=no_damage)
    assert not (tmp_path / "work" / "checkpoint-10").exists()
    read: list[str] = []
    watched = FaultyStore(store, before=lambda verb, key: read.append(key) if verb == "read" else None)
    restored = experiment(watched).restore(tmp_path / "work", on_damage=no_damage)
    assert restored is not None
    assert is_checkpoint_of(restored.path, 10)
    assert f"{PREFIX}/checkpoint-10-1/trainer_state.json" in read
    assert len(read) < len(FILES)


def test_progress_counts_every_byte_of_a_restore_once(store: Store, tmp_path: Path) -> None:
    publish_steps(store, tmp_path, 10)
    amounts: list[float] = []
    experiment(store).restore(tmp_path / "work", on_damage=no_damage, advance=amounts.append)
    assert sum(amounts) == sum(FILES.values())


def test_publishing_the_same_files_twice_changes_nothing(store: Store, tmp_path: Path) -> None:
    attempt = experiment(store).claim(record())
    folder = make_checkpoint(tmp_path / "10", 10)
    first = attempt.publish(folder, 10, {"best": None})
    before = store.get(f"{PREFIX}/HEAD").body
    assert attempt.publish(folder, 10, {"best": None}) == first
    assert store.get(f"{PREFIX}/HEAD").body == before


def test_other_files_for_a_committed_step_are_refused(store: Store, tmp_path: Path) -> None:
    attempt = experiment(store).claim(record())
    attempt.publish(make_checkpoint(tmp_path / "10", 10), 10, {"best": None})
    with pytest.raises(ConflictError, match="holds different files for the same step"):
        attempt.publish(make_checkpoint(tmp_path / "other", 11), 10, {"best": None})
    restored = experiment(store).restore(tmp_path / "work", on_damage=no_damage)
    assert restored is not None
    assert is_checkpoint_of(restored.path, 10)


@pytest.mark.parametrize("missing", ["optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json"])
def test_a_folder_without_a_required_file_is_not_published(store: Store, tmp_path: Path, missing: str) -> None:
    attempt = experiment(store).claim(record())
    folder = make_checkpoint(tmp_path / "10", 10)
    (folder / missing).unlink()
    with pytest.raises(IntegrityError, match="could not resume from it") as caught:
        attempt.publish(folder, 10, {"best": None})
    assert missing[:9] in caught.value.message
    assert list(store.list(f"{PREFIX}/checkpoint-10-1/")) == []


def test_a_folder_with_a_manifest_of_its_own_is_not_published(store: Store, tmp_path: Path) -> None:
    attempt = experiment(store).claim(record())
    folder = make_checkpoint(tmp_path / "10", 10)
    (folder / "manifest.json").write_text("{}")
    with pytest.raises(ConflictError, match=r"has a file .manifest\.json"):
        attempt.publish(folder, 10, {"best": None})
    with pytest.raises(ConflictError, match=r"has a file .manifest\.json"):
        attempt.publish_final(folder, "checkpoint-final", {})


def test_a_committed_checkpoint_without_a_required_file_is_skipped(store: Store, tmp_path: Path) -> None:
    publish_steps(store, tmp_path, 10)
    lax = Experiment(store, PREFIX)
    folder = make_checkpoint(tmp_path / "20", 20)
    (folder / "optimizer.pt").unlink()
    lax.claim(record()).publish(folder, 20, {"best": None})
    notices: list[str] = []
    restored = experiment(store).restore(tmp_path / "work", on_damage=notices.append)
    assert restored is not None
    assert restored.ref.step == 10
    assert "does not name optimizer.pt" in notices[0]


def test_a_final_model_marks_the_run_finished(store: Store, tmp_path: Path) -> None:
    attempt = experiment(store).claim(record())
    folder = make_checkpoint(tmp_path / "final", 30)
    assert experiment(store).finished() is None
    attempt.publish_final(folder, "checkpoint-final-merged", {"base": "b"})
    assert experiment(store).finished() is None
    assert experiment(store).finished("checkpoint-final-merged") is not None
    manifest = attempt.publish_final(folder, "checkpoint-final", {"base": "b"})
    assert experiment(store).finished() == manifest
    assert manifest.kind == "final"
    assert manifest.about["base"] == "b"
    head = experiment(store).head()
    assert head is not None
    assert head.finished


def test_a_final_model_with_a_missing_or_shorter_file_is_not_finished(store: Store, tmp_path: Path) -> None:
    attempt = experiment(store).claim(record())
    folder = make_checkpoint(tmp_path / "final", 30)
    attempt.publish_final(folder, "checkpoint-final", {})
    key = f"{PREFIX}/checkpoint-final/model.safetensors"
    store.put(key, store.get(key).body[:-1])
    assert experiment(store).finished() is None
    store.delete([key])
    assert experiment(store).finished() is None
    attempt.publish_final(folder, "checkpoint-final", {})
    assert experiment(store).finished() is not None


def test_a_final_model_replaces_what_an_earlier_attempt_left(store: Store, tmp_path: Path) -> None:
    first = experiment(store).claim(record())
    folder = make_checkpoint(tmp_path / "final", 30)
    (folder / "only of the first").write_bytes(b"1")
    first.publish_final(folder, "checkpoint-final", {})
    second = experiment(store).claim(record())
    manifest = second.publish_final(make_checkpoint(tmp_path / "other", 31), "checkpoint-final", {})
    assert experiment(store).finished() == manifest
    lying = {info.key.removeprefix(f"{PREFIX}/checkpoint-final/") for info in store.list(f"{PREFIX}/checkpoint-final/")}
    assert lying == {*FILES, "manifest.json"}


def test_an_unreachable_store_is_never_mistaken_for_an_empty_one(store: Store, tmp_path: Path) -> None:
    publish_steps(store, tmp_path, 10)
    for error in (UnavailableError("not now"), DeniedError("not you")):
        for verb in ("list", "get", "read"):

            def refuse(called: str, _key: str, verb: str = verb, error: Exception = error) -> None:
                if called == verb:
                    raise error

            with pytest.raises(type(error)):
                experiment(FaultyStore(store, before=refuse)).restore(tmp_path / "work", on_damage=no_damage)
            if verb != "read":
                with pytest.raises(type(error)):
                    experiment(FaultyStore(store, before=refuse)).committed()
    with pytest.raises(UnavailableError):
        experiment(
            FaultyStore(store, before=lambda verb, key: (_ for _ in ()).throw(UnavailableError("not now")))
        ).finished()


def test_a_prefix_has_to_be_a_key(store: Store) -> None:
    with pytest.raises(InvalidValuesError):
        Experiment(store, "../elsewhere")
    assert Experiment(store, f"{PREFIX}/").prefix == PREFIX


def test_run_json_records_each_attempt_and_its_start(store: Store, tmp_path: Path) -> None:
    publish_steps(store, tmp_path, 10)
    publish_steps(store, tmp_path, 20)
    run = json.loads(store.get(f"{PREFIX}/run.json").body)
    assert [(entry["number"], entry["from_step"]) for entry in run["attempts"]] == [(1, 0), (2, 10)]
    assert run["values"] == {"method": "sft"}
    assert run["inputs"] == {"bucket/models/tiny": "1" * 64}
    assert run["format"] == 1


def test_a_copied_experiment_restores_under_its_new_name(store: Store, tmp_path: Path) -> None:
    publish_steps(store, tmp_path, 10)
    for info in list(store.list(f"{PREFIX}/")):
        store.put(info.key.replace(PREFIX, "bucket/experiments/copy"), store.get(info.key).body)
    restored = Experiment(store, "bucket/experiments/copy").restore(tmp_path / "work", on_damage=no_damage)
    assert restored is not None
    assert restored.ref.key == "bucket/experiments/copy/checkpoint-10-1"
