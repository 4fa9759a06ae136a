"""Every Python process of ours starts without the current folder on its path: in code, charts and images."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from lab.deliveries import safetensors
from tuneyard.interpreter import IN_PODS, pod_python, python

ROOT = Path(__file__).parents[2]
ISOLATED = {"-I", "-P"}
PYTHON = re.compile(r"(?:.*/)?python[0-9.]*")


def source_files() -> list[Path]:
    return sorted((ROOT / "src").rglob("*.py")) + sorted((ROOT / "examples").rglob("*.py"))


def starts_in_code(text: str) -> Iterator[tuple[int, list[str]]]:
    """Return every list or tuple that begins with an interpreter, as far as its words are plain ones."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.List | ast.Tuple) and node.elts and is_interpreter(node.elts[0]):
            words = [one.value for one in node.elts if isinstance(one, ast.Constant) and isinstance(one.value, str)]
            yield node.lineno, words


def is_interpreter(node: ast.expr) -> bool:
    if isinstance(node, ast.Constant):
        return isinstance(node.value, str) and PYTHON.fullmatch(node.value) is not None
    return ast.unparse(node) == "sys.executable"


def starts_in_text(text: str) -> Iterator[tuple[int, list[str]]]:
    """Return every command in a template or Dockerfile that begins with an interpreter."""
    for match in re.finditer(r"""(?<![\w.-])"?(?:/[\w/]+/)?python[0-9.]*"?((?:[,\s]+"?[^\s,"\]\[{}()]+"?)*)""", text):
        words = re.findall(r'[^\s,"]+', match[1])
        if words and words[0].startswith("-"):
            yield text[: match.start()].count("\n") + 1, words


def is_isolated(words: list[str]) -> bool:
    before = words[: min((words.index(flag) for flag in ("-m", "-c") if flag in words), default=len(words))]
    return bool(ISOLATED & set(before))


def test_the_search_finds_starts_that_are_not_isolated():
    code = """
a = [sys.executable, "-m", "x"]
b = ["python3", "-c", "x"]
c = [sys.executable, "-I", "x"]
d = ["python", "is"]
"""
    assert [is_isolated(words) for _, words in starts_in_code(code)] == [False, False, True, False]
    text = """
command: [python, -m, x]
(list "python" "-m" "x")
CMD ["python", "-P", "-m", "x"]
RUN ["/bin/python3", "-m", "pip"]
"""
    assert [is_isolated(words) for _, words in starts_in_text(text)] == [False, False, True, False]


def test_no_process_is_started_with_the_current_folder_on_its_path():
    found = [
        (f"{path.relative_to(ROOT)}:{line}", words)
        for path in source_files()
        for line, words in starts_in_code(path.read_text(encoding="utf-8"))
    ]
    assert [where for where, words in found if words and not is_isolated(words)] == []
    # All others go through `interpreter.python`, which a check of `sys.executable` sees.
    users = [
        str(path.relative_to(ROOT / "src" / "tuneyard"))
        for path in sorted((ROOT / "src").rglob("*.py"))
        if re.search(r"\bsys\.executable\b(?!\.|\)\.with_name)", path.read_text(encoding="utf-8"))
    ]
    assert users == ["delivery/script.py", "diagnosis/local.py", "interpreter.py", "sandbox/places.py", "terminal.py"]


def test_no_container_s_process_is_started_so():
    templates = sorted((ROOT / "workloads").rglob("templates/*"))
    images = sorted((ROOT / "images").glob("*.Dockerfile"))
    assert len(templates) > 20
    assert len(images) == 3
    found = {
        f"{path.relative_to(ROOT)}:{line}": words
        for path in (*templates, *images)
        for line, words in starts_in_text(path.read_text(encoding="utf-8"))
    }
    assert len(found) >= 15
    assert [where for where, words in found.items() if not is_isolated(words)] == []
    in_pods = {where: words for where, words in found.items() if "templates" in where}
    assert len(in_pods) >= 5
    assert [where for where, words in in_pods.items() if tuple(words[:2]) != IN_PODS[1:]] == []


