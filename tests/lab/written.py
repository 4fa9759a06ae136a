"""Hypothesis strategies for all user input, valid or not: values, rows, and the config of a delivered model.

Values are drawn from the chart's own schema, so a new key is drawn without a change here. `Bench` plans with them and
trains a tiny model for one step, in this process.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import os
import shutil
import signal
import sys
import warnings
from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from lab.tiny_models import make_model
from lab.training import DATA, MODEL, REMOTE, conversations, deliver_inputs, preferences

SCHEMA: dict[str, Any] = json.loads(
    (Path(__file__).parents[2] / "workloads/LLM-finetune-silogen-engine/helm/chart/values.schema.json").read_text()
)

HUGE = 10**12
"""So many elements that no machine can allocate the tensor; fewer might fill the memory of the test machine."""

ODD: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2, 3, 8, HUGE, 2**63, -(2**70), 0.5, -0.5, 1.5, 1e-9, 1e30, "", " ", "x", "no", "auto",
    "none", "1", "0.5", "nan", "inf", "true", "q_proj", "../x", "a/b", "ä\u0000", [], [1], ["x"], ["q_proj"], [None],
    [[1]], {}, {"a": 1}, {"x": {"y": [None]}}, {"rope_type": "linear", "factor": 2}, {"rope_type": "x"},
)  # fmt: skip
"""Values of every kind, most of them invalid for any key."""

_CAPPED: Mapping[str, Any] = {
    # settings of a step of a tiny model, whatever is drawn
    "finetuningGpus": 1,
    "nodes": 1,
    "gpuResource": "",
    "finetuning_config.training_args.max_steps": 1,
    "finetuning_config.training_args.dataloader_num_workers": 0,
    "finetuning_config.training_args.torch_compile": False,
    "finetuning_config.training_args.torch_compile_backend": None,
    "finetuning_config.training_args.torch_compile_mode": None,
    "finetuning_config.training_args.full_determinism": False,
}
SMALL: dict[str, Any] = {
    "basemodel": MODEL,
    "checkpointsRemote": REMOTE,
    "gpuResource": "",
    "finetuning_config.data_conf.training_data.datasets": [{"path": DATA}],
    "finetuning_config.data_conf.validation_data": {"type": "AUTO_SPLIT", "ratio": 0.4},
    "finetuning_config.training_args.max_steps": 1,
    "finetuning_config.training_args.eval_strategy": "steps",
    "finetuning_config.training_args.eval_steps": 1,
    "finetuning_config.peft_conf": {"peft_type": "LORA", "peft_kwargs": {"r": 2, "target_modules": ["q_proj"]}},
}


def _leaves(schema: Mapping[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield every key of a schema with its own schema, maps before their entries."""
    resolved = _resolved(schema)
    if path:
        yield path, resolved
    for name, inside in resolved.get("properties", {}).items():
        yield from _leaves(inside, (*path, name))


