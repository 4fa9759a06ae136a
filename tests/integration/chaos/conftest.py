"""A ground on each kind of store, and one check of any trials."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from tuneyard.chaos import Ground, ground
from tuneyard.chaos.ground import FORKS
from tuneyard.chaos.programs import Program


@pytest.fixture(scope="session")
def forks() -> Iterator[Program]:
    """Give the process that trainings are forked from; its imports are made once."""
    with Program(FORKS, {"PATH": os.environ["PATH"], "OMP_NUM_THREADS": "1"}) as program:
        yield program


@pytest.fixture(scope="module")
def ground_of(tmp_path_factory, s3_server_of, forks) -> Iterator[Callable[..., Ground]]:
    """Give a function from a store's name to a ground on it; each is made once a module."""
    path = {"PATH": os.environ["PATH"], "OMP_NUM_THREADS": "1"}
    with ExitStack() as stack:
        made: dict[tuple[str, bool], Ground] = {}

        def ground_on(name: str, *, training: bool = True) -> Ground:
            if (name, training) not in made:
                if name == "folder":
                    url, environ = (tmp_path_factory.mktemp("ground") / "store").as_uri(), path
                else:
                    server = s3_server_of(name)
                    url, environ = server.url, {**server.env, **path}
                made[name, training] = stack.enter_context(
                    ground(url, "default-bucket", environ, training=training, forks=forks)
                )
            return made[name, training]

        yield ground_on
        for used in made.values():
            left = {info.key for info in used.store.list(f"{used.prefix}/experiments/")}
            assert not {key for key in left if "/reference/" not in key and "/damaged/" not in key}
