"""Any text in a string field is rendered exactly or refused, and changes nothing else.

Every string field of the schemas is filled with a placeholder, then with a hostile text. The rendered objects must
differ in that text only.
"""

from __future__ import annotations

import copy
import json
import random
import re
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from lab.charts import CHARTS, NAMESPACE, SERVE, TRAIN, Chart, RefusedError, each_chart, opened, render, values_text

FRAGMENTS = (
    "{{ .Values }}", "{{- fail \"x\" -}}", "\n---\n", "---", "\n", "\n\n", ": ", " #", "\"", "'", "\\", "\\n",
    "$(HOME)", "$$", "$", "${A}", "`id`", ";id", "<<", "*a", "&a", "!!str ", "%", "@", "no", "null", "~", "true",
    "1e3", "0x1F", "0o7", "1_000", "2024-01-01", "\x85", "\u2028", "\u2029", "\ufeff", "\ufffe", "\uffff", "\x7f",
    "\x80", "\x9f", "\x00", "\x01", "\x1b", "😀", "👩\u200d🚀", "é", "e\u0301", "\t", "\r\n", " ", "  ", "- a", "? ",
    "|", ">-", "[", "{", "]", "}", ",", "<b>&", "\u202e", "\u200b", "\xa0", "kind: Secret", "s", "A", "0", ".", "/",
)  # fmt: skip
AS_NUMBER = (r"^\s*[+-]?\d", r"^\s*[+-]?(\d", "^([Tt]rue")
# Fields with a pattern: a placeholder and a hostile text that match it. Other texts are refused, which is tested too.
FORMS = {
    "https?|file": ("https://h:1/{}", "https://h:1/{}"),
    "(s3://)?": ("b/w{}", "b/{}"),
    "kKMGTPEi": ("{}Gi", None),
    "amd": ("a.b/w{}", None),
}
Path_ = tuple[str | int, ...]


def resolved(schema: dict[str, Any], root: dict[str, Any]) -> dict[str, Any]:
    while "$ref" in schema:
        schema = root["$defs"][schema["$ref"].removeprefix("#/$defs/")]
    return schema


def kinds(schema: dict[str, Any]) -> set[str]:
    found = schema.get("type", [])
    return {found} if isinstance(found, str) else set(found)


class Filled:
    """Values with a unique placeholder in every string field of a schema."""

    def __init__(self, chart: Chart) -> None:
        self.fields: dict[str, str] = {}
        self.forms: dict[str, str] = {}
        self.root = json.loads((chart.folder / "values.schema.json").read_text())
        self.values = self.fill(self.root, ())
        if chart is not NAMESPACE:
            self.values["networkPolicy"]["enabled"] = True
        if chart is SERVE:
            self.values["httpRoute"]["enabled"] = True
        if chart is NAMESPACE:
            for part in self.values.values():
                part["setup"] = True

    def word(self, path: Path_, pattern: str | None) -> str | None:
        name = ".".join(map(str, path))
        word = f"w{len(self.fields):04d}"
        form = pattern or ""
        if form.startswith(AS_NUMBER):
            return None
        for start, (shape, _) in FORMS.items():
            if (
                start in form
                or (start == "kKMGTPEi" and "Ki|Mi" in form)
                or (start == "amd" and form.startswith("^(?:|[a-z0-9]([-a-z0-9.]*"))
            ):
                self.forms[name] = start
                word = shape.format(len(self.fields) + 1000)
                break
        else:
            if pattern and not re.fullmatch(pattern, word):
                return None
            if pattern:
                self.forms[name] = "pattern"
        self.fields[name] = word
        return word

    def fill(self, given: dict[str, Any], path: Path_) -> Any:
        schema = resolved(given, self.root)
        for one in schema.get("anyOf", ()):
            filled = self.fill(one, path)
            if filled is not None:
                return filled
        if "enum" in schema or "const" in schema:
            return None
        if "object" in kinds(schema):
            return self.fill_map(schema, path)
        if "array" in kinds(schema):
            items = [self.fill(schema.get("items", {}), (*path, index)) for index in range(2)]
            return [item for item in items if item is not None] or None
        if "string" in kinds(schema):
            return self.word(path, schema.get("pattern"))
        return None

    def fill_map(self, schema: dict[str, Any], path: Path_) -> dict[str, Any]:
        filled = {name: self.fill(inner, (*path, name)) for name, inner in schema.get("properties", {}).items()}
        others = schema.get("additionalProperties", False)
        if others is not False and "$ref" not in schema:
            names = schema.get("propertyNames", {}).get("pattern", "")
            key = "HTTP_PROXY" if "HTTP_PROXY" in names else f"k{len(self.fields)}"
            inner = {"type": "string"} if others is True else others
            filled[key] = self.fill(inner, (*path, key))
        return {name: value for name, value in filled.items() if value is not None}


def put(values: Any, path: str, value: Any) -> None:
    *before, last = path.split(".")
    for step in before:
        values = values[int(step) if isinstance(values, list) else step]
    values[int(last) if isinstance(values, list) else last] = value


def strings(node: Any, inside_env: bool = False) -> Iterator[tuple[str, bool]]:
    if isinstance(node, str):
        yield node, inside_env
    elif isinstance(node, dict):
        for key, value in node.items():
            yield key, False
            yield from strings(value, inside_env or key == "env")
    elif isinstance(node, list):
        for value in node:
            yield from strings(value, inside_env)


