"""What each lock holds, and what it does not, on the real kernel: every version of Landlock, with and without a second
lock, against the same attacks. `docs/guides/security.md` has the same table.
"""

from __future__ import annotations

import ctypes
import json
import os
import platform
import secrets
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from tuneyard.sandbox import HOLDS, Hold, Locks, Plan, command, find_locks
from tuneyard.sandbox.landlock import version
from tuneyard.sandbox.locks import SUFFICIENT

KERNEL = version()
pytestmark = pytest.mark.skipif(platform.system() != "Linux", reason="the locks are Linux's")

# Each raises OSError where it is held; `there` is a folder outside of the program's own, `victim` a process outside.
ATTACKS: dict[Hold, dict[str, str]] = {
    "writes": {
        "makes a file": "open(there + '/new', 'w')",
        "appends": "open(there + '/kept', 'a').write('x')",
        "makes a folder": "os.mkdir(there + '/new-folder')",
        "renames": "os.rename(there + '/moved', there + '/gone')",
        "removes": "os.unlink(there + '/removed')",
        "makes a link": "os.symlink('/etc', there + '/link')",
        "makes a pipe": "os.mkfifo(there + '/pipe')",
    },
    "truncation": {
        "cuts by path": "os.truncate(there + '/cut-1', 0)",
        "cuts by opening for reading": "os.close(os.open(there + '/cut-2', os.O_RDONLY | os.O_TRUNC))",
        "cuts by opening for nothing": "os.close(os.open(there + '/cut-3', 3 | os.O_TRUNC))",
    },
    "reads": {
        "reads a key": "open(there + '/keys/key').read()",
        "reads a key by a link": "os.symlink(there + '/keys', 'way'); open('way/key').read()",
        "lets cat read": "subprocess.run(['cat', there + '/keys/key'], check=True, capture_output=True)",
    },
    "processes": {"reads an environment": "assert b'canary' in open(f'/proc/{victim}/environ', 'rb').read()"},
    "signals": {"signals": "os.kill(victim, signal.SIGCONT)"},
    "abstract sockets": {"connects": "socket.socket(socket.AF_UNIX).connect(name)"},
    "shared memory": {
        "reads shared memory": "open('/dev/shm/' + name[1:]).read()",
        "changes shared memory": "open('/dev/shm/' + name[1:], 'r+').write('x')",
        "attaches by the old calls": (
            "libc = ctypes.CDLL(None, use_errno=True); libc.shmat.restype = ctypes.c_ssize_t\n"
            "if libc.shmat(libc.shmget(segment, 0, 0), None, 0) == -1: raise OSError"
        ),
    },
    "modes and times": {
        "changes the mode": "os.chmod(there + '/kept', 0o600)",
        "changes times": "os.utime(there + '/kept')",
    },
}  # fmt: skip
PROGRAM = """
import ctypes, json, os, signal, socket, subprocess, sys
there, victim, name, attacks = sys.argv[1], int(sys.argv[2]), "\\0" + sys.argv[3], json.loads(sys.argv[4])
segment = int(sys.argv[5])
outcomes = {}
for attack, code in attacks.items():
    try:
        exec(code)
        outcomes[attack] = "done"
    except (OSError, subprocess.CalledProcessError, AssertionError) as error:
        outcomes[attack] = repr(error)
print(json.dumps(outcomes))
"""
VICTIM = "import socket, sys, time; s = socket.socket(socket.AF_UNIX); s.bind('\\0' + sys.argv[1]); s.listen(9); print(flush=True); time.sleep(600)"  # noqa: E501


