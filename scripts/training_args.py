"""Write the torch-free mirrors of other libraries' settings: transformers' and TRL's arguments, PEFT's adapters.

    python scripts/training_args.py            write src/tuneyard/values/{training_args,dpo_fields,peft_fields}.py
    python scripts/training_args.py --check    fail where they differ from the installed libraries

Names, types, defaults and closed sets of words are taken; nobody's sentences are.
"""

from __future__ import annotations

import argparse
import dataclasses
import enum
import sys
import types
import typing
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, Union

ROOM = Path(__file__).resolve().parents[1] / "src" / "tuneyard" / "values"
WIDTH = 116

# Types for annotations of the libraries that are too wide or too narrow for values.
PINNED = {
    "parallelism_config": "Plain | None",
    "optim_target_modules": "OneOrMoreStrings | None",
    "report_to": "OneOrMoreStrings | None",
    "include_num_input_tokens_seen": 'Word[Literal["no", "all", "non_padding"]]',
    "trackio_static_space_id": "Plain | None",
    "warmup_steps": "Number",
    "logging_steps": "Number",
    "eval_steps": "Number | None",
    "eval_delay": "Number",
    "save_steps": "Number",
    "fsdp": "Plain | None",
    "deepspeed": "Plain | None",
    "debug": "OneOrMoreStrings",
    "lora_alpha": "Number",
    "target_modules": "OneOrMoreStrings | None",
    "exclude_modules": "OneOrMoreStrings | None",
    "layers_to_transform": "Plain | None",
    "layers_pattern": "OneOrMoreStrings | None",
    "trainable_token_indices": "Plain | None",
    "layer_replication": "Plain | None",
    "init_lora_weights": "Plain",
    "loss_type": "OneOrMoreStrings",
    "pad_to_multiple_of": "Plain | None",
    "model_init_kwargs": "Plain | None",
    "feedforward_modules": "OneOrMoreStrings | None",
    "prompt_tuning_init": 'Literal["TEXT", "SAMPLE_VOCAB", "RANDOM"]',
    "num_virtual_tokens": "Int | None",
}
# Fields that PEFT sets when it writes an adapter, or that aren't plain values.
NOT_KWARGS = {"task_type", "peft_type", "peft_version", "base_model_name_or_path", "inference_mode", "runtime_config"}
# Fields that PEFT takes from the model, or that Tuneyard sets.
OF_THE_MODEL = {
    "token_dim",
    "num_transformer_submodules",
    "num_attention_heads",
    "num_layers",
    "tokenizer_name_or_path",
    "modules_to_save",
}

SCALARS = {bool: "bool", int: "Int", float: "Float", str: "Text"}


def annotation(name: str, hint: Any, choices: Iterable[Any] | None) -> str:
    """Return the type of one field of values."""
    if name in PINNED:
        return PINNED[name]
    if choices:
        text = _literal(list(choices))
        return f"{text} | None" if type(None) in typing.get_args(hint) else text
    if hint in SCALARS:
        return SCALARS[hint]
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return _literal([member.value for member in hint])
    origin = typing.get_origin(hint)
    if origin is Literal:
        return _literal(list(typing.get_args(hint)))
    if origin in {Union, types.UnionType}:
        return _union(name, typing.get_args(hint))
    if origin is list:
        return "Strings" if typing.get_args(hint) == (str,) else "Plain"
    return "Plain"


def _union(name: str, members: tuple[Any, ...]) -> str:
    suffix = " | None" if type(None) in members else ""
    rest = [member for member in members if member is not type(None)]
    closed = [member for member in rest if isinstance(member, type) and issubclass(member, enum.Enum)]
    if closed:
        return annotation(name, closed[0], None) + suffix
    if any(member is dict or typing.get_origin(member) is dict for member in rest):
        return f"Map{suffix}"
    return (annotation(name, rest[0], None) if len(rest) == 1 else "Plain") + suffix


def _literal(words: list[str]) -> str:
    text = "Literal[" + ", ".join(f'"{word}"' for word in words) + "]"
    return f"Word[{text}]" if "no" in words else text


def line(field: dataclasses.Field[Any], hint: Any) -> str:
    """Return one field as one or several lines of a model."""
    kind = annotation(field.name, hint, field.metadata.get("choices"))
    if field.default_factory is not dataclasses.MISSING:
        value = field.default_factory()
        default = (
            f"Field(default_factory=lambda: {value!r})" if value else f"Field(default_factory={type(value).__name__})"
        )
        if dataclasses.is_dataclass(value):
            default = "None"
            kind = "Plain | None"
    else:
        default = _default(field.default, kind)
    text = f"    {field.name}: {kind} = {default}"
    return text if len(text) <= WIDTH else text.replace("Literal[", "Literal[\n        ").replace("]", "\n    ]", 1)


