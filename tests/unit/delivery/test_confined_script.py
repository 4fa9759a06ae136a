"""A dataScript that tries to leave its folder, or to read keys that its parent has."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tuneyard.delivery.script import run_script
from tuneyard.sandbox import Locks, find_locks

pytestmark = pytest.mark.skipif(find_locks() == Locks(), reason="this machine has no lock for a script")

# Each tries one way out; `outside` is a folder beside the job's, `kept` a file in it.
ESCAPES = {
    "opens a file": "open(outside + '/new', 'w')",
    "opens a file to append": "open(kept, 'a')",
    "opens a file to change": "open(kept, 'r+')",
    "makes a folder": "os.mkdir(outside + '/new')",
    "removes a file": "os.unlink(kept)",
    "removes a folder": "os.rmdir(outside + '/folder')",
    "truncates a file": "os.truncate(kept, 0)",
    "renames a file": "os.rename(kept, outside + '/new')",
    "moves a file in": "os.rename(kept, 'mine')",
    "moves a file out": "open('mine', 'w').close(); os.rename('mine', outside + '/new')",
    "links a file in": "os.link(kept, 'mine')",
    "links a file out": "open('mine', 'w').close(); os.link('mine', outside + '/new')",
    "makes a link outside": "os.symlink('/etc', outside + '/new')",
    "writes through a link of its own": "os.symlink(outside, 'way'); open('way/new', 'w')",
    "writes through a link to a file": "os.symlink(kept, 'way'); open('way', 'w')",
    "writes by the way of ..": "open('../../outside/new', 'w')",
    "writes by the way of /proc": "open('/proc/self/root' + outside + '/new', 'w')",
    "makes a pipe": "os.mkfifo(outside + '/new')",
    "makes a socket": "import socket; socket.socket(socket.AF_UNIX).bind(outside + '/new')",
    "lets a shell write": "subprocess.run('echo x > ' + kept, shell=True, check=True)",
    "lets cp write": "subprocess.run(['cp', '/etc/hostname', kept], check=True)",
    "lets a child of a child write": "subprocess.run(['sh', '-c', 'sh -c \"echo x > ' + kept + '\"'], check=True)",
    "writes into the user's home": "open(user_home + '/.bashrc', 'w')",
    "writes into /tmp": "open('/tmp/tuneyard-escaped', 'w')",
    "writes into /etc": "open('/etc/tuneyard-escaped', 'w')",
    "reads its parent's environment": "open(f'/proc/{os.getppid()}/environ', 'rb').read()",
    "reads its parent's memory": "open(f'/proc/{os.getppid()}/mem', 'rb')",
    "follows its parent's open files": "os.readlink(f'/proc/{os.getppid()}/fd/0')",
    "reads every process's environment": (
        "every = [p for p in os.listdir('/proc') if p.isdigit() and int(p) != os.getpid()]\n"
        "read = 0\n"
        "for p in every:\n"
        "    try: read += b'canary' in open(f'/proc/{p}/environ', 'rb').read()\n"
        "    except OSError: pass\n"
        "if not read: raise PermissionError"
    ),
    "kills its parent": "os.kill(os.getppid(), 0)",
    "traces its parent": (
        "import ctypes; libc = ctypes.CDLL(None, use_errno=True)\n"
        "if libc.ptrace(16, os.getppid(), 0, 0) != 0: raise PermissionError"
    ),
    "reads the AWS credentials": "open(user_home + '/.aws/credentials').read()",
    "reads the Kubernetes configuration": "open(user_home + '/.kube/config').read()",
    "reads an SSH key": "open(user_home + '/.ssh/id_ed25519').read()",
    "reads the Hub's token": "open(user_home + '/.cache/huggingface/token').read()",
    "reads a token that a variable names": "open(outside + '/hub-token').read()",
    "reads the Hub's token in a relocated folder": "open(outside + '/hub/token').read()",
    "reads what lies beside that token": "open(outside + '/hub/modules/x.py').read()",
    "writes where the user's programs load modules from": "open(outside + '/hub/modules/y.py', 'w')",
    "reads a relocated state folder": "open(outside + '/share/tuneyard/runs/serve/x/api-key').read()",
    "reads a relocated configuration": "open(outside + '/config/gh/hosts.yml').read()",
    "reads a folder of several that a variable names": "open(outside + '/kube-2').read()",
    "reads what a variable that nobody has heard of names": "open(outside + '/anything.json').read()",
    "reads a variable's file by its URL": "open(outside + '/my store/bucket/key').read()",
    "reads what a variable names in a longer text": "open(outside + '/deploy/key').read()",
    "reads what a variable names from the current folder": "open(outside + '/near/kube').read()",
    "reads what a link in a hidden folder leads to": "open(user_home + '/.config/gh/hosts.yml').read()",
    "reads where that link leads": "open(outside + '/dotfiles/hosts.yml').read()",
    "reads a hidden file above the current folder": "open(outside + '/.env').read()",
    "reads a hidden file of the user's": "open(user_home + '/.vault-token').read()",
    "reads a hidden file of the current folder": "open(current + '/.env').read()",
    "reads the raw memory": "open('/dev/mem', 'rb').read(1)",
    "reads a terminal": "open('/dev/pts/ptmx', 'rb')",
    "reads a key through a link": "os.symlink(user_home + '/.aws', 'aws'); open('aws/credentials').read()",
    "lets cat read": "subprocess.run(['cat', user_home + '/.aws/credentials'], check=True)",
    "loosens its own fetters": (
        "import ctypes, struct; libc = ctypes.CDLL(None, use_errno=True)\n"
        "rules = libc.syscall(444, struct.pack('=Q', 2), 8, 0)\n"
        "where = os.open('/', os.O_PATH)\n"
        "libc.syscall(445, rules, 1, struct.pack('=Qi', 2, where), 0); libc.syscall(446, rules, 0)\n"
        "open(kept, 'w')"
    ),
}
KEYS = (".aws/credentials", ".kube/config", ".ssh/id_ed25519", ".cache/huggingface/token", ".vault-token")
OUTSIDE = (
    "kept", "hub-token", "hub/token", "hub/modules/x.py", "share/tuneyard/runs/serve/x/api-key", "config/gh/hosts.yml",
    "kube-1", "kube-2", "anything.json", "my store/bucket/key", "current/.env", "deploy/key", "near/kube",
    "dotfiles/hosts.yml", ".env",
)  # fmt: skip


def make_home(folder: Path) -> dict[str, str]:
    """Make the user's home with keys, a place outside, and the environment of whoever runs the script."""
    for name in KEYS:
        path = folder / "user" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("canary")
    outside = folder / "outside"
    (outside / "folder").mkdir(parents=True)
    for name in OUTSIDE:
        (outside / name).parent.mkdir(parents=True, exist_ok=True)
        (outside / name).write_text("kept" if name == "kept" else "canary")
    places = {
        "HF_TOKEN_PATH": "hub-token", "HF_HOME": "hub", "XDG_DATA_HOME": "share", "XDG_CONFIG_HOME": "config",
        "SOME_PROGRAM_S_STATE": "anything.json",
    }  # fmt: skip
    named = {variable: str(outside / name) for variable, name in places.items()}
    (folder / "user" / ".config" / "gh").mkdir(parents=True)
    (folder / "user" / ".config" / "gh" / "hosts.yml").symlink_to(outside / "dotfiles" / "hosts.yml")
    named |= {"GIT_SSH_COMMAND": f"ssh -i {outside}/deploy/key -o A=b", "OTHER_KUBECONFIG": "../near/kube"}
    several = {"KUBECONFIG": f"{outside}/kube-1:{outside}/kube-2", "TUNEYARD_STORE": (outside / "my store").as_uri()}
    kept = {"PATH": os.environ["PATH"], "HOME": str(folder / "user"), "AWS_SECRET_ACCESS_KEY": "canary"}
    return {**named, **several, **kept}


