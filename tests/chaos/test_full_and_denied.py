"""No space, no rights, a skewed clock: a documented exit code soon, and what was committed before stays whole."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from contextlib import ExitStack

import pytest

from lab.chaos.damage import RUN, kill_between_checkpoints
from lab.chaos.kills import reference
from lab.chaos.stores import GIVEN, MINIO, VERSITYGW, stores
from lab.chaos.testbed import Testbed, open_testbed
from lab.fault_proxy import fault_proxy
from lab.missing_tools import reason
from lab.s3_servers import find_binary, serve
from lab.small_disks import fill, small_disk
from lab.training import write_values
from tuneyard.inventory import verify_place

# A minute is promised; a store that can't be reached is waited for three times as long.
WITHIN_SECONDS = 120
SOAKED = pytest.param(*VERSITYGW.values, marks=[*VERSITYGW.marks, pytest.mark.soak])
MEGABYTES = {"folder": 16, "minio": 200, "versitygw": 60}
SKEW = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <time.h>
int clock_gettime(clockid_t clock, struct timespec *at) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = dlsym(RTLD_NEXT, "clock_gettime");
    int code = real(clock, at);
    if (clock == CLOCK_REALTIME) at->tv_sec -= 3600;
    return code;
}
"""


@pytest.fixture(params=["folder", MINIO, SOAKED])
def small(request, tmp_path, fork_server):
    """A killed training on a store with a small disk: the testbed, the disk, and the undisturbed training."""
    if GIVEN:
        pytest.skip("the disk of the given store is not filled")
    name = request.param
    with ExitStack() as stack:
        binary = None if name == "folder" else find_binary(name)
        disk = stack.enter_context(small_disk(tmp_path / "disk", MEGABYTES[name]))
        environ = {"PATH": os.environ["PATH"]}
        url = (disk / "store").as_uri()
        if binary:
            server = stack.enter_context(serve(name, binary, disk))
            url, environ = server.url, {**server.env, **environ}
        testbed = stack.enter_context(open_testbed(url, "default-bucket", environ, fork_server()))
        expected = reference(testbed)
        kill_between_checkpoints(testbed, expected)
        yield testbed, disk, expected


def assert_resumable(testbed):
    found = verify_place(testbed.store, testbed.experiment(RUN))
    assert found.damage == ()
    assert found.resume[testbed.experiment(RUN)].startswith("resumes from step")


def finish(testbed, expected):
    assert testbed.train(RUN).code == 0
    assert testbed.result(RUN) == expected.result


def test_a_full_store_ends_a_training_with_8_until_there_is_space(small):
    testbed, disk, expected = small
    filler = fill(disk, leave_bytes=60_000)
    ended = testbed.train(RUN)
    assert ended.code == 8, ended.log
    assert ended.seconds < WITHIN_SECONDS
    assert "No space left" in ended.log or "has no room" in ended.log
    filler.unlink()
    assert_resumable(testbed)
    finish(testbed, expected)


@pytest.fixture(scope="module", params=stores(MINIO, SOAKED))
def killed(request, testbed_on, expected_on):
    testbed, expected = testbed_on(request.param), expected_on(request.param)
    if not testbed.store.url.startswith("http"):
        pytest.skip("this store is not a server")
    state = kill_between_checkpoints(testbed, expected)
    yield testbed, expected
    testbed.restore(f"{testbed.prefix}/", state.objects)
    testbed.remove(RUN)


@pytest.mark.parametrize("requests", [0, 60])
def test_a_revoked_key_ends_a_training_with_5_at_any_time(killed, requests):
    testbed, _ = killed
    seen = 0

    def plan(method, path):
        nonlocal seen
        seen += 1
        return "revoked" if seen > requests else "none"

    with fault_proxy(testbed.store.url, plan, ca_bundle=testbed.environ.get("AWS_CA_BUNDLE")) as url:
        ended = testbed.train(RUN, environ={"TUNEYARD_STORE": url})
    assert ended.code == 5, ended.log
    assert ended.seconds < WITHIN_SECONDS
    assert "does not accept the credentials" in ended.log
    assert_resumable(testbed)


def test_a_clock_that_is_off_by_an_hour_ends_a_training_with_5(killed, tmp_path):
    testbed, expected = killed
    compiler = shutil.which("cc")
    if not compiler:
        pytest.skip(reason("cc"))
    (tmp_path / "skew.c").write_text(SKEW)
    library = tmp_path / "skew.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, tmp_path / "skew.c", "-ldl"], check=True)
    path = write_values(tmp_path / "values.json", testbed.values(RUN))
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "tuneyard.train", str(path), "--workdir", str(tmp_path / "work")],
        env={**os.environ, **testbed.environ, "LD_PRELOAD": str(library)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 5, done.stderr
    assert time.monotonic() - started < WITHIN_SECONDS
    assert "clock is wrong" in done.stderr
    assert_resumable(testbed)
    finish(testbed, expected)


def test_a_full_local_disk_ends_a_training_with_8(testbed_on, expected_on, tmp_path):
    if GIVEN:
        pytest.skip("the local disk has nothing to do with the given store")
    testbed, expected = testbed_on("folder"), expected_on("folder")
    with small_disk(tmp_path / "disk", 8) as disk:
        kill_between_checkpoints(testbed, expected)
        there = Testbed(testbed.store, testbed.prefix, disk, testbed.environ, testbed.fork_server)
        (disk / RUN).mkdir()
        fill(disk, leave_bytes=200_000)
        ended = there.train(RUN)
    assert ended.code == 8, ended.log
    assert ended.seconds < WITHIN_SECONDS
    assert_resumable(testbed)
    finish(testbed, expected)
    testbed.remove(RUN)
