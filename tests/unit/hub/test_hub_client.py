"""The Hub's client against a real server that speaks the Hub's API."""

from __future__ import annotations

import gc
import hashlib
from collections.abc import Iterator

import pytest
from huggingface_hub.utils import close_session

from lab.hub_server import Fault, HubServer, git_blob, hub_server
from tuneyard.errors import DeniedError, IntegrityError, InvalidValuesError, NotFoundError, UnavailableError
from tuneyard.hub import Hub, HubFile, RetryPolicy

WEIGHTS = bytes(range(256)) * 2000
FILES = {"config.json": b'{"model_type": "llama"}', "model.safetensors": WEIGHTS, "sub dir/vocab é.txt": b"a\nb\n"}


@pytest.fixture
def server() -> Iterator[HubServer]:
    with hub_server() as running:
        yield running
        close_session()  # its pooled connections would outlive the server
        gc.collect()


@pytest.fixture
def waits() -> list[float]:
    return []


@pytest.fixture
def hub(server: HubServer, waits: list[float]) -> Hub:
    return Hub(
        endpoint=server.url, token="hf_right", retry_policy=RetryPolicy(sleep=waits.append, notify=lambda _: None)
    )


def read(hub: Hub, path: str, revision: str = "main") -> bytes:
    model = hub.resolve("org/tiny", revision)
    return b"".join(hub.read(model, next(file for file in model.files if file.path == path)))


def test_a_revision_becomes_a_commit_with_sizes_and_declared_hashes(server: HubServer, hub: Hub) -> None:
    commit = server.add_model("org/tiny", FILES)
    model = hub.resolve("org/tiny", "main")
    assert (model.commit, model.revision) == (commit, "main")
    assert model.files == (
        HubFile("config.json", 23, None, git_blob(FILES["config.json"])),
        HubFile("model.safetensors", len(WEIGHTS), hashlib.sha256(WEIGHTS).hexdigest(), None),
        HubFile("sub dir/vocab é.txt", 4, None, git_blob(b"a\nb\n")),
    )


def test_no_revision_is_the_newest_commit(server: HubServer, hub: Hub) -> None:
    server.add_model("org/tiny", FILES)
    newest = server.add_model("org/tiny", {"config.json": b"new"})
    assert hub.resolve("org/tiny", "").commit == newest


def test_a_tree_of_several_pages_is_listed_completely(server: HubServer, hub: Hub) -> None:
    server.page_size = 2
    server.add_model("org/tiny", {f"part-{number}.txt": b"x" for number in range(7)})
    assert len(hub.resolve("org/tiny", "main").files) == 7
    assert sum("/tree/" in seen.path for seen in server.seen) == 4


@pytest.mark.parametrize("path", list(FILES))
def test_every_kind_of_file_is_streamed_byte_for_byte(server: HubServer, hub: Hub, path: str) -> None:
    server.add_model("org/tiny", FILES)
    assert read(hub, path) == FILES[path]


def test_bytes_are_those_of_the_pinned_commit_after_main_has_moved(server: HubServer, hub: Hub) -> None:
    server.add_model("org/tiny", FILES)
    model = hub.resolve("org/tiny", "main")
    server.add_model("org/tiny", {**FILES, "config.json": b"another"})
    assert b"".join(hub.read(model, model.files[0])) == FILES["config.json"]
    assert f"/resolve/{model.commit}/" in server.seen[-1].path


def test_the_token_goes_to_the_hub_and_never_to_its_storage(server: HubServer, hub: Hub) -> None:
    server.add_model("org/tiny", FILES)
    read(hub, "model.safetensors")
    assert {seen.authorization for seen in server.seen if seen.server == "hub"} == {"Bearer hf_right"}
    assert [seen.authorization for seen in server.seen if seen.server == "storage"] == [""]


@pytest.mark.parametrize("path", ["config.json", "model.safetensors"])
def test_a_dropped_connection_is_resumed_at_its_byte(
    server: HubServer, hub: Hub, waits: list[float], path: str
) -> None:
    server.add_model("org/tiny", FILES)
    server.faults[path] = Fault(times=2, drop_after=10)
    assert read(hub, path) == FILES[path]
    assert [seen.range for seen in server.seen if seen.range][-1] == "bytes=20-"
    assert waits == [1.0, 1.0]  # each drop came after some bytes, so the count of failures began again


def test_a_server_that_ignores_ranges_is_read_again_from_the_start(server: HubServer, hub: Hub) -> None:
    server.add_model("org/tiny", FILES)
    server.faults["model.safetensors"] = Fault(times=1, drop_after=100_000)
    model = hub.resolve("org/tiny", "main")
    chunks = hub.read(model, model.files[1])
    received = next(chunks)
    server.faults["model.safetensors"] = Fault(ignore_range=True)
    assert received + b"".join(chunks) == WEIGHTS


