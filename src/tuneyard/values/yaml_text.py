"""YAML as Helm's charts read and write it.

`yes`, `no`, `on` and `off` are truth values, `5e-5` is a number, a date stays text, and a key that is there twice is
refused. Not the meaning of what is read (`load`).
"""

from __future__ import annotations

import re
from typing import Any

import yaml

_TRUTH = re.compile(r"^(?:yes|Yes|YES|no|No|NO|true|True|TRUE|false|False|FALSE|on|On|ON|off|Off|OFF)$")
_WHOLE = re.compile(r"^(?:[-+]?(?:0|[1-9][0-9]*))$")
_DECIMAL = re.compile(r"^[-+]?(?:\.[0-9]+|[0-9]+\.[0-9]*|[0-9]+(?=[eE]))(?:[eE][-+]?[0-9]+)?$")
_NULL = re.compile(r"^(?:~|null|Null|NULL|)$")
_RESOLVERS = (
    ("tag:yaml.org,2002:bool", _TRUTH, "yYnNtTfFoO"),
    ("tag:yaml.org,2002:int", _WHOLE, "-+0123456789"),
    ("tag:yaml.org,2002:float", _DECIMAL, "-+0123456789."),
    ("tag:yaml.org,2002:null", _NULL, ["~", "n", "N", ""]),
    ("tag:yaml.org,2002:merge", re.compile(r"^(?:<<)$"), "<"),
)


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader with Helm's idea of plain words."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012  (PyYAML's own way of sharing it)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str | int | float | bool):
                raise yaml.constructor.ConstructorError(None, None, "a key is not a string", key_node.start_mark)
            if key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"the key '{key}' is repeated", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep=deep)


class _Dumper(yaml.SafeDumper):
    """PyYAML's safe dumper, quoting what `_Loader` would not read as text."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = "|" if "\n" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _text)
for _tag, _pattern, _first in _RESOLVERS:
    _Loader.add_implicit_resolver(_tag, _pattern, list(_first))
    _Dumper.add_implicit_resolver(_tag, _pattern, list(_first))


def parse_yaml(text: str) -> Any:
    """Read one YAML document, JSON included.

    Args:
        text: The document.

    Returns:
        Maps, lists and scalars; None for an empty document.

    Raises:
        yaml.YAMLError: Where it isn't YAML, or a key is there twice.
    """
    return yaml.load(text, Loader=_Loader)  # noqa: S506  (_Loader is a SafeLoader)


def write_yaml(data: Any) -> str:
    """Write plain data as YAML that `parse_yaml` reads back to the same.

    Args:
        data: Maps, lists and scalars.

    Returns:
        The document; keys keep their order, texts of several lines are blocks.
    """
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)
