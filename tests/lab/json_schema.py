"""The part of JSON Schema (draft 7) that the charts' schemas use, checked the way Helm's library checks it."""

from __future__ import annotations

import re
from typing import Any

KEYWORDS = {
    "$schema", "$defs", "$ref", "additionalProperties", "anyOf", "const", "description", "enum", "exclusiveMaximum",
    "allOf", "exclusiveMinimum", "if", "items", "maximum", "minimum", "minItems", "oneOf", "pattern", "properties",
    "propertyNames", "required", "then", "type",
}  # fmt: skip
TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "boolean": (bool,),
    "number": (int, float),
    "null": (type(None),),
}


def mistakes(value: Any, schema: Any, root: dict[str, Any], path: str = "") -> list[str]:
    """List where a value does not match a schema."""
    if isinstance(schema, bool):
        return [] if schema else [path]
    assert not schema.keys() - KEYWORDS, f"this checker doesn't know {schema.keys() - KEYWORDS}"
    if "$ref" in schema:
        # as in draft 7, the siblings of a reference are ignored
        return mistakes(value, root["$defs"][schema["$ref"].removeprefix("#/$defs/")], root, path)
    found = [] if _fits(value, schema) else [path]
    for branches in (schema.get("anyOf"), schema.get("oneOf")):
        if branches and all(mistakes(value, branch, root, path) for branch in branches):
            found += [path]
    for part in schema.get("allOf", ()):
        found += mistakes(value, part, root, path)
    if "if" in schema and not mistakes(value, schema["if"], root, path):
        found += mistakes(value, schema.get("then", True), root, path)
    if isinstance(value, dict):
        found += _object_mistakes(value, schema, root, path)
    if isinstance(value, list) and "items" in schema:
        for place, item in enumerate(value):
            found += mistakes(item, schema["items"], root, f"{path}[{place}]")
    return found


def _fits(value: Any, schema: dict[str, Any]) -> bool:
    kinds = schema.get("type", [])
    if kinds and not any(_is(value, kind) for kind in ([kinds] if isinstance(kinds, str) else kinds)):
        return False
    if "enum" in schema and not any(value == word and type(value) is type(word) for word in schema["enum"]):
        return False
    if "const" in schema and value != schema["const"]:
        return False
    if isinstance(value, str) and "pattern" in schema and not re.search(schema["pattern"], value):
        return False
    if isinstance(value, int | float) and not isinstance(value, bool):
        low, high = schema.get("minimum", value), schema.get("maximum", value)
        over, under = schema.get("exclusiveMinimum", value - 1), schema.get("exclusiveMaximum", value + 1)
        return low <= value <= high and over < value < under
    return not (isinstance(value, list) and len(value) < schema.get("minItems", 0))


def _is(value: Any, kind: str) -> bool:
    if kind == "integer":
        return isinstance(value, int | float) and not isinstance(value, bool) and value == int(value)
    return isinstance(value, TYPES[kind]) and (kind == "boolean" or not isinstance(value, bool))


def _object_mistakes(value: dict[str, Any], schema: dict[str, Any], root: dict[str, Any], path: str) -> list[str]:
    properties = schema.get("properties", {})
    found = [f"{path}.{name}" for name in schema.get("required", ()) if name not in value]
    for name, item in value.items():
        if "propertyNames" in schema:
            found += mistakes(name, schema["propertyNames"], root, f"{path}.{name}")
        inner = properties.get(name, schema.get("additionalProperties", True))
        found += mistakes(item, inner, root, f"{path}.{name}")
    return found
