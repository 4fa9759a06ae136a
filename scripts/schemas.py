"""Write what is generated from the models of values: the charts' schemas and defaults, and the reference.

    python scripts/schemas.py            write workloads/**/{values.schema.json,values.yaml,templates/_*.tpl} and docs
    python scripts/schemas.py --check    fail where one of them is out of date

The schemas are closed at every level and take what the models take: numbers and truth values as text, null for the
default, YAML's `no` for the word, and the old spellings.
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
from tuneyard.values.public import SHOWN_ENV

ROOT = Path(__file__).resolve().parents[1]
CHARTS: dict[str, type[Values]] = {
    "k8s-namespace-setup/helm": NamespaceValues,
    "deliver-huggingface-example-resources/helm/chart": DeliverValues,
    "LLM-finetune-silogen-engine/helm/chart": FinetuneValues,
    "llm-inference-vllm/helm": InferenceValues,
}
WHOLE = r"^\s*[+-]?\d+(\.0*)?\s*$"
DECIMAL = r"^\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*$"
TRUTH = "^([Tt]rue|TRUE|[Ff]alse|FALSE|[Yy]es|[Nn]o|[Oo]n|[Oo]ff|[TtFfYyNn01])$"
AS_TEXT = {"integer": WHOLE, "number": DECIMAL, "boolean": TRUTH}
RANGES = {"ge": "minimum", "gt": "exclusiveMinimum", "le": "maximum", "lt": "exclusiveMaximum"}


def schema(model: type[Values]) -> dict[str, Any]:
    """Build the schema of a chart's values."""
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
    """Find every model in a tree that knows earlier spellings."""
    if getattr(model, "spellings", None):
        yield model.__name__, model
    for field in model.model_fields.values():
        for inner in reference.models_in(field.annotation):
            yield from respelt(inner)


def relax(node: Any) -> Any:
    """Let a schema take what Helm and YAML make of values."""
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
    """A map whose keys have a form refuses other keys, instead of ignoring them."""
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
    """Let a key that isn't required be null: it means the default.

    Written without `anyOf` where that can be, since Helm's message then names the key at fault and nothing else.
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
    # a reference's definition takes null by itself; without a type, everything is taken
    return node


def defaults(model: type[Values]) -> str:
    """Write a chart's defaults as a template: Helm drops a key that is null, and null means the default."""
    fields = model.model_fields.items()
    values = {name: field.get_default(call_default_factory=True) for name, field in fields if not field.is_required()}
    text = to_json(values).decode()
    head = f"{{{{- /* Generated by scripts/schemas.py from {model.__name__}. */ -}}}}"
    shown = to_json(sorted(SHOWN_ENV)).decode()
    defines = {"tuneyard.defaults": text, "tuneyard.shownEnv": shown}
    written = [f'{{{{- define "{name}" -}}}}\n{body}\n{{{{- end -}}}}' for name, body in defines.items()]
    return "\n".join([head, *written, ""])


def files() -> Mapping[Path, str]:
    """Build every generated file."""
    built: dict[Path, str] = {}
    shared = (ROOT / "workloads" / "_tuneyard.tpl").read_text(encoding="utf-8")
    for chart, model in CHARTS.items():
        folder = ROOT / "workloads" / chart
        built[folder / "values.schema.json"] = json.dumps(schema(model), indent=2, ensure_ascii=False) + "\n"
        built[folder / "values.yaml"] = reference.default_values(model)
        built[folder / "templates" / "_tuneyard.tpl"] = shared
        built[folder / "templates" / "_defaults.tpl"] = defaults(model)
    charts = {f"workloads/{chart}": model for chart, model in CHARTS.items()}
    built[ROOT / "docs" / "reference" / "values.md"] = reference.markdown(charts)
    return built


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; fail where a file is out of date")
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
