"""Generate the charts' schemas, values.yaml and template helpers, and the reference page, from the models of values.

    python scripts/schemas.py            write workloads/**/{values.schema.json,values.yaml,templates/_*.tpl} and docs
    python scripts/schemas.py --check    fail if one of them is out of date

The schemas are closed at every level and accept what the models accept: numbers and booleans as text, null for the
default, YAML's `no` for the word, and earlier spellings.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import reference
from pydantic import BaseModel
from pydantic_core import to_json

from tuneyard.values import DeliverValues, FinetuneValues, InferenceValues, NamespaceValues, Values
from tuneyard.values.adapters import KWARGS
from tuneyard.values.legacy import Refused
from tuneyard.values.public import ENV_KEYS, SHOWN_ENV

ROOT = Path(__file__).resolve().parents[1]
CHARTS: dict[str, type[Values]] = {
    "k8s-namespace-setup/helm": NamespaceValues,
    "deliver-huggingface-example-resources/helm/chart": DeliverValues,
    "LLM-finetune-silogen-engine/helm/chart": FinetuneValues,
    "llm-inference-vllm/helm": InferenceValues,
}
READ_BY_THE_PROCESS = frozenset({"finetuning_config"})
"""Keys that no template reads: only the values file carries them."""

WHOLE = r"^\s*[+-]?\d+(\.0*)?\s*$"
DECIMAL = r"^\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*$"
TRUTH = "^([Tt]rue|TRUE|[Ff]alse|FALSE|[Yy]es|[Nn]o|[Oo]n|[Oo]ff|[TtFfYyNn01])$"
AS_TEXT = {"integer": WHOLE, "number": DECIMAL, "boolean": TRUTH}
RANGES = {"ge": "minimum", "gt": "exclusiveMinimum", "le": "maximum", "lt": "exclusiveMaximum"}


def schema(model: type[Values]) -> dict[str, Any]:
    """Return the schema of a chart's values."""
    plain = model.model_json_schema()
    definitions: dict[str, Any] = plain.setdefault("$defs", {})
    if "PeftConf" in definitions:
        definitions |= {kind.__name__: kind.model_json_schema() for kind in KWARGS.values()}
        definitions["PeftConf"]["allOf"] = [
            {
                "if": {"properties": {"peft_type": {"const": name}}, "required": ["peft_type"]},
                "then": {"properties": {"peft_kwargs": {"$ref": f"#/$defs/{kind.__name__}"}}},
            }
            for name, kind in KWARGS.items()
        ]
    for name, spelt in respelt(model):
        target = plain if spelt is model else definitions[name]
        for old, meaning in spelt.spellings.items():
            if not isinstance(meaning, Refused):
                target["properties"].setdefault(old, {"description": "An earlier spelling."})
    relaxed = relax(plain)
    return {"$schema": "http://json-schema.org/draft-07/schema#", **relaxed}


def respelt(model: type[BaseModel]) -> Iterator[tuple[str, Any]]:
    """Find every model in a tree that has earlier spellings."""
    if getattr(model, "spellings", None):
        yield model.__name__, model
    for field in model.model_fields.values():
        for inner in reference.models_in(field.annotation):
            yield from respelt(inner)


def relax(node: Any) -> Any:
    """Make a schema accept values as Helm and YAML convert them."""
    if isinstance(node, list):
        return [relax(item) for item in node]
    if not isinstance(node, dict):
        return node
    out = {RANGES.get(key, key): value for key, value in node.items() if key not in {"title", "default"}}
    for key in ("$defs", "properties"):
        if key in out:
            out[key] = {name: relax(value) for name, value in out[key].items()}
    out["$defs"] = {name: _nullable(value) for name, value in out.get("$defs", {}).items()}
    if not out["$defs"]:
        del out["$defs"]
    for key in ("anyOf", "oneOf", "items", "additionalProperties", "if", "then"):
        if key in out:
            out[key] = relax(out[key])
    _keys_by_pattern(out)
    _texts_of_scalars(out)
    _words(out)
    if "properties" in out:
        required = set(out.get("required", ()))
        out["properties"] = {
            name: value if name in required else _nullable(value) for name, value in out["properties"].items()
        }
    return out


