"""Write `src/tuneyard/verbs.py`: each method of `Client` as a function of the module, with the same documentation.

python scripts/verbs.py            write it
python scripts/verbs.py --check    exit 1 if it is not up to date
"""

from __future__ import annotations

import argparse
import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

SOURCE = Path(__file__).parents[1] / "src" / "tuneyard"
CLIENT, VERBS = SOURCE / "client.py", SOURCE / "verbs.py"
HEAD = '''"""The verbs as functions: methods of a `Client` with the defaults, or with the given `on` and `store`.

Generated from `client` by `scripts/verbs.py`.
"""

from __future__ import annotations
'''
OWN = ("on: Target | None = None", "store: File | None = None")
OWN_DOC = ("on: The target, as for `Client`.", "store: The store, as for `Client`.")
SECTIONS = ("Returns:", "Yields:", "Raises:")


def main() -> int:
    """Write the module, or check it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if it is not up to date")
    check = parser.parse_args().check
    text = generate(ast.parse(CLIENT.read_text(encoding="utf-8")))
    if not check:
        VERBS.write_text(text, encoding="utf-8")
    elif text != VERBS.read_text(encoding="utf-8"):
        print(f"{VERBS.relative_to(SOURCE.parents[1])} is not up to date: python scripts/verbs.py", file=sys.stderr)
        return 1
    return 0


def generate(client: ast.Module) -> str:
    """Return the module's text.

    Args:
        client: The parsed module of the client.
    """
    [definition] = [node for node in client.body if isinstance(node, ast.ClassDef) and node.name == "Client"]
    methods = [node for node in definition.body if isinstance(node, ast.FunctionDef) and not node.name.startswith("_")]
    functions = "\n\n".join(map(_function, methods))
    text = "\n".join([HEAD, *_imports(client, functions), "", functions, ""])
    ruff = [sys.executable, "-m", "ruff"]
    for command in (["check", "--fix", "--quiet", "--select", "I,F401", "-"], ["format", "-"]):
        named = [*ruff, command[0], "--stdin-filename", str(VERBS), *command[1:]]
        text = subprocess.run(named, input=text, capture_output=True, text=True, check=True).stdout
    return text


def _function(method: ast.FunctionDef) -> str:
    """Write a function that calls a method of the default client; an overload calls nothing."""
    arguments = method.args
    arguments.args = arguments.args[1:]
    given = [argument.arg for argument in arguments.args]
    given += [f"*{arguments.vararg.arg}"] if arguments.vararg else []
    given += [f"{argument.arg}={argument.arg}" for argument in arguments.kwonlyargs]
    own = ast.parse(f"def f(*, {', '.join(OWN)}): ...").body[0]
    assert isinstance(own, ast.FunctionDef)
    arguments.kwonlyargs += own.args.kwonlyargs
    arguments.kw_defaults += own.args.kw_defaults
    assert method.returns is not None
    head = f"def {method.name}({ast.unparse(arguments)}) -> {ast.unparse(method.returns)}:"
    if method.decorator_list:
        return f"@overload\n{head} ..."
    body = f"return Client(on, store=store).{method.name}({', '.join(given)})"
    return f'{head}\n    """{_documentation(method)}"""\n    {body}'


def _documentation(method: ast.FunctionDef) -> str:
    lines = (ast.get_docstring(method) or "").splitlines()
    own = [f"    {line}" for line in OWN_DOC]
    sections = [place for place, line in enumerate(lines) if line in SECTIONS]
    end = sections[0] if sections else len(lines) + 1
    if "Args:" in lines:
        lines[end - 1 : end - 1] = own
    else:
        lines[end - 1 : end - 1] = ["", "Args:", *own]
    return "\n".join(f"    {line}" if line and place else line for place, line in enumerate(lines)) + "\n    "


def _imports(client: ast.Module, functions: str) -> Iterator[str]:
    """Import what the functions name; for annotations only where they need nothing at run time."""
    defaults = {
        node.id
        for function in ast.walk(ast.parse(functions))
        if isinstance(function, ast.FunctionDef)
        for default in (*function.args.defaults, *function.args.kw_defaults)
        if default is not None
        for node in ast.walk(default)
        if isinstance(node, ast.Name)
    }
    for_types: list[str] = []
    for node in ast.walk(client):
        if not isinstance(node, ast.ImportFrom) or node.col_offset > 4 or node.module == "__future__":
            continue
        for name in node.names:
            line = f"from {node.module} import {name.name}"
            if name.name in defaults or name.name == "overload":
                yield line
            else:
                for_types.append(line)
    yield "from typing import TYPE_CHECKING"
    yield "from tuneyard.client import Client"
    yield "if TYPE_CHECKING:"
    yield from (f"    {line}" for line in for_types if not line.endswith("import TYPE_CHECKING"))
    yield "    from tuneyard.client import AnyValues, File"


if __name__ == "__main__":
    sys.exit(main())
