"""No room, no right, a wrong clock: a documented exit within a minute, and what was committed before stays whole."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from contextlib import ExitStack

import pytest

from lab.missing_tools import reason
from lab.s3_servers import find_binary, serve
from lab.small_disks import fill, small_disk
from tuneyard.chaos import Ground, ground
from tuneyard.chaos.damages import RUN, killed_on_its_way
from tuneyard.chaos.kills import reference
from tuneyard.chaos.material import values, write_values
from tuneyard.chaos.proxy import fault_proxy
from tuneyard.inventory import verify_place

WITHIN_SECONDS = 60
SHORT = [
    "folder",
    pytest.param("minio", marks=pytest.mark.s3),
    pytest.param("versitygw", marks=[pytest.mark.s3, pytest.mark.soak]),
]
SMALL_MEGABYTES = {"folder": 16, "minio": 200, "versitygw": 60}
LATE = """
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


@pytest.fixture(params=SHORT)
def small(request, tmp_path, forks):
    """A killed training on a store whose disk is small: the ground, the disk, and the training that nobody killed."""
    name = request.param
    with ExitStack() as stack:
        binary = None if name == "folder" else find_binary(name)
        disk = stack.enter_context(small_disk(tmp_path / "disk", SMALL_MEGABYTES[name]))
        path = {"PATH": os.environ["PATH"], "OMP_NUM_THREADS": "1"}
        url, environ = (disk / "store").as_uri(), path
        if binary:
            server = stack.enter_context(serve(name, binary, disk))
            url, environ = server.url, {**server.env, **path}
        made = stack.enter_context(ground(url, "default-bucket", environ, forks=forks))
        known = reference(made)
        made.remove("reference")
        killed_on_its_way(made, known)
        yield made, disk, known


def intact(made, run=RUN):
    found = verify_place(made.store, made.experiment(run))
    assert found.damage == ()
    assert found.resume[made.experiment(run)].startswith("resumes from step")


def ends_well(made, known):
    assert made.train(RUN).code == 0
    assert made.result(RUN) == known.result


def test_a_full_store_ends_a_training_with_8_and_room_lets_it_go_on(small):
    made, disk, known = small
    filler = fill(disk, leave_bytes=60_000)
    ended = made.train(RUN)
    assert ended.code == 8, ended.log
    assert ended.seconds < WITHIN_SECONDS
    assert "No space left" in ended.log or "has no room" in ended.log
    filler.unlink()
    intact(made)
    ends_well(made, known)


@pytest.fixture(scope="module", params=SHORT[1:])
def killed(request, ground_of):
    made = ground_of(request.param)
    known = reference(made)
    made.remove("reference")
    state = killed_on_its_way(made, known)
    yield made, known
    made.put_back(f"{made.prefix}/", state.objects)
    made.remove(RUN)


@pytest.mark.parametrize("requests", [0, 60])
def test_a_key_revoked_at_any_time_ends_a_training_with_5(killed, requests):
    made, _ = killed
    seen = 0

    def plan(method, path):
        nonlocal seen
        seen += 1
        return "revoked" if seen > requests else "none"

    with fault_proxy(made.store.url, plan) as url:
        ended = made.train(RUN, environ={"TUNEYARD_STORE": url})
    assert ended.code == 5, ended.log
    assert ended.seconds < WITHIN_SECONDS
    assert "does not accept the credentials" in ended.log
    intact(made)


def test_a_clock_that_is_an_hour_off_ends_a_training_with_5(killed, tmp_path):
    made, known = killed
    compiler = shutil.which("cc")
    if not compiler:
        pytest.skip(reason("cc"))
    (tmp_path / "late.c").write_text(LATE)
    library = tmp_path / "late.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, tmp_path / "late.c", "-ldl"], check=True)
    write_values(tmp_path / "values.json", values(made.prefix, RUN))
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "tuneyard.train", str(tmp_path / "values.json"), "--workdir", str(tmp_path / "work")],
        env={**os.environ, **made.environ, "LD_PRELOAD": str(library)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 5, done.stderr
    assert time.monotonic() - began < WITHIN_SECONDS
    assert "clock is off" in done.stderr
    intact(made)
    ends_well(made, known)


def test_a_full_disk_of_the_machine_that_trains_ends_a_training_with_8(ground_of, tmp_path):
    made = ground_of("folder")
    known = reference(made)
    made.remove("reference")
    with small_disk(tmp_path / "disk", 8) as disk:
        killed_on_its_way(made, known)
        there = Ground(made.store, made.prefix, disk, made.environ, made.forks)
        (disk / RUN).mkdir()
        fill(disk, leave_bytes=200_000)
        ended = there.train(RUN)
    assert ended.code == 8, ended.log
    assert ended.seconds < WITHIN_SECONDS
    intact(made)
    ends_well(made, known)
    made.remove(RUN)