def _keys_by_pattern(node: dict[str, Any]) -> None:
    """Make a map whose keys have a pattern refuse other keys, instead of ignoring them."""
    patterns = node.pop("patternProperties", None)
    if patterns:
        ((pattern, value),) = patterns.items()
        node["propertyNames"] = {"pattern": pattern}
        node["additionalProperties"] = relax(value)


def _texts_of_scalars(node: dict[str, Any]) -> None:
    kind = node.get("type")
    if kind in AS_TEXT:
        node["type"] = [kind, "string"]
        node["pattern"] = AS_TEXT[kind]
    elif kind == "string" and "enum" not in node and "const" not in node:
        node["type"] = ["string", "integer"]


def _words(node: dict[str, Any]) -> None:
    words = node.get("enum")
    if not words:
        return
    node.pop("type", None)
    if "no" in words:
        node["enum"] = [*words, False]
    elif True in words:
        node["enum"] = [*words, "true", "false"]


def _nullable(node: dict[str, Any]) -> dict[str, Any]:
    """Make a key that isn't required accept null, which means the default.

    Avoids `anyOf` where possible, since Helm's message then names the invalid key and nothing else.
    """
    if "anyOf" in node:
        others = [one for one in node["anyOf"] if one != {"type": "null"}]
        if len(others) > 1:
            return {**node, "anyOf": [*others, {"type": "null"}]}
        node = {**{key: value for key, value in node.items() if key != "anyOf"}, **others[0]}
    if "enum" in node:
        return {**node, "enum": [*node["enum"], None]}
    if "type" in node:
        kinds = node["type"] if isinstance(node["type"], list) else [node["type"]]
        return {**node, "type": [*kinds, "null"]}
    # a reference's definition accepts null itself; without a type, everything is accepted
    return node


def defaults(model: type[Values]) -> str:
    """Return a template with what `tuneyard.resolved` needs: defaults, and the minimums of whole numbers.

    It repeats the defaults of values.yaml, since Helm removes keys that are null, and null means the default.
    """
    fields = {name: field for name, field in model.model_fields.items() if name not in READ_BY_THE_PROCESS}
    properties = schema(model)["properties"]
    tables: dict[str, Any] = {
        "tuneyard.defaults": {
            name: field.get_default(call_default_factory=True)
            for name, field in fields.items()
            if not field.is_required()
        },
        "tuneyard.minimums": {
            name: properties[name]["minimum"] for name in fields if properties[name].get("pattern") == WHOLE
        },
    }
    if not fields.keys().isdisjoint(ENV_KEYS):
        tables["tuneyard.shownEnv"] = sorted(SHOWN_ENV)
    head = f"{{{{- /* Generated by scripts/schemas.py from {model.__name__}. */ -}}}}"
    defines = [
        f'{{{{- define "{name}" -}}}}\n{to_json(table).decode()}\n{{{{- end -}}}}' for name, table in tables.items()
    ]
    return "\n".join([head, *defines, ""])


def files() -> Mapping[Path, str]:
    """Return the text of every generated file by its path."""
    built: dict[Path, str] = {}
    shared = (ROOT / "workloads" / "_tuneyard.tpl").read_text(encoding="utf-8")
    head = "{{- /* Generated by scripts/schemas.py from workloads/_tuneyard.tpl. */ -}}\n"
    for chart, model in CHARTS.items():
        folder = ROOT / "workloads" / chart
        built[folder / "values.schema.json"] = json.dumps(schema(model), indent=2, ensure_ascii=False) + "\n"
        built[folder / "values.yaml"] = reference.default_values(model)
        built[folder / "templates" / "_tuneyard.tpl"] = head + shared
        built[folder / "templates" / "_defaults.tpl"] = defaults(model)
    charts = {f"workloads/{chart}": model for chart, model in CHARTS.items()}
    built[ROOT / "docs" / "reference" / "values.md"] = reference.markdown(charts)
    return built


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; fail if a file is out of date")
    check = parser.parse_args().check
    stale: list[str] = []
    for path, text in files().items():
        if path.exists() and path.read_text(encoding="utf-8") == text:
            continue
        stale.append(str(path.relative_to(ROOT)))
        if not check:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
    if stale:
        print(f"{'out of date' if check else 'written'}: {', '.join(stale)}")
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