def _resolved(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    if "$ref" in schema:
        return SCHEMA["$defs"][schema["$ref"].removeprefix("#/$defs/")]
    for each in schema.get("anyOf", ()):
        if "$ref" in each:
            return _resolved(each)
    return schema


def _right(schema: Any) -> st.SearchStrategy[Any]:
    """Draw valid values, near the bounds."""
    schema = _resolved(schema) if isinstance(schema, dict) else {}
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    if "anyOf" in schema:
        return st.one_of([_right(each) for each in schema["anyOf"]])
    kinds = schema.get("type", [])
    kinds = [kinds] if isinstance(kinds, str) else kinds
    low = schema.get("minimum", schema.get("exclusiveMinimum", -2))
    of_kind: dict[str, st.SearchStrategy[Any]] = {
        "boolean": st.booleans(),
        "integer": st.integers(int(low), int(low) + 4),
        "number": st.sampled_from([low, low + 0.25, low + 1, 1e-4, 0.9]),
        "string": st.sampled_from(["x", "1", "q_proj", "loss", "a=1", "none"]),
        "array": st.lists(st.sampled_from(["q_proj", "x", "none", "all"]), max_size=2),
        "object": st.just({}),
        "null": st.none(),
    }
    return st.one_of([of_kind[kind] for kind in kinds if kind in of_kind] or [st.sampled_from(ODD)])


ODD_VALUES = st.sampled_from(ODD)
KEYS = [(".".join(path), schema) for path, schema in _leaves(SCHEMA)]
TRAINED = [each for each in KEYS if each[0].startswith("finetuning_config.")]
LORA = [(f"finetuning_config.peft_conf.peft_kwargs.{name}", of) for name, of in
        SCHEMA["$defs"]["LoraKwargs"]["properties"].items()]  # fmt: skip
_OTHERS: dict[str, st.SearchStrategy[Any]] = {
    "finetuning_config.peft_conf": st.sampled_from(
        [
            {"peft_type": "NO_PEFT"},
            {"peft_type": "VERA", "peft_kwargs": {"r": 2, "target_modules": ["q_proj"]}},
            {"peft_type": "IA3"},
            {"peft_type": "PROMPT_TUNING", "peft_kwargs": {"num_virtual_tokens": 2}},
            {"peft_type": "PROMPT_TUNING", "peft_kwargs": {"num_virtual_tokens": HUGE}},
        ]
    ),
    "finetuning_config.training_args.lr_scheduler_kwargs": st.dictionaries(
        st.sampled_from(["num_decay_steps", "num_stable_steps", "min_lr", "min_lr_rate", "power", "num_cycles", "x"]),
        ODD_VALUES,
        max_size=2,
    ),
    "finetuning_config.training_args.optim_args": st.sampled_from(
        ["a", "a=1", "rank=2", "betas=(0.9,0.99)", "beta1=0.9", "weight_decay=x", "eps=-1", "="]
    ),
    "finetuning_config.training_args.gradient_checkpointing_kwargs": st.dictionaries(
        st.sampled_from(["use_reentrant", "preserve_rng_state", "context_fn", "x"]), ODD_VALUES, max_size=2
    ),
    "finetuning_config.training_args.metric_for_best_model": st.sampled_from(
        ["loss", "eval_loss", "accuracy", "eval_rewards/margins", "tokens", "runtime", "epoch"]
    ),
    "finetuning_config.dpo_args.loss_weights": st.lists(ODD_VALUES, max_size=2),
}


def _model_fields() -> list[str]:
    from transformers import LlamaConfig

    loader = ["dtype", "attn_implementation", "experts_implementation", "x", "device_map", "quantization_config"]
    return [*(each.name for each in dataclasses.fields(LlamaConfig)), *loader]


@st.composite
def changes(draw: st.DrawFn) -> dict[str, Any]:
    """Draw up to three keys with values, valid or odd."""
    found: dict[str, Any] = {}
    for _ in range(draw(st.sampled_from([1, 1, 1, 2, 3]))):
        kind = draw(st.sampled_from(["key", "trained", "trained", "trained", "other", "lora", "model_args", "method"]))
        if kind == "method":
            found["finetuning_config.method"] = "dpo"
        elif kind == "other":
            key = draw(st.sampled_from(sorted(_OTHERS)))
            found[key] = draw(_OTHERS[key])
        elif kind == "model_args":
            names = st.sampled_from(_model_fields())
            found["finetuning_config.run_conf.model_args"] = draw(st.dictionaries(names, ODD_VALUES, max_size=2))
        else:
            key, schema = draw(st.sampled_from({"lora": LORA, "trained": TRAINED}.get(kind, KEYS)))
            found[key] = draw(st.one_of(*[_right(schema)] * 7, ODD_VALUES))
    return found


_MESSAGE = st.one_of(
    ODD_VALUES,
    st.fixed_dictionaries(
        {"role": st.sampled_from(["user", "assistant", "system", "tool", "", None, 3])},
        optional={"content": ODD_VALUES, "weight": ODD_VALUES, "tool_calls": ODD_VALUES, "name": ODD_VALUES},
    ),
)
_ROW = st.one_of(
    st.sampled_from(conversations(4)),
    st.sampled_from(preferences(2)),
    st.fixed_dictionaries({"messages": st.one_of(st.lists(_MESSAGE, max_size=3), ODD_VALUES)}),
    st.dictionaries(
        st.sampled_from(["prompt", "completion", "chosen", "rejected", "instruction", "output", "conversations", "x"]),
        ODD_VALUES,
        max_size=3,
    ),
    ODD_VALUES,
)
_TEMPLATES = st.one_of(
    st.sampled_from(
        [
            "{{ messages[0].x.y }}",
            "{% for m in messages %}{{ m.content }}{% endfor %}",
            "{% for m in messages %}",
            "{{ raise_exception('no') }}",
            "",
            "{{ 1 / 0 }}",
            "{{ messages | tojson }}",
            [{"name": "x", "template": "y"}],
            {"x": "y"},
        ]
    ),
    ODD_VALUES,
)


def _settings() -> st.SearchStrategy[dict[str, Any]]:
    """Draw changes of a model's config, of keys that it has and of others."""
    from transformers import LlamaConfig

    names = [each.name for each in dataclasses.fields(LlamaConfig)]
    more = ["quantization_config", "auto_map", "text_config", "rope_scaling", "generation_config", "torch_dtype"]
    return st.dictionaries(st.sampled_from([*names, *more]), ODD_VALUES, min_size=1, max_size=2)


_TOKENIZER = st.one_of(
    st.fixed_dictionaries({"chat_template": _TEMPLATES}),
    st.dictionaries(
        st.sampled_from(
            ["bos_token", "eos_token", "pad_token", "unk_token", "tokenizer_class", "added_tokens_decoder",
             "model_max_length", "additional_special_tokens", "extra_special_tokens", "model_input_names",
             "padding_side", "truncation_side", "clean_up_tokenization_spaces", "add_bos_token", "auto_map", "backend"]
        ),
        ODD_VALUES,
        min_size=1,
        max_size=2,
    ),
)  # fmt: skip


@dataclass(frozen=True)
class Written:
    """Changes to valid values, rows and a valid model.

    Attributes:
        values: Dotted paths of values, and what they are.
        rows: Rows of the data file; None for sound ones.
        config: Entries of the model's config.json.
        tokenizer: Entries of its tokenizer_config.json.
        generation: Entries of its generation_config.json.
    """

    values: Mapping[str, Any] = field(default_factory=dict)
    rows: list[Any] | None = None
    config: Mapping[str, Any] = field(default_factory=dict)
    tokenizer: Mapping[str, Any] = field(default_factory=dict)
    generation: Mapping[str, Any] = field(default_factory=dict)


def written() -> st.SearchStrategy[Written]:
    """Draw values, and sometimes rows or a config."""
    nothing: st.SearchStrategy[Any] = st.just({})
    generation = st.dictionaries(
        st.sampled_from(["eos_token_id", "temperature", "do_sample", "stop_strings", "max_length", "x"]), ODD_VALUES
    )
    return st.one_of(
        st.builds(Written, changes()),
        st.builds(Written, changes()),
        st.builds(Written, changes(), st.lists(_ROW, max_size=5).map(lambda rows: [*conversations(3), *rows])),
        st.builds(Written, changes(), st.lists(_ROW, max_size=5)),
        st.builds(Written, changes(), st.none(), _settings()),
        st.builds(Written, nothing, st.none(), nothing, _TOKENIZER, generation),
    )


def assembled(one: Written, *, capped: bool) -> dict[str, Any]:
    """Assemble values from dotted paths; `capped` keeps small what would take long to train."""
    values: dict[str, Any] = {}
    for path, value in (*SMALL.items(), *sorted(one.values.items(), key=lambda each: each[0].count("."))):
        _put(values, path, value, replacing=True)
    for path, value in _CAPPED.items() if capped else ():
        _put(values, path, value, replacing=False)
    return values


def _put(values: dict[str, Any], path: str, value: Any, *, replacing: bool) -> None:
    *above, last = path.split(".")
    place: Any = values
    for name in above:
        if not isinstance(place.get(name), dict):
            if place.get(name) is not None and not replacing:
                return  # no map, which is refused
            place[name] = {}
        place = place[name]
    place[last] = deepcopy(value)


@dataclass(frozen=True)
class Outcome:
    """A command's exit code and standard error."""

    code: int
    errors: str


class Bench:
    """Plans and trains with drawn values, in this process.

    Args:
        folder: An empty folder for the test.
        model: The sound model; a tiny Llama where None.
    """

    def __init__(self, folder: Path, model: Path | None = None) -> None:
        self.folder = folder
        self.model = model or make_model(folder / "sound", hidden=16, layers=1)
        self.store = folder / "store"
        deliver_inputs(self.store, folder=self.model, rows=conversations(6))
        self._is_sound = True

    @property
    def published(self) -> Path:
        """Where a training publishes its final adapter."""
        return self.store / REMOTE / "checkpoint-final"

    def plan(self, one: Written) -> Outcome:
        """Run `tuneyard plan`."""
        from tuneyard.cli._errors import run

        self._write_inputs(one)
        path = self.folder / "plan.json"
        path.write_text(json.dumps(assembled(one, capped=False)), encoding="utf-8")
        return self._run(run, ["tuneyard", "plan", "-f", str(path)])

    def train(self, one: Written, *, capped: bool = True) -> Outcome:
        """Resolve values as a launch does, and run the training process on them."""
        from tuneyard.errors import InvalidValuesError
        from tuneyard.train.__main__ import main
        from tuneyard.values import FinetuneValues, canonical_json, check_values

        self._write_inputs(one)
        shutil.rmtree(self.store / REMOTE, ignore_errors=True)
        work = self.folder / "work"
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir()
        try:
            values = canonical_json(check_values(FinetuneValues, assembled(one, capped=capped)))
        except InvalidValuesError as error:
            return Outcome(error.exit_code, str(error))  # a process is given resolved values only
        (work / "values.json").write_bytes(values)
        return self._run(main, ["train", str(work / "values.json"), "--workdir", str(work)])

    def _write_inputs(self, one: Written) -> None:
        is_sound = one.rows is None and not (one.config or one.tokenizer or one.generation)
        if is_sound and self._is_sound:
            return
        model = self.folder / "written"
        shutil.rmtree(model, ignore_errors=True)
        shutil.copytree(self.model, model)
        for name, changed in (("config", one.config), ("tokenizer_config", one.tokenizer),
                              ("generation_config", one.generation)):  # fmt: skip
            if changed:
                path = model / f"{name}.json"
                path.write_text(json.dumps({**json.loads(path.read_text()), **changed}), encoding="utf-8")
        if "chat_template" in one.tokenizer:
            (model / "chat_template.jinja").unlink(missing_ok=True)
        shutil.rmtree(self.store)
        deliver_inputs(self.store, folder=model, rows=conversations(6) if one.rows is None else one.rows)
        self._is_sound = is_sound

    def _run(self, main: Any, arguments: list[str]) -> Outcome:
        before = {**os.environ}, Path.cwd(), sys.argv, signal.getsignal(signal.SIGTERM)
        os.environ |= {"TUNEYARD_STORE": self.store.as_uri(), "TUNEYARD_HOME": str(self.folder / "home")}
        os.environ |= {"HF_HUB_OFFLINE": "1", "TUNEYARD_DEBUG": "1"}
        sys.argv = arguments
        errors = io.StringIO()
        try:
            with warnings.catch_warnings(), contextlib.redirect_stderr(errors), contextlib.redirect_stdout(errors):
                warnings.simplefilter("ignore")  # as in a process of its own
                return Outcome(main(), errors.getvalue())
        finally:
            os.environ.clear()
            os.environ.update(before[0])
            os.chdir(before[1])
            sys.argv = before[2]
            signal.signal(signal.SIGTERM, before[3])