def _default(value: Any, kind: str) -> str:
    if isinstance(value, enum.Enum):
        value = value.value
    if kind.startswith(("Float", "Number")) and isinstance(value, int):
        value = float(value) if kind.startswith("Float") else value
    return repr(value).replace("'", '"')


def model(name: str, about: str, kind: type, skip: set[str]) -> str:
    """Return a library's dataclass as a closed model."""
    hints = typing.get_type_hints(kind)
    fields = [f for f in dataclasses.fields(kind) if f.init and f.name not in skip]
    body = "\n".join(line(f, hints[f.name]) for f in fields)
    return f'class {name}(Values):\n    """{about}"""\n\n{body}\n'


def header(about: str, body: str) -> str:
    """Return a module of a body, with a docstring and the imports that it needs."""
    names = ("Float", "Int", "Map", "Number", "OneOrMoreStrings", "Plain", "Strings", "Text", "Word")
    used = [name for name in names if _uses(body, name)]
    lines = [f'"""{about}\n\nGenerated by `scripts/training_args.py`: change that, not this.\n"""\n']
    lines.append("from __future__ import annotations\n")
    typings = [name for name in ("Literal",) if _uses(body, name)]
    if typings:
        lines.append(f"from typing import {', '.join(typings)}\n")
    if _uses(body, "Field"):
        lines.append("from pydantic import Field\n")
    if "(Values)" in body:
        lines.append("from tuneyard.values.base import Values")
        lines.append(f"from tuneyard.values.scalars import {', '.join(used)}\n")
    return "\n".join(lines) + ("\n\n" if body.startswith("class") else "\n") + body


def _uses(body: str, name: str) -> bool:
    import re

    return re.search(rf"\b{name}\b", body) is not None


def texts() -> dict[str, str]:
    """Build every generated module from the installed libraries."""
    import peft
    import transformers
    import trl

    arguments = {field.name for field in dataclasses.fields(transformers.TrainingArguments)}
    minor = ".".join(transformers.__version__.split(".")[:2])
    training = model(
        "TrainingFields",
        f"Every argument of transformers {minor}'s TrainingArguments, with its default.",
        transformers.TrainingArguments,
        set(),
    )
    dpo = model("DpoFields", "What TRL's DPOConfig adds to TrainingArguments.", trl.DPOConfig, arguments)
    lora = model("LoraFields", "The keyword arguments of PEFT's LoraConfig.", peft.LoraConfig, NOT_KWARGS)
    vera = model("VeraFields", "The keyword arguments of PEFT's VeraConfig.", peft.VeraConfig, NOT_KWARGS)
    ia3 = model("Ia3Fields", "The keyword arguments of PEFT's IA3Config.", peft.IA3Config, NOT_KWARGS)
    about = "The keyword arguments of PEFT's PromptTuningConfig that don't follow from the model."
    prompts = model("PromptTuningFields", about, peft.PromptTuningConfig, NOT_KWARGS | OF_THE_MODEL)
    kinds = ", ".join(f'"{kind}"' for kind in ["NO_PEFT", *sorted(kind.value for kind in peft.PeftType)])
    tasks = ", ".join(f'"{kind.value}"' for kind in sorted(peft.TaskType))
    adapters = f"PeftName = Literal[{kinds}]\nTaskName = Literal[{tasks}]\n\n\n" + "\n\n".join(
        [lora, vera, ia3, prompts]
    )
    return {
        "training_args.py": header("transformers' TrainingArguments as a closed model, without torch.", training),
        "dpo_fields.py": header("TRL's DPO settings as a closed model, without torch.", dpo),
        "peft_fields.py": header(
            "PEFT's settings of adapters and its names of methods and tasks, without torch.", adapters
        ),
    }


def formatted(text: str) -> str:
    """Format a module as the repository does."""
    import subprocess

    ruff = Path(sys.executable).with_name("ruff")
    command = [str(ruff), "format", "--stdin-filename", str(ROOM / "generated.py"), "-"]
    return subprocess.run(command, input=text, capture_output=True, text=True, check=True).stdout


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; fail if a file is out of date")
    check = parser.parse_args().check
    stale: list[str] = []
    for name, text in texts().items():
        path = ROOM / name
        wanted = formatted(text)
        if path.exists() and path.read_text() == wanted:
            continue
        stale.append(name)
        if not check:
            path.write_text(wanted)
    if stale:
        print(f"{'out of date' if check else 'written'}: {', '.join(stale)}")
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
