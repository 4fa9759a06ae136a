"""Hints name commands, options and keys that exist.

Every text of the source is checked, not only what is passed as `hint=`: many hints are constants, or built by
functions. Placeholders of f-strings are filled from the constants and variables that they name, else with `NAME`.
"""

from __future__ import annotations

import ast
import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from typer import BadParameter
from typer.main import get_command

import tuneyard
from lab.value_keys import has_key, keys_of
from tuneyard.cli.main import app
from tuneyard.values import DeliverValues, FinetuneValues, InferenceValues, NamespaceValues
from tuneyard.values.base import Values

SOURCE = Path(tuneyard.__file__).parent
COMMANDS: Any = get_command(app)
UsageError: type[Any] = BadParameter.__mro__[1]
"""What the parser raises for wrong arguments."""

MODELS: dict[str, type[Values]] = {
    "deliver": DeliverValues,
    "finetune": FinetuneValues,
    "plan": FinetuneValues,
    "serve": InferenceValues,
}
SETUP_CHART = "k8s-namespace-setup"
"""The chart that helm installs, and no command of ours."""

NAME, TARGET = "NAME", " --on kubernetes --namespace NAME"
PROGRAMS = "kubectl|helm|pip|python|aws|eval|ls|cp|df|ulimit|tensorboard|timedatectl"
OTHER_PROGRAMS = rf"\b({PROGRAMS}) .*?(?=, or |; |$)|^NAME -c .*"
"""Command lines of other programs; the last one is that of a Python interpreter."""
LONG_OPTION, SHORT_OPTION = r"(?<!\S)--[a-z][\w-]*", r"(?<!\S)-[a-zA-Z](?!\S)"
SET_KEY = re.compile(r"--set(?:-file)? ([A-Za-z_][\w.\[\]\\-]*)=")
FILE_NAME = re.compile(r"\S+\.(safetensors|json|yaml)\S*")
CAMEL_CASE = re.compile(r"(?<![\w./:{$\[\\-])[a-z]+[A-Z]\w*(?!\.?\w|[(/])")
NO_KEYS = {"vLLM", "aLoRA", "secretKeyRef"}
"""Words in camel case that are no keys of values."""
SNAKE_CASE = re.compile(r"(?<![\w./:{$\[\\=-])[a-z]+(?:_[a-z0-9]+)+(?!\.?\w|[(/=])")
OTHER_NAMES = {"api_key_secret", "api_key_file", "eos_token", "is_decoder"}
"""Names in hints that are fields of a run's record, or of a model's own configuration."""
DOTTED_KEY = re.compile(r"(?<![\w./:])[a-z]\w*(?:\.[a-zA-Z]\w*)+(?![\w(/])")


@dataclass(frozen=True)
class Module:
    """The texts of one module.

    Attributes:
        path: Its file.
        nodes: Its syntax tree.
        strings: The expressions assigned to each name, in any of its scopes and in modules that it imports from.
    """

    path: Path
    nodes: tuple[ast.AST, ...]
    strings: dict[str, list[ast.expr]] = field(default_factory=dict[str, list[ast.expr]])

    def texts(self) -> Iterator[tuple[str, str]]:
        """Yield every text with its place; arguments of commands that stand alone (`--json`) are none."""
        for node in _strings_outside_docstrings(self.nodes):
            for text in self.filled(node):
                if " " in text and "\n" not in text[:1]:
                    yield f"{self.path.relative_to(SOURCE)}:{node.lineno}", text

    def filled(self, node: ast.expr | None, depth: int = 0) -> list[str]:
        """Return the texts that an expression can have; none where it is not known."""
        match node:
            case ast.Constant(value=str(text)):
                return [text]
            case ast.IfExp():
                return [*self.filled(node.body, depth), *self.filled(node.orelse, depth)]
            case ast.BoolOp():
                return [text for value in node.values for text in self.filled(value, depth)]
            case ast.Name() if depth < 3:
                return [text for value in self.strings.get(node.id, ()) for text in self.filled(value, depth + 1)]
            case ast.Subscript(value=ast.Name() as name) if depth < 3:
                dicts = [value for value in self.strings.get(name.id, ()) if isinstance(value, ast.Dict)]
                return [text for value in dicts for one in value.values for text in self.filled(one, depth + 1)]
            case ast.JoinedStr():
                return self._joined(node, depth)
            case _:
                return []

    def _joined(self, node: ast.JoinedStr, depth: int) -> list[str]:
        texts = [""]
        for before, part in itertools.pairwise([None, *node.values]):
            if isinstance(part, ast.FormattedValue):
                choices = self.filled(part.value, depth) or _unknown(before)
            else:
                choices = self.filled(part, depth)
            texts = [text + choice for text in texts for choice in choices[:4]][:16]
        return texts