@dataclass
class Place:
    """A folder, a process and shared memory outside; `own` is the program's folder, `segment` a key of System V's."""

    own: Path
    there: Path
    victim: int
    name: str
    segment: int

    def attack(self, locks: Locks | None) -> dict[str, str]:
        attacks = {name: code for group in ATTACKS.values() for name, code in group.items()}
        program = [sys.executable, "-I", "-c", PROGRAM, str(self.there), str(self.victim), self.name]
        program += [json.dumps(attacks), str(self.segment)]
        if locks is not None:
            plan = Plan(writable=(str(self.own),), hidden=(str(self.there / "keys"),))
            program = command(plan, locks, program, file=self.own.parent / "plan.json")
        done = subprocess.run(program, cwd=self.own, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    there = tmp_path / "there"
    for folder in (tmp_path / "own", there / "keys"):
        folder.mkdir(parents=True)
    for name in ("kept", "moved", "removed", "cut-1", "cut-2", "cut-3", "keys/key"):
        (there / name).write_text("canary")
    name = f"tuneyard-{tmp_path.name}-{os.getpid()}"
    victim = [sys.executable, "-c", VICTIM, name]
    with subprocess.Popen(victim, env={**os.environ, "SECRET": "canary"}, stdout=subprocess.PIPE) as process:
        assert process.stdout
        process.stdout.readline()
        try:
            with shared_memory(name) as segment:
                yield Place(tmp_path / "own", there, process.pid, name, segment)
        finally:
            process.kill()


@contextmanager
def shared_memory(name: str) -> Iterator[int]:
    """Make a file in /dev/shm and a segment of System V's; give the segment's key."""
    file, key, libc = Path("/dev/shm") / name, secrets.randbits(30) | 1, ctypes.CDLL(None, use_errno=True)
    file.write_text("canary")
    identifier = libc.shmget(key, 4096, 0o1600)  # IPC_CREAT, for this user alone
    try:
        assert identifier >= 0
        yield key
    finally:
        libc.shmctl(identifier, 0, None)  # IPC_RMID
        file.unlink()


LEVELS = [Locks(abi, namespaces=second) for abi in range(1, 8) for second in (False, True)]
LEVELS += [Locks(1, seccomp=True), Locks(2, seccomp=True), Locks(namespaces=True)]


def test_every_attack_succeeds_without_a_lock(place: Place) -> None:
    assert set(place.attack(None).values()) == {"done"}


@pytest.mark.parametrize("locks", LEVELS, ids=str)
def test_each_level_restricts_exactly_what_it_reports(place: Place, locks: Locks) -> None:
    if locks.landlock > KERNEL:
        pytest.skip(f"this kernel has Landlock {KERNEL}")
    if locks.namespaces and not namespaces_work():
        pytest.skip("users may make no namespaces here")
    outcomes = place.attack(locks)
    done = {hold: {name for name in ATTACKS[hold] if outcomes[name] == "done"} for hold in HOLDS}
    assert done == {hold: set() if hold in locks.held else set(ATTACKS[hold]) for hold in HOLDS}


def namespaces_work() -> bool:
    return find_locks(newest_landlock=0).namespaces


@pytest.mark.parametrize(("abi", "held"), [(1, 3), (2, 3), (3, 4), (4, 4), (5, 4), (6, 6), (7, 6)])
def test_the_levels_differ_as_the_kernels_documentation_states(abi: int, held: int) -> None:
    assert len(Locks(abi).held) == held
    assert Locks(abi).sufficient == (abi >= 6)
    assert ("truncation" in Locks(abi).held) == (abi >= 3)
    assert ("signals" in Locks(abi).held) == (abi >= 6)


def test_the_second_lock_is_used_only_where_the_first_is_old() -> None:
    for abi in range(8):
        locks = find_locks(newest_landlock=abi)
        assert locks.landlock == min(abi, KERNEL)
        assert locks.namespaces == (locks.landlock < 6 and namespaces_work())
        assert locks.seccomp == (locks.landlock in (1, 2) and not locks.namespaces)
        if namespaces_work():
            assert locks.sufficient
    assert find_locks() == find_locks(newest_landlock=99)


def test_nothing_is_reported_as_restricted_without_a_lock() -> None:
    assert (Locks().held, Locks().sufficient, str(Locks())) == ((), False, "none")
    assert set(HOLDS) > SUFFICIENT


@pytest.mark.parametrize("locks", [Locks(min(KERNEL, 2), seccomp=True), Locks(namespaces=True), find_locks()], ids=str)
def test_a_program_behind_a_lock_ends_as_it_does_without(tmp_path: Path, locks: Locks) -> None:
    if locks.namespaces and not namespaces_work():
        pytest.skip("users may make no namespaces here")
    plan = Plan(writable=(str(tmp_path),))

    def run(code: str) -> subprocess.CompletedProcess[str]:
        program = command(plan, locks, [sys.executable, "-I", "-c", code], file=tmp_path / "plan.json")
        return subprocess.run(program, cwd=tmp_path, capture_output=True, text=True, timeout=60, input="given")

    done = run("import sys; print(sys.stdin.read(), sys.argv); print('outcomes', file=sys.stderr); sys.exit(9)")
    assert (done.returncode, done.stdout, done.stderr) == (9, "given ['-c']\n", "outcomes\n")
    assert run("import os; os.kill(os.getpid(), 9)").returncode == -signal.SIGKILL
    assert run("import os; os.abort()").returncode == -signal.SIGABRT
    write = "open('a', 'w').write('x'); open('a', 'w').truncate(0); open('/dev/null', 'w').write('x')"
    assert run(write).returncode == 0
    assert run("import os; print(os.cpu_count(), os.path.exists('/dev/shm'))").stdout.endswith("True\n")


def test_namespaces_end_what_a_program_leaves_running(tmp_path: Path) -> None:
    if not namespaces_work():
        pytest.skip("users may make no namespaces here")
    code = (
        "import os, subprocess, sys\n"
        'left = \'import time; open("there", "w"); time.sleep(30); open("later", "w")\'\n'
        "subprocess.Popen([sys.executable, '-c', left, *sys.argv[1:]], start_new_session=True)\n"
        "while not os.path.exists('there'): pass\n"
    )
    mark = secrets.token_hex(16)  # other processes of the machine may have any plain word in their arguments
    program = [sys.executable, "-I", "-c", code, mark]
    plan = Plan(writable=(str(tmp_path),))
    program = command(plan, Locks(namespaces=True), program, file=tmp_path / "plan.json")
    assert subprocess.run(program, cwd=tmp_path, timeout=60).returncode == 0
    left = [words for words in _commands_running() if mark in words or str(tmp_path) in " ".join(words)]
    assert left == []


def _commands_running() -> Iterator[list[str]]:
    import psutil

    for process in psutil.process_iter():
        with suppress(psutil.NoSuchProcess):  # ended meanwhile
            if process.pid != os.getpid():
                yield process.cmdline()


def test_shown_paths_within_hidden_ones_can_be_read(tmp_path: Path) -> None:
    inside = tmp_path / "home" / ".local" / "python" / "lib"
    inside.mkdir(parents=True)
    (inside / "module.py").write_text("shown")
    (tmp_path / "home" / ".local" / "key").write_text("canary")
    (tmp_path / "own").mkdir()
    with pytest.raises(ValueError, match="can't be hidden within a writable folder"):
        Plan(hidden=(str(tmp_path / "home" / ".local"),), writable=(str(tmp_path / "home"),))
    hidden = (str(tmp_path / "home" / ".local"),)
    code = (
        "import sys\nprint(open(sys.argv[1] + '/python/lib/module.py').read())\n"
        "try: print(open(sys.argv[1] + '/key').read())\nexcept OSError: print('held')"
    )
    for locks in (find_locks(), find_locks(newest_landlock=0)):
        if locks == Locks():
            continue
        plan = Plan(hidden=hidden, shown=(str(inside),), writable=(str(tmp_path / "own"),))
        program = command(plan, locks, [sys.executable, "-I", "-c", code, hidden[0]], file=tmp_path / "plan.json")
        done = subprocess.run(program, capture_output=True, text=True)
        assert done.stdout.split() == ["shown", "held"], (str(locks), done.stderr)


def test_a_plan_may_be_longer_than_an_argument(tmp_path: Path) -> None:
    """Linux takes 128 KiB in one argument; a home may have thousands of hidden files."""
    (tmp_path / "own").mkdir()
    names = [tmp_path / f".{'x' * 200}-{number}" for number in range(1000)]
    for name in names[::100]:
        name.write_text("canary")
    plan = Plan(writable=(str(tmp_path / "own"),), hidden=tuple(map(str, names)))
    code = "import sys\ntry: open(sys.argv[1]).read(); print('read')\nexcept OSError: print('held')"
    program = [sys.executable, "-I", "-c", code, str(names[500])]
    for locks in {find_locks(), find_locks(newest_landlock=0)} - {Locks()}:
        sandboxed = command(plan, locks, program, file=tmp_path / "own" / "plan.json")
        done = subprocess.run(sandboxed, capture_output=True, text=True)
        assert done.stdout == "held\n", (str(locks), done.stderr)
