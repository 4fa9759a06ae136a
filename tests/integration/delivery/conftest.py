"""Fixtures of the delivery's tests."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from huggingface_hub.utils import close_session

from lab.deliveries import Delivery
from lab.hub_server import HubServer, hub_server
from tuneyard.store import Store, open_store


@pytest.fixture
def hub() -> Iterator[HubServer]:
    with hub_server() as running:
        yield running
        close_session()  # its pooled connections would outlive the server
        gc.collect()


@pytest.fixture
def delivery_to(hub: HubServer, tmp_path: Path) -> Callable[..., Delivery]:
    def make(store: Store, **env: str) -> Delivery:
        base = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "HF_ENDPOINT": hub.url, "TUNEYARD_STORE": store.url}
        return Delivery(hub, store, {**base, **env}, tmp_path)

    return make


@pytest.fixture
def delivery(delivery_to: Callable[..., Delivery], tmp_path: Path) -> Delivery:
    return delivery_to(open_store((tmp_path / "store").as_uri()))
