"""A killed writer leaves nothing visible, and a stream uses no more memory than `limits` allows, at any size."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
from collections.abc import Mapping

import pytest

from lab.places import Place
from tuneyard.errors import NotFoundError
from tuneyard.store import open_store
from tuneyard.store.limits import PART_BYTES, STREAM_PARTS

WRITE = """
    import os, sys
    from tuneyard.store import open_store

    def chunks():
        for number in range(int(sys.argv[2])):
            yield os.urandom(1024) * 1024
            if number == 40:
                print("on the way", flush=True)

    store = open_store(os.environ["TUNEYARD_STORE"])
"""
ENDLESS = WRITE + "    store.write(sys.argv[1], chunks())\n"
MEASURED = (
    WRITE
    + """
    import resource
    store.write(sys.argv[1], [b""])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    store.write(sys.argv[1], chunks())
    for chunk in store.read(sys.argv[1]):
        pass
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
)


def start(script: str, key: str, megabytes: int, env: Mapping[str, str]) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", textwrap.dedent(script), key, str(megabytes)]
    return subprocess.Popen(command, env=dict(env), stdout=subprocess.PIPE, text=True)


@pytest.mark.parametrize("before", [None, b"before"])
def test_a_killed_writer_leaves_the_old_object(place: Place, before: bytes | None) -> None:
    key = place / "sub/weights"
    if before is not None:
        place.store.put(key, before)
    with start(ENDLESS, key, 100_000, place.env) as writer:
        assert writer.stdout
        assert writer.stdout.readline() == "on the way\n"
        writer.send_signal(signal.SIGKILL)
        assert writer.wait() == -signal.SIGKILL
    store = open_store(place.store.url, environ=place.env)
    if before is None:
        assert list(store.list(place.prefix)) == []
        with pytest.raises(NotFoundError):
            store.get(key)
    else:
        assert [(info.key, info.size) for info in store.list(place.prefix)] == [(key, len(before))]
        assert store.get(key).body == before
    assert store.write(key, [b"new"]).size == 3
    assert store.get(key).body == b"new"


def test_memory_is_bounded_at_any_size(place: Place) -> None:
    with start(MEASURED, place / "large", 256, place.env) as writer:
        printed, _ = writer.communicate(timeout=500)
    assert writer.returncode == 0
    grown_bytes = int(printed.split()[-1]) * 1024
    # parts under way, the one being filled, the one handed over, and the allocator's own
    assert grown_bytes < (STREAM_PARTS + 3) * PART_BYTES
    assert place.store.head(place / "large").size == 256 * 1024 * 1024
