"""One server for most of the tests: a tuned adapter, its base, and two further adapters in one process."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from lab import serving
from tuneyard.chatting.endpoint import Endpoint, connect


@dataclass(frozen=True)
class StoredModels:
    store: Path
    beside: Path
    """`base`, `adapter-1` and the others, as they were before they were put into the store."""


@pytest.fixture(scope="session")
def stored_models(tmp_path_factory) -> StoredModels:
    root = tmp_path_factory.mktemp("served")
    serving.put_models(root / "store", root / "beside")
    return StoredModels(root / "store", root / "beside")


@pytest.fixture(scope="session")
def server(stored_models, tmp_path_factory) -> Iterator[serving.Server]:
    adapters = {"other": serving.OTHER, "brief": serving.BRIEF}
    values = serving.values(adapters=adapters, vllm_engine_args={"gpu_memory_utilization": 0.5})
    running = serving.start(values, stored_models.store, tmp_path_factory.mktemp("server"))
    try:
        running.ready()
        yield running
    finally:
        running.process.kill()
        running.process.wait()


@pytest.fixture(scope="session")
def endpoint(server) -> Endpoint:
    return connect(server.url, server.key)