def _unknown(before: ast.expr | None) -> list[str]:
    """Fill a placeholder: one that follows a word without a space is a target's options, or nothing."""
    if isinstance(before, ast.Constant) and str(before.value).endswith("tuneyard values schema "):
        return ["namespace", "deliver", "finetune", "serve"]
    after_word = isinstance(before, ast.FormattedValue) or (
        isinstance(before, ast.Constant) and isinstance(before.value, str) and before.value[-1:].isalnum()
    )
    return ["", TARGET] if after_word else [NAME]


def _strings_outside_docstrings(nodes: Sequence[ast.AST]) -> Iterator[ast.expr]:
    passed: set[int] = set()
    for node in nodes:
        inner: Sequence[ast.AST] = ()
        match node:
            case ast.Expr(value=ast.Constant()):
                inner = [node.value]
            case ast.Call(func=ast.Attribute(value=ast.JoinedStr() | ast.Constant() as encoded, attr="encode")):
                inner = [encoded, *ast.walk(encoded)]  # bytes for programs
            case ast.JoinedStr():
                inner = [one for one in ast.walk(node) if one is not node]
        passed |= {id(one) for one in inner}
    for node in nodes:
        text = isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str))
        if text and id(node) not in passed:
            yield node  # pyright: ignore[reportReturnType]


@cache
def _nodes(path: Path) -> tuple[ast.AST, ...]:
    return tuple(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))


@cache
def _assigned(path: Path) -> tuple[tuple[str, ast.expr], ...]:
    """The expressions that a module assigns to names."""
    return tuple(
        (target.id, node.value)
        for node in _nodes(path)
        if isinstance(node, ast.Assign | ast.AnnAssign) and node.value
        for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
        if isinstance(target, ast.Name)
    )


def _module(path: Path) -> Module:
    module = Module(path, _nodes(path))
    for node in module.nodes:
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("tuneyard."):
            other = SOURCE.joinpath(*str(node.module).split(".")[1:]).with_suffix(".py")
            known = dict(_assigned(other)) if other.is_file() else {}
            for name in node.names:
                if name.name in known:
                    module.strings.setdefault(name.asname or name.name, []).append(known[name.name])
    for name, value in _assigned(path):
        module.strings.setdefault(name, []).append(value)
    return module


@cache
def _source() -> tuple[Module, ...]:
    return tuple(_module(path) for path in sorted(SOURCE.rglob("*.py")))


def _advice(node: ast.AST) -> list[ast.expr]:
    match node:
        case ast.keyword(arg="hint" | "advice", value=value):
            return [value]
        case ast.Call(func=ast.Name(id="Verdict" | "problem" | "warning")):
            return node.args[2:3]
        case _:
            return []


@cache
def _hints() -> tuple[str, ...]:
    """The texts that are passed as hint or advice, each with those of its parts."""
    passed = [(module, value) for module in _source() for node in module.nodes for value in _advice(node)]
    parts = [(module, part) for module, value in passed for part in ast.walk(value) if isinstance(part, ast.expr)]
    return tuple(dict.fromkeys(text for module, part in parts for text in module.filled(part)))


@cache
def _texts() -> tuple[tuple[str, str], ...]:
    return tuple(dict.fromkeys(text for module in _source() for text in module.texts()))


def _calls(text: str) -> Iterator[tuple[Any, list[str]]]:
    """Yield each command of `tuneyard` that a text names, with its arguments.

    Raises:
        UsageError: A command does not exist.
    """
    for found in re.finditer(r"\btuneyard (?=[a-z])", text):
        words = re.findall(r'"[^"]*"|\S+', re.split(r"[;`\n]|   |, or ", text[found.end() :])[0])
        command, arguments = COMMANDS, list[str]()
        expects_value = False
        for word in words:
            bare = word.rstrip(".,:)")
            if not arguments and bare in getattr(command, "commands", {}):
                command = command.commands[bare]
            elif command is COMMANDS:
                raise UsageError(f"No such command '{bare}'.")
            elif expects_value or bare.startswith("-") or _is_concrete(bare):
                arguments.append(bare.strip('"'))
                expects_value = not expects_value and _takes_value(command, bare)
            else:
                break  # prose
            if bare != word:
                break
        yield command, arguments


def _is_concrete(word: str) -> bool:
    return word[:1] == '"' or word.isupper() or bool(re.search(r"[/=…<]|NAME", word))


def _takes_value(command: Any, word: str) -> bool:
    return any(word in parameter.opts and not getattr(parameter, "is_flag", False) for parameter in command.params)


def _options(command: Any) -> Iterator[str]:
    for parameter in command.params:
        yield from (*parameter.opts, *parameter.secondary_opts)
    for inner in getattr(command, "commands", {}).values():
        yield from _options(inner)


@cache
def _known_options() -> frozenset[str]:
    """The options of every command, and of the programs that the charts start."""
    own = {
        str(argument.value)
        for module in _source()
        for node in module.nodes
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "add_argument"
        for argument in node.args
        if isinstance(argument, ast.Constant)
    }
    return frozenset({*_options(COMMANDS), "--help", *own})


