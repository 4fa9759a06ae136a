"""Imports point downward only, the light rooms stay light, and few packages load torch."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

import tuneyard

SOURCE = Path(tuneyard.__file__).parent

ROOMS = Path(__file__).parents[2] / "docs" / "design" / "rooms.md"


def _layers() -> list[set[str]]:
    block = ROOMS.read_text(encoding="utf-8").partition("```layers\n")[2].partition("```")[0]
    return [set(line.split()) for line in block.splitlines()]


LAYERS = _layers()
LAYER = {room: place for place, rooms in enumerate(LAYERS) for room in rooms}
MAY_LOAD_TORCH = {"network", "train", "serving", "device"}


def _modules() -> Iterator[tuple[str, Path]]:
    for path in sorted(SOURCE.rglob("*.py")):
        parts = path.relative_to(SOURCE).with_suffix("").parts
        yield ".".join(("tuneyard", *parts)).removesuffix(".__init__"), path


def _room(module: str) -> str:
    return module.split(".")[1] if "." in module else "__init__"


def _imports(path: Path) -> Iterator[tuple[str, int]]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((name.name, node.lineno) for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: imports are absolute"
            assert node.module
            yield node.module, node.lineno
            if node.module == "tuneyard":
                yield from ((f"tuneyard.{name.name}", node.lineno) for name in node.names)


def test_every_module_belongs_to_a_layer():
    rooms = {_room(module) for module, _ in _modules()} - {"__init__"}
    assert rooms <= set(LAYER), f"not in LAYERS: {sorted(rooms - set(LAYER))}"
    assert len(list(_modules())) > 60


def test_imports_point_downward_only():
    wrong = []
    for module, path in _modules():
        room = _room(module)
        if room == "__init__":
            continue  # the face takes everything on first use; that it loads nothing is tested below
        for target, line in _imports(path):
            if not target.startswith("tuneyard."):
                continue
            other = _room(target)
            if other in (room, "__version__"):
                continue
            if LAYER.get(other, 99) >= LAYER[room]:
                wrong.append(f"{path.relative_to(SOURCE)}:{line}: {room} imports {target}")
    assert not wrong, "\n".join(wrong)


def test_rooms_import_one_another_by_their_faces_only():
    wrong = []
    for module, path in _modules():
        room = _room(module)
        if room == "__init__":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [name.name for name in node.names] if isinstance(node, ast.Import | ast.ImportFrom) else []
            targets = [node.module or ""] if isinstance(node, ast.ImportFrom) else names
            for target in targets:
                other = _room(target) if target.startswith("tuneyard") else room
                if other == "__init__":
                    wrong.append(f"{path.relative_to(SOURCE)}:{node.lineno}: imports the package's face")
                elif other != room and target.count(".") > 1:
                    wrong.append(f"{path.relative_to(SOURCE)}:{node.lineno}: imports the private {target}")
                elif other != room and (SOURCE / other).is_dir():
                    private = set(names) - set(import_module(target).__all__)
                    wrong += [f"{path.relative_to(SOURCE)}:{node.lineno}: {target} has no public {n}" for n in private]
    assert not wrong, "\n".join(wrong)


def _loaded_by(modules: list[str], wanted: str) -> str:
    script = f"""
import sys
from importlib import import_module
for name in {modules!r}:
    import_module(name)
print(*sorted({{name.partition('.')[0] for name in sys.modules}} & set({wanted!r}.split())))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_importing_any_other_package_loads_no_torch():
    modules = [name for name, _ in _modules() if _room(name) not in MAY_LOAD_TORCH and not name.endswith("__main__")]
    assert len(modules) > 50
    assert _loaded_by(modules, "torch transformers trl peft accelerate datasets tensorboard matplotlib") == ""


@pytest.mark.parametrize("module", ["tuneyard", "tuneyard.runners", "tuneyard.client", "tuneyard.cli.main"])
def test_the_light_rooms_load_nothing_heavy(module):
    assert _loaded_by([module], "torch pydantic obstore openai huggingface_hub psutil rich yaml numpy") == ""


def test_the_rooms_face_loads_no_room_of_its_own():
    script = "import sys, tuneyard; print(*[name for name in sys.modules if name.startswith('tuneyard.')])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