RUN = """
import json, os, sys
from pathlib import Path
from tuneyard.delivery.script import run_script
print(run_script(sys.argv[1], Path(sys.argv[2]), with_hub_token=False))
"""


@pytest.mark.parametrize("escape", ESCAPES.values(), ids=list(ESCAPES))
def test_a_script_neither_leaves_its_folder_nor_reads_a_key(tmp_path: Path, escape: str) -> None:
    environment = make_home(tmp_path)
    tried = "\n".join(f"    {line}" for line in escape.splitlines())
    script = f"""
import json, os, subprocess
outside, user_home = {str(tmp_path / "outside")!r}, {environment["HOME"]!r}
kept, current = outside + "/kept", outside + "/current"
try:
{tried}
    outcome = "escaped"
except (OSError, subprocess.CalledProcessError) as error:
    outcome = type(error).__name__
open("/downloads/datasets/result.jsonl", "w").write(json.dumps({{"outcome": outcome, "env": dict(os.environ)}}))
"""
    source = str(Path(__file__).parents[3] / "src")
    done = subprocess.run(
        [sys.executable, "-c", RUN, script, str(tmp_path / "work")],
        env={**environment, "PYTHONPATH": source},
        cwd=tmp_path / "outside" / "current",
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads((Path(done.stdout.strip()) / "result.jsonl").read_text())
    assert result["outcome"] != "escaped"
    assert "canary" not in json.dumps(result["env"])
    there = {path.relative_to(tmp_path / "outside").as_posix() for path in (tmp_path / "outside").rglob("*")}
    assert {name for name in there if not (tmp_path / "outside" / name).is_dir()} == set(OUTSIDE)
    assert {name for name in there if "new" in name} == set()
    assert (tmp_path / "outside" / "kept").read_text() == "kept"
    assert not Path("/tmp/tuneyard-escaped").exists()
    assert not (tmp_path / "user" / ".bashrc").exists()


def test_a_confined_script_can_do_its_work(tmp_path: Path) -> None:
    script = """
import hashlib, json, multiprocessing, os, pathlib, shutil, socket, sqlite3, ssl, subprocess, tempfile, threading
ssl.create_default_context()
with tempfile.TemporaryDirectory() as folder:
    sqlite3.connect(f"{folder}/x.db").execute("create table a (b)").close()
multiprocessing.Lock()
assert subprocess.run(["ls", "/"], capture_output=True, check=True).stdout
subprocess.run("echo x > /dev/null", shell=True, check=True)
pathlib.Path.home().joinpath(".cache", "deep").mkdir(parents=True, exist_ok=True)
pathlib.Path("a/b").mkdir(parents=True)
pathlib.Path("a/b/c").write_text("{}")
os.rename("a/b/c", "/downloads/datasets/a.jsonl")
shutil.copy("/downloads/datasets/a.jsonl", "/downloads/datasets/b.jsonl")
server = socket.create_server(("127.0.0.1", 0))
client = socket.create_connection(server.getsockname())
"""
    output = run_script(script, tmp_path, with_hub_token=False, environ={"PATH": os.environ["PATH"]})
    assert sorted(path.name for path in output.iterdir()) == ["a.jsonl", "b.jsonl"]


@pytest.mark.parametrize("newest", [None, 0], ids=["this kernel's", "without Landlock"])
def test_a_script_reads_public_files_of_the_user(tmp_path: Path, newest: int | None) -> None:
    locks = find_locks(newest_landlock=newest)
    if locks == Locks():
        pytest.skip("there is no other lock here")
    user = tmp_path / "user"
    user.mkdir()
    (user / "rows.jsonl").write_text("{}")
    (user / ".secret").write_text("canary")
    environ = {"PATH": os.environ["PATH"], "HOME": str(user), "TMPDIR": str(tmp_path)}
    script = f"import shutil; shutil.copy({str(user / 'rows.jsonl')!r}, '/downloads/datasets/rows.jsonl')"
    output = run_script(script, tmp_path / "work", with_hub_token=False, environ=environ, locks=locks)
    assert (output / "rows.jsonl").read_text() == "{}"


def test_a_script_reads_the_hubs_token_where_values_configure_it(tmp_path: Path) -> None:
    (tmp_path / "t").write_text("given")
    environ = {"PATH": os.environ["PATH"], "HOME": str(tmp_path / "user"), "HF_TOKEN_PATH": str(tmp_path / "t")}
    script = (
        "import os\ntry: token = open(os.environ['HF_TOKEN_PATH']).read()\nexcept KeyError: token = 'not given'\n"
        "open('/downloads/datasets/a.jsonl', 'w').write(token)"
    )
    for given, token in ((True, "given"), (False, "not given")):
        output = run_script(script, tmp_path / "work", with_hub_token=given, environ=environ)
        assert (output / "a.jsonl").read_text() == token
