"""A testbed on each kind of store, with the training that its trials are compared with."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from functools import cache

import pytest

from lab.chaos import stores
from lab.chaos.kills import Reference, reference
from lab.chaos.testbed import FORK_SERVER, Testbed, open_testbed
from lab.programs import Program

ENVIRON = {"PATH": os.environ["PATH"], "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="session")
def fork_server() -> Iterator[Callable[[], Program]]:
    """Return a function that returns the process which forks trainings; it starts once, and imports torch once."""
    with ExitStack() as stack:
        yield cache(lambda: stack.enter_context(Program(FORK_SERVER, ENVIRON)))


@pytest.fixture(scope="session")
def testbed_on(tmp_path_factory, s3_server_of, fork_server) -> Iterator[Callable[..., Testbed]]:
    """Return a function from a store's name to a testbed on it; each is made once."""

    def location(name: str) -> tuple[str, Mapping[str, str]]:
        if name == stores.GIVEN:
            keys = ("AWS_", "HOME", "SSL_", "TUNEYARD_HOME")
            return name, {**{key: text for key, text in os.environ.items() if key.startswith(keys)}, **ENVIRON}
        if name == "folder":
            return (tmp_path_factory.mktemp("testbed") / "store").as_uri(), ENVIRON
        server = s3_server_of(name)
        return server.url, {**server.env, **ENVIRON}

    with ExitStack() as stack:
        made: list[Testbed] = []

        @cache
        def testbed(name: str, *, training: bool = True) -> Testbed:
            url, environ = location(name)
            forks = fork_server() if training else None
            made.append(stack.enter_context(open_testbed(url, stores.GIVEN_BUCKET, environ, forks)))
            return made[-1]

        yield testbed
        left = [info.key for each in made for info in each.store.list(f"{each.prefix}/experiments/")]
        assert left == [], "trials remove what they write"


@pytest.fixture(scope="session")
def expected_on(testbed_on) -> Callable[[str], Reference]:
    """Return a function from a store's name to the undisturbed training on it; each is run once."""
    return cache(lambda name: reference(testbed_on(name)))
