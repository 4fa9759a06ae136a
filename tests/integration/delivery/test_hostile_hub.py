"""Delivery from a Hub that sends false responses: none of them ever becomes a complete model in the store."""

from __future__ import annotations

import gc
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub.utils import close_session

from lab.hostile_cases import NAMES, all_cases
from lab.hostile_hub import COMMIT, FILES, Case, HostileHub, Pieces, Request, hostile_hub, json_reply, rows
from tuneyard.delivery import deliver
from tuneyard.errors import NotFoundError, TuneyardError, UnavailableError
from tuneyard.hub import Hub, Limits, RetryPolicy
from tuneyard.hub.redirects import look_up
from tuneyard.store import open_store, read_manifest, verify
from tuneyard.values import DeliverValues

MODEL = "default-bucket/models/tiny"
MANIFEST = f"{MODEL}/.tuneyard/manifest.json"
CASES = all_cases()
MOST_SENT = 40 * 1024 * 1024
MOST_MEMORY = 400 * 1024 * 1024
LIMITS = Limits(
    head_seconds=1.0,
    answer_seconds=5.0,
    answer_bytes=4 * 1024 * 1024,
    pages=20,
    files=2_000,
    slow_seconds=1.0,
    bytes_per_try=16_384,
)


@pytest.fixture(scope="module")
def hostile() -> Iterator[HostileHub]:
    with hostile_hub() as running:
        yield running
        close_session()
        gc.collect()


def addresses(host: str) -> tuple[str, ...]:
    """Look up without a network: the names of the cases, and addresses in any spelling."""
    if host.lower() in NAMES:
        return NAMES[host.lower()]
    if any(character.isalpha() for character in host.removeprefix("0x")) and "." in host and "x" not in host:
        raise OSError(host)
    return tuple(look_up(host))


def deliver_from(hostile: HostileHub, folder: Path, case: Case, endpoint: str = "") -> None:
    hostile.use(case)
    hub = Hub(
        endpoint=endpoint or hostile.url,
        token="hf_canary",
        retry_policy=RetryPolicy(attempts=2, sleep=lambda _: None, notify=lambda _: None),
        limits=LIMITS,
        **({"addresses": addresses} if case.public else {}),
    )
    values = {"modelID": "org/tiny", "bucketModelPath": MODEL, "modelRevision": case.revision}
    store = open_store((folder / "store").as_uri())
    deliver(DeliverValues.model_validate(values), store, workdir=folder / "work", hub=hub)


def test_there_are_enough_cases() -> None:
    assert len(CASES) >= 200


def test_an_honest_hub_is_delivered_from(hostile: HostileHub, tmp_path: Path) -> None:
    for public in (False, True):
        folder = tmp_path / str(public)
        folder.mkdir()
        deliver_from(hostile, folder, Case("honest", lambda request: None, revision=COMMIT, public=public))
        store = open_store((folder / "store").as_uri())
        manifest = read_manifest(store, MANIFEST)
        verify(store, f"{MODEL}/", manifest)
        assert {entry.path for entry in manifest.files} == FILES.keys()


@pytest.mark.timeout(60)
@pytest.mark.parametrize("case", CASES, ids=lambda case: ascii(case.name)[1:-1].replace("::", ": :"))
def test_a_false_response_is_refused_and_never_becomes_a_model(
    hostile: HostileHub,
    tmp_path: Path,
    case: Case,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    refused_for_good(hostile, tmp_path, case)
    check_shown(caplog.text + "".join(capsys.readouterr()))


def test_more_bytes_than_the_disk_has_are_refused_before_the_first_is_fetched(
    hostile: HostileHub, tmp_path: Path
) -> None:
    vast = {**rows()[1], "lfs": {**rows()[1]["lfs"], "size": 4 * 1024**4}}

    def answer(request: Request) -> Pieces | None:
        return [json_reply([vast])] if request.stage == "tree" else None

    with pytest.raises(UnavailableError, match="has no room for 'org/tiny at "):
        deliver_from(hostile, tmp_path, Case("vast", answer))
    assert {request.stage for request in hostile.requests} == {"facts", "tree"}


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(1, 11))
def test_false_responses_of_other_seeds_are_refused_too(
    hostile: HostileHub,
    tmp_path: Path,
    seed: int,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    known = {case.name for case in CASES}
    cases = [case for case in all_cases(seed) if case.name not in known]
    assert len(cases) > 40
    for number, case in enumerate(cases):
        folder = tmp_path / str(number)
        folder.mkdir()
        refused_for_good(hostile, folder, case)
        check_shown(caplog.text + "".join(capsys.readouterr()))


def check_shown(text: str) -> None:
    """Check that messages hold no secret, and nothing that steers a terminal."""
    assert "hf_canary" not in text
    assert not [character for character in text if not character.isprintable() and character not in "\n\r"]


def refused_for_good(hostile: HostileHub, tmp_path: Path, case: Case) -> None:
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(TuneyardError) as caught:
        deliver_from(hostile, tmp_path, case)
    error = caught.value
    assert error.exit_code in case.codes, repr(error)
    assert case.sentence in str(error)
    assert error.message[-1] == "." or error.message.endswith("…")
    assert error.hint
    check_shown(str(error) + error.hint)
    store = open_store((tmp_path / "store").as_uri())
    with pytest.raises(NotFoundError):
        read_manifest(store, MANIFEST)
    assert {path.name for path in tmp_path.iterdir()} <= {"store", "work"}
    inside = [path for path in (tmp_path / "store").rglob("*") if path.is_file() and ".store" not in path.parts]
    assert {path.relative_to(tmp_path / "store" / MODEL).parts[0] for path in inside} <= {".tuneyard", *FILES}
    assert not list((tmp_path / "store").glob(".store/tmp/*"))
    for path in inside:
        assert path.parent.name == ".tuneyard" or path.read_bytes() == FILES[path.name]
    assert hostile.sent < MOST_SENT
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory) * 1024 < MOST_MEMORY
