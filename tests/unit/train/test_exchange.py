"""Processes exchange JSON unchanged, and no pickle that names anything to call, over real gloo groups."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

PROGRAM = """
import json, os, sys
import torch.distributed as dist
from tuneyard.train import exchange
dist.init_process_group("gloo")
rank = dist.get_rank()
exec(sys.argv[1])
dist.destroy_process_group()
"""


def run(code: str, folder: Path, *, processes: int = 2) -> list[tuple[int, str, str]]:
    """Run code in processes of one group; return each one's exit code and output."""
    shared = {**os.environ, "WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1", "OMP_NUM_THREADS": "1"}
    shared |= {"TORCHELASTIC_USE_AGENT_STORE": "True", "GLOO_SOCKET_IFNAME": "lo"}
    from torch.distributed import TCPStore

    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    shared["MASTER_PORT"] = str(store.port)
    started = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, code],
            env={**shared, "RANK": str(rank)},
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(processes)
    ]
    outputs = [process.communicate(timeout=120) for process in started]
    return [(process.returncode, *words) for process, words in zip(started, outputs, strict=True)]


def test_a_document_arrives_as_it_was_at_every_process(tmp_path: Path) -> None:
    given = {"folder": "ü" * 9, "step": 7, "floats": [0.1, -1e-300, 1 / 3], "none": None, "deep": [{"a": [True]}]}
    code = (
        f"given = {given!r}\n"
        "got = [exchange.broadcast(given if rank == 0 else None)]\n"
        "got += [exchange.broadcast([rank] if rank == 2 else 0, source=2)]\n"
        "print(json.dumps([got, exchange.gather({'of': rank, 'rows': [[rank, 0.1]] * rank * 100})]))"
    )
    done = run(code, tmp_path, processes=3)
    assert [code for code, _, _ in done] == [0, 0, 0], done
    rows = [{"of": rank, "rows": [[rank, 0.1]] * rank * 100} for rank in range(3)]
    assert [json.loads(out) for _, out, _ in done] == [[[given, [2]], rows]] * 3


EVIL = "class Evil:\n    def __reduce__(self): return (open, ('canary', 'w'))\n"
COLLECTIVES = {
    "broadcast": "box = [Evil() if rank else None]; dist.broadcast_object_list(box, src=1)",
    "all gather": "dist.all_gather_object([None, None], Evil() if rank else 1)",
    "gather": "dist.gather_object(Evil() if rank else 1, [None, None] if rank == 0 else None)",
    "scatter": "dist.scatter_object_list([None], [Evil(), 1] if rank else None, src=1)",
}


def test_objects_of_another_process_run_no_code_in_torchs_collectives(tmp_path: Path) -> None:
    each = "".join(
        f"try:\n    {code}\n    outputs[{name!r}] = 'taken'\nexcept Exception as e:\n    outputs[{name!r}] = str(e)\n"
        for name, code in COLLECTIVES.items()
    )
    begin = f"{EVIL}outputs = {{}}\nif rank == 0: exchange.refuse_code()\nelse: os.chdir('other')\n"
    code = f"{begin}{each}print(json.dumps(outputs))"
    (tmp_path / "other").mkdir()
    (first, *_) = run(f"{code}\nsys.stdout.flush(); os._exit(0)", tmp_path)
    outputs = json.loads(first[1])
    assert set(outputs) == set(COLLECTIVES)
    assert all("which is not plain data" in words for words in outputs.values()), outputs
    assert not (tmp_path / "canary").exists()


def test_plain_data_passes_through_torchs_collectives(tmp_path: Path) -> None:
    code = (
        "exchange.refuse_code()\n"
        "boxes = [None, None]\n"
        "dist.all_gather_object(boxes, {'rank': rank, 'found': [(1, (0.5, -0.25))], 'ok': True})\n"
        "print(json.dumps(boxes))"
    )
    done = run(code, tmp_path)
    expected = [{"rank": rank, "found": [[1, [0.5, -0.25]]], "ok": True} for rank in range(2)]
    assert [json.loads(out) for _, out, _ in done] == [expected] * 2, done


def test_an_impossible_announced_size_is_refused(tmp_path: Path) -> None:
    code = (
        "import torch\n"
        "if rank: dist.broadcast(torch.tensor([1 << 40]), src=1); os._exit(0)\n"
        "try: exchange.broadcast(None, source=1)\n"
        "except ValueError as error: print(error)\n"
        "os._exit(0)"
    )
    assert "announced 1099511627776 bytes" in run(code, tmp_path)[0][1]


def test_bytes_of_each_process_arrive_as_they_were(tmp_path: Path) -> None:
    code = (
        "gathered = [exchange.gather_bytes(bytes(range(256)) * rank), exchange.gather_bytes(b'')]\n"
        "print(json.dumps([[body.hex() for body in bodies] for bodies in gathered]))"
    )
    expected = [["", bytes(range(256)).hex()], ["", ""]]
    assert [json.loads(out) for _, out, _ in run(code, tmp_path)] == [expected] * 2


SOURCE = Path(__file__).parents[3] / "src"
UNPICKLES = {"pickle", "cPickle", "_pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib", "jsonpickle"}
"""Modules that run code, or build any object, from the bytes that they read."""


def pickling_collectives() -> set[str]:
    """Return every function of torch and accelerate that exchanges objects, which both pickle."""
    import accelerate.utils
    import torch.distributed

    found = {name for module in (torch.distributed, accelerate.utils) for name in dir(module) if "object" in name}
    assert found >= {"all_gather_object", "broadcast_object_list", "gather_object", "scatter_object_list"}
    return found


def pickles_in(text: str, collectives: set[str]) -> Iterator[tuple[int, str]]:
    """Yield each line that names such a function or module, or that lets a loader unpickle."""
    for node in ast.walk(ast.parse(text)):
        match node:
            case ast.Import():
                named = {alias.name.split(".")[0] for alias in node.names} & UNPICKLES
            case ast.ImportFrom():
                named = {alias.name for alias in node.names} & collectives | {str(node.module)} & UNPICKLES
            case ast.Attribute():
                named = {node.attr} & collectives
            case ast.Call() if re.fullmatch(r"(torch|np|numpy)\.load", loader := ast.unparse(node.func)):
                given = {word.arg: ast.unparse(word.value) for word in node.keywords}
                safe = given.get("weights_only") == "True" if loader == "torch.load" else "allow_pickle" not in given
                named = set[str]() if safe else {loader}
            case _:
                continue
        yield from ((node.lineno, name) for name in sorted(named))


def test_the_search_finds_every_way_to_unpickle() -> None:
    text = """
import torch, pickle
from torch.distributed import all_gather_object
from dill import loads
dist.broadcast_object_list([1], src=0)
torch.load("a")
torch.load("a", weights_only=False)
torch.load("a", weights_only=True)
np.load("a", allow_pickle=True)
np.load("a")
"""
    assert sorted(line for line, _ in pickles_in(text, pickling_collectives())) == [2, 3, 4, 5, 6, 7, 9]


def test_no_module_exchanges_or_reads_pickles() -> None:
    collectives = pickling_collectives()
    files = sorted(SOURCE.rglob("*.py"))
    assert len(files) > 200
    found = [
        (path.relative_to(SOURCE / "tuneyard").as_posix(), name)
        for path in files
        for _, name in pickles_in(path.read_text(encoding="utf-8"), collectives)
    ]
    assert found == [("train/exchange.py", "pickle")]  # it subclasses the unpickler to refuse