def test_commands_in_pods_that_the_code_writes_are_isolated():
    assert pod_python("tuneyard.x", "a") == ["python", "-s", "-P", "-m", "tuneyard.x", "a"]
    for file in ("diagnosis/pod_probe.py", "runners/kubernetes/removal.py", "runners/kubernetes/forecast.py"):
        assert "pod_python(" in (ROOT / "src" / "tuneyard" / file).read_text(encoding="utf-8")


@pytest.mark.parametrize("flags", [[], ["-s"], ["-I"]])
def test_a_process_leaves_out_what_its_parent_leaves_out(tmp_path: Path, flags: list[str]):
    (tmp_path / "json.py").write_text("raise SystemExit('planted')")
    code = (
        "import subprocess, sys\nfrom tuneyard.interpreter import python\n"
        "flags = 'import json, sys; f = sys.flags; print(json.dumps([f.safe_path, f.no_user_site, f.isolated]))'\n"
        "sys.exit(subprocess.run(python('-c', flags)).returncode)"
    )
    command = [sys.executable, *flags, "-P", "-c", code]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [True, int(bool(flags)), int("-I" in flags)]


def test_this_process_s_command_is_isolated():
    assert is_isolated(python("-m", "x")[1:])


PLANTED = ("json", "random", "hashlib", "typing", "argparse", "yaml", "pydantic", "numpy", "tuneyard", "sitecustomize")


@pytest.mark.parametrize("verb", ["deliver", "finetune", "serve"])
def test_a_local_launch_imports_nothing_of_the_folder_it_was_started_in(tmp_path: Path, verb: str):
    """A file named like a module of Python, of a library or of ours, in whatever folder the user is."""
    here = tmp_path / "here"
    here.mkdir()
    for name in PLANTED:
        (here / f"{name}.py").write_text(
            f"open({str(tmp_path / 'planted')!r}, 'a').write('{name} ')\nraise SystemExit(66)"
        )
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    (model / "model.safetensors").write_bytes(safetensors("a.weight", b"body"))
    script = 'open("/downloads/datasets/a.jsonl", "w").write("{}")'
    values = {
        "deliver": {
            "modelID": str(model),
            "bucketModelPath": "bucket/m",
            "dataScript": script,
            "bucketDataDir": "bucket/d",
        },
        "finetune": yaml.safe_load((ROOT / "examples/tuneyard-facts/finetune.yaml").read_text()),
        "serve": {"model": str(model), "gpuResource": ""},
    }[verb]
    (here / "values.yaml").write_text(json.dumps(values))
    environ = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "TUNEYARD_HOME": str(tmp_path / "state")}
    if verb == "finetune":  # planned here, so that the process itself looks for what is not delivered
        store = tmp_path / "state" / "store"
        for key in (
            f"{values['basemodel']}/.tuneyard/manifest.json",
            "default-bucket/datasets/.tuneyard/tuneyard-facts.jsonl.manifest.json",
        ):
            (store / key).parent.mkdir(parents=True, exist_ok=True)
            (store / key).write_text("{}")
    command = [str(Path(sys.executable).with_name("tuneyard")), verb, "-f", "values.yaml", "--name", "x"]
    done = subprocess.run(command, cwd=here, env=environ, capture_output=True, text=True, timeout=180)
    assert not (tmp_path / "planted").exists(), (tmp_path / "planted").read_text()
    expected = {"deliver": 0, "finetune": 7, "serve": 4}[verb]
    assert done.returncode == expected, done.stdout + done.stderr


def test_imports_are_not_collected_and_what_they_create_is_exempt():
    script = (
        "import gc\n"
        "from tuneyard.interpreter import faster_imports\n"
        "try:\n"
        "    with faster_imports():\n"
        "        assert not gc.isenabled()\n"
        "        raise ImportError\n"
        "except ImportError:\n"
        "    first = gc.get_freeze_count()\n"
        "assert gc.isenabled() and first > 1000\n"
        "kept = [[] for _ in range(5000)]\n"
        "with faster_imports():\n"
        "    assert gc.isenabled()\n"
        "assert gc.get_freeze_count() <= first, 'what a process creates later is collected as always'\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)