def _wrong_command(text: str) -> str:
    try:
        for command, arguments in _calls(text):
            if arguments:  # a command that is only named needs none
                command.make_context(command.name, list(arguments))
    except UsageError as error:
        return error.format_message()
    return ""


def _wrong_options(text: str) -> list[str]:
    own = re.sub(OTHER_PROGRAMS, "", text)
    allowed = _known_options() | ({"--set-file"} if SETUP_CHART in text else set[str]())
    return [option for option in re.findall(f"{LONG_OPTION}|{SHORT_OPTION}", own) if option.rstrip(".") not in allowed]


def _wrong_keys(text: str) -> list[str]:
    models = [NamespaceValues] if SETUP_CHART in text else _models_of(text)
    keys = [key for key in SET_KEY.findall(text) if not key.startswith(NAME)]
    prose = SET_KEY.sub("", FILE_NAME.sub("", text))
    keys += [key for key in DOTTED_KEY.findall(prose) if key.partition(".")[0] in _top_fields()]
    keys += [word for word in CAMEL_CASE.findall(prose) if word not in NO_KEYS]
    return [key for key in keys if not any(_has_key(model, key) for model in models)]


def _models_of(text: str) -> list[type[Values]]:
    named = re.findall(r"\btuneyard ([a-z]+)[^;]*? --set ", text)
    return [MODELS[verb] for verb in named if verb in MODELS] or list(MODELS.values())


def _has_key(model: type[Values], key: str) -> bool:
    known = key.partition(f".{NAME}")[0].replace("\\", "")
    return has_key(model, known) or has_key(model, f"finetuning_config.{known}")


@cache
def _top_fields() -> frozenset[str]:
    config: Any = FinetuneValues.model_fields["finetuning_config"].annotation
    return frozenset({*config.model_fields, *(name for model in MODELS.values() for name in model.model_fields)})


def _key_names() -> set[str]:
    """Every name of a key, whatever it lies in."""
    paths = [path for model in (*MODELS.values(), NamespaceValues) for path, _ in keys_of(model)]
    return {name for path in paths for name in re.split(r"[.\[\]<>]+", path)}


def _wrong(check: Any) -> dict[str, Any]:
    return {f"{where}: {text}": wrong for where, text in _texts() if (wrong := check(text))}


def test_commands_of_hints_exist_and_take_their_options():
    assert sum(bool(list(_calls(text))) for _, text in _texts() if not _wrong_command(text)) > 60
    assert _wrong(_wrong_command) == {}


def test_options_of_hints_exist():
    assert sum("--" in text for _, text in _texts()) > 80
    assert _wrong(_wrong_options) == {}


def test_keys_of_hints_are_keys_of_the_values():
    assert sum(len(SET_KEY.findall(text)) for _, text in _texts()) > 40
    assert _wrong(_wrong_keys) == {}
    assert len(_hints()) > 300
    known = {*_key_names(), *OTHER_NAMES}
    assert {hint: word for hint in _hints() for word in SNAKE_CASE.findall(hint) if word not in known} == {}
    dotted = ((hint, key) for hint in _hints() for key in DOTTED_KEY.findall(FILE_NAME.sub("", hint)))
    assert {hint: key for hint, key in dotted if "_" in (top := key.partition(".")[0]) and top not in known} == {}


def test_commands_for_pods_take_a_target():
    """What `whereabouts.command` gets has to take the `--on kubernetes` that it adds in a pod."""
    commands = [
        text
        for module in _source()
        for node in module.nodes
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "command"
        for text in module.filled(node.args[0] if node.args else None)
        if text.startswith("tuneyard ")
    ]
    assert len(commands) > 4
    assert {text: wrong for text in commands if (wrong := _wrong_command(f"{text} --on kubernetes"))} == {}


@pytest.mark.parametrize(
    ("hint", "wrong"),
    [
        ("See its log: tuneyard log NAME", "No such command 'log'."),
        ("See its log: tuneyard logs NAME --target kubernetes", "No such option: --target"),
        ("Stop it: tuneyard stop NAME OTHER", "Got unexpected extra argument(s) (OTHER)"),
        ("Serve it: tuneyard serve --port many", "Input should be a valid integer"),
    ],
)
def test_a_wrong_command_is_found(hint: str, wrong: str):
    assert wrong in _wrong_command(hint)


def test_a_wrong_option_or_key_is_found():
    assert _wrong_options("Or --target kubernetes starts all nodes.") == ["--target"]
    assert _wrong_options("kubectl get pods --namespace x -o yaml, or name another: --spacename NAME") == [
        "--spacename"
    ]
    assert _wrong_keys("Raise it: --set finetuning_config.sft_args.max_length=1") == [
        "finetuning_config.sft_args.max_length"
    ]
    assert _wrong_keys("tuneyard serve --set finetuningGpus=2") == ["finetuningGpus"]
    assert _wrong_keys("Give it more: resources.limit.memory.") == ["resources.limit.memory"]
    assert _wrong_keys("Take fewer accelerators: finetuningGpu.") == ["finetuningGpu"]