def test_a_file_that_never_arrives_is_given_up_after_a_number_of_attempts(
    server: HubServer, hub: Hub, waits: list[float]
) -> None:
    server.add_model("org/tiny", FILES)
    server.faults["model.safetensors"] = Fault(status=503)
    with pytest.raises(UnavailableError, match="failed with HTTP 503 for 'org/tiny'"):
        read(hub, "model.safetensors")
    assert waits == [1.0, 2.0, 4.0, 8.0]


def test_a_retry_after_is_waited_for_on_files_and_on_the_api(server: HubServer, hub: Hub, waits: list[float]) -> None:
    server.add_model("org/tiny", FILES)
    server.api_faults = [Fault(status=429, retry_after="7")]
    server.faults["config.json"] = Fault(times=1, status=429, retry_after="11")
    assert read(hub, "config.json") == FILES["config.json"]
    assert waits == [7.0, 11.0]


def test_a_retry_after_of_an_hour_raises_at_once(server: HubServer, hub: Hub, waits: list[float]) -> None:
    server.add_model("org/tiny", FILES)
    server.api_faults = [Fault(status=429, retry_after="3600")]
    with pytest.raises(UnavailableError, match="limits the rate of requests"):
        hub.resolve("org/tiny", "main")
    assert waits == []


@pytest.mark.parametrize("served", [WEIGHTS[:-1], WEIGHTS + b"x"])
def test_another_size_than_declared_is_an_integrity_error(server: HubServer, hub: Hub, served: bytes) -> None:
    server.add_model("org/tiny", FILES)
    server.faults["model.safetensors"] = Fault(serve=served)
    with pytest.raises(IntegrityError, match=r"declares 512000 bytes for 'model.safetensors' and serves"):
        read(hub, "model.safetensors")


def test_a_missing_model_is_not_found_and_its_page_is_named(server: HubServer, hub: Hub) -> None:
    with pytest.raises(NotFoundError, match="There is no model 'org/none' on 'http") as caught:
        hub.resolve("org/none", "main")
    assert f"{server.url}/org/none" in caught.value.hint


def test_without_a_token_the_hint_for_a_missing_model_names_hf_token(server: HubServer) -> None:
    hub = Hub(endpoint=server.url, retry_policy=RetryPolicy(attempts=1))
    with pytest.raises(NotFoundError) as caught:
        hub.resolve("org/none", "main")
    assert "HF_TOKEN" in caught.value.hint


def test_a_missing_revision_is_not_found_and_is_named(server: HubServer, hub: Hub) -> None:
    server.add_model("org/tiny", FILES)
    with pytest.raises(NotFoundError, match="'org/tiny' has no revision 'v9'") as caught:
        hub.resolve("org/tiny", "v9")
    assert "modelRevision" in caught.value.hint


def test_a_gated_model_is_denied_with_the_page_where_its_terms_are(server: HubServer) -> None:
    server.add_model("org/tiny", FILES, gated=True)
    hub = Hub(endpoint=server.url, retry_policy=RetryPolicy(attempts=1))
    with pytest.raises(DeniedError, match="'org/tiny' is gated") as caught:
        read(hub, "model.safetensors")
    assert f"Accept its terms at {server.url}/org/tiny" in caught.value.hint
    assert "HF_TOKEN" in caught.value.hint


def test_a_refused_token_is_denied(server: HubServer) -> None:
    server.add_model("org/tiny", FILES)
    hub = Hub(endpoint=server.url, token="hf_wrong", retry_policy=RetryPolicy(attempts=1))
    with pytest.raises(DeniedError, match="refuses the token") as caught:
        hub.resolve("org/tiny", "main")
    assert "HF_TOKEN" in caught.value.hint
    assert "hf_wrong" not in str(caught.value) + caught.value.hint


def test_an_unreachable_server_is_unavailable() -> None:
    with hub_server() as gone:
        url = gone.url
    hub = Hub(endpoint=url, retry_policy=RetryPolicy(attempts=2, sleep=lambda _: None, notify=lambda _: None))
    with pytest.raises(UnavailableError, match="can't be reached") as caught:
        hub.resolve("org/tiny", "main")
    assert "HF_ENDPOINT" in caught.value.hint


def test_another_server_than_a_hub_is_reported(server: HubServer) -> None:
    server.add_model("org/tiny", FILES)
    server.api_faults = [Fault(status=200)]
    hub = Hub(endpoint=server.url, retry_policy=RetryPolicy(attempts=1))
    with pytest.raises(UnavailableError, match="is not a Hub"):
        hub.resolve("org/tiny", "main")


def test_an_invalid_model_id_is_an_invalid_value(hub: Hub) -> None:
    with pytest.raises(InvalidValuesError, match="is not a valid model id on the Hub"):
        hub.resolve("org/ti ny", "main")