def comparable(objects: list[dict[str, Any]]) -> Any:
    """Parse the values and remove their hashes, so that objects can be compared by content."""
    text = values_text(opened(objects)) if any("values.json" in found.get("data", {}) for found in objects) else None
    if text is None:
        return objects
    plain = opened(objects)
    for found in plain:
        if "values.json" in found.get("data", {}):
            name = found["metadata"]["name"]
            found["data"]["values.json"] = json.loads(text)
    whole = json.dumps(plain).replace(name, re.sub("[0-9a-f]{10}$", "hash", name))
    return json.loads(re.sub(r'"checksum/values": "[0-9a-f]{64}"', '"checksum/values": "hash"', whole))


def exchanged(node: Any, words: dict[str, str], pattern: re.Pattern[str], in_env: bool = False) -> Any:
    """Replace placeholders with hostile texts."""
    if isinstance(node, str):
        # Kubernetes reads $$ in a variable as $
        return pattern.sub(lambda match: words[match[0]].replace("$", "$$") if in_env else words[match[0]], node)
    if isinstance(node, list):
        return [exchanged(item, words, pattern, in_env) for item in node]
    if isinstance(node, dict):
        is_variable = set(node) == {"name", "value"}
        return {key: exchanged(value, words, pattern, is_variable and key == "value") for key, value in node.items()}
    return node


def hostile(rng: random.Random) -> str:
    return "".join(rng.choices(FRAGMENTS, k=rng.randint(1, 6)))


def in_form(form: str, rng: random.Random) -> str | None:
    """Return a hostile text that matches the field's pattern, or None for quantities, which templates add."""
    if form == "pattern":
        return "w" + "".join(rng.choices("abz019", k=rng.randint(1, 9)))
    shape = FORMS[form][1]
    if shape is None:
        return None
    text = re.sub(r"\s|/|[\x00-\x1f]", "", hostile(rng))
    return shape.format(text or "x")


class Trial:
    """One chart whose fields are filled with hostile texts, all at once."""

    def __init__(self, chart: Chart, folder: Path | None = None) -> None:
        self.chart, self.folder = chart, folder
        self.filled = Filled(chart)
        self.plain = comparable(render(chart, self.filled.values, folder=folder))
        self.exact: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()

    def round(self, rng: random.Random, tries_refusal: bool) -> None:
        """Fill every field; with `tries_refusal`, half of the fields with a pattern get a text that may not match."""
        texts = {}
        for path in self.filled.fields:
            form = self.filled.forms.get(path)
            is_free = form is None or (tries_refusal and rng.random() < 0.5)
            texts[path] = hostile(rng) if is_free else in_form(form, rng) or self.filled.fields[path]
        while True:
            values = copy.deepcopy(self.filled.values)
            for path, text in texts.items():
                put(values, path, text)
            try:
                objects = comparable(render(self.chart, values, folder=self.folder))
                break
            except RefusedError as error:
                # Helm names the refused fields; the others must be rendered
                named = {
                    place.strip("/").replace("/", ".").replace("~1", "/")
                    for place in re.findall(r"at '([^']*)'", str(error))
                }
                refused = named & set(texts)
                assert refused, f"the refusal names no field: {error}"
                for path in refused:
                    self.refused[path] += 1
                    texts.pop(path)
        words = {self.filled.fields[path]: text for path, text in texts.items()}
        pattern = re.compile("|".join(sorted(map(re.escape, words), key=len, reverse=True)))
        assert objects == exchanged(self.plain, words, pattern)
        self.exact.update(list(texts))


def rounds(chart: Chart, seed: str, count: int) -> Trial:
    trial, rng = Trial(chart), random.Random(seed)
    for number in range(count):
        trial.round(rng, tries_refusal=number % 10 == 0)
    return trial


@each_chart
def test_hostile_texts_are_rendered_exactly_or_refused(chart):
    trial = rounds(chart, "charts", 15)
    fields = set(trial.filled.fields)
    assert len(fields) >= {"namespace": 15, "deliver": 30, "finetune": 70, "serve": 30}[chart.name]
    # every field accepted some texts, and fields with a pattern refused some
    assert set(trial.exact) == fields
    free = fields - set(trial.filled.forms)
    assert not set(trial.refused) & free
    assert trial.refused
    assert sum(trial.exact[path] for path in free) == 15 * len(free)


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("shard", range(10))
@each_chart
def test_ten_thousand_hostile_texts_in_every_string_field(chart, shard):
    trial = rounds(chart, f"soak {shard}", 1000)
    assert min((trial.exact + trial.refused)[path] for path in trial.filled.fields) >= 1000


def test_unquoted_template_is_detected(tmp_path):
    folder = tmp_path / "chart"
    shutil.copytree(TRAIN.folder, folder)
    job = folder / "templates" / "job.yaml"
    quoted = '{{ include "tuneyard.json" $v.finetuningImage }}'
    assert quoted in job.read_text()
    job.write_text(job.read_text().replace(quoted, "{{ .Values.finetuningImage }}"))
    trial = Trial(TRAIN, folder)
    with pytest.raises((AssertionError, RefusedError, yaml.YAMLError)):
        for seed in range(20):
            trial.round(random.Random(seed), tries_refusal=False)


def test_every_chart_is_covered():
    assert len(CHARTS) == 4
