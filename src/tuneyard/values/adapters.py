"""`peft_conf` and `quant_conf`: the adapter that is trained, and the form the base model is held in."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, Literal, cast

from pydantic import Field, ValidationError, ValidationInfo, model_validator

from tuneyard.values.base import Broken, Remark, Rule, Values, refuse
from tuneyard.values.peft_fields import Ia3Fields, LoraFields, PeftName, PromptTuningFields, TaskName, VeraFields
from tuneyard.values.problems import broken_in
from tuneyard.values.scalars import Float, Map, Strings, Text


def lora_numbers_are_possible(lora: LoraFields) -> Iterator[Broken]:
    """PEFT's own limits, which it would check only once a model is loaded."""
    if lora.r < 1:
        yield Broken("r", "is out of range", value=str(lora.r), allowed="1 or more")
    if not 0 <= lora.lora_dropout < 1:
        yield Broken("lora_dropout", "is out of range", value=f"{lora.lora_dropout:g}", allowed="from 0 to below 1")


class LoraKwargs(LoraFields):
    """Keyword arguments of PEFT's LoraConfig, with its limits."""

    checks: ClassVar[Sequence[Rule]] = (lora_numbers_are_possible,)


def vera_numbers_are_possible(vera: VeraFields) -> Iterator[Broken]:
    """PEFT's own limits, and its values for biases."""
    if vera.r < 1:
        yield Broken("r", "is out of range", value=str(vera.r), allowed="1 or more")
    if not 0 <= vera.vera_dropout < 1:
        yield Broken("vera_dropout", "is out of range", value=f"{vera.vera_dropout:g}", allowed="from 0 to below 1")
    if vera.bias not in ("none", "all", "vera_only"):
        yield Broken("bias", "is not known", value=vera.bias, allowed="none, all or vera_only")


class VeraKwargs(VeraFields):
    """Keyword arguments of PEFT's VeraConfig, with its limits."""

    checks: ClassVar[Sequence[Rule]] = (vera_numbers_are_possible,)


def feedforward_modules_are_targets(ia3: Ia3Fields) -> Iterator[Broken]:
    """PEFT scales the input of some of the modules that it adapts, and the output of the others."""
    targets, inputs = ia3.target_modules, ia3.feedforward_modules
    if (targets is None) != (inputs is None):
        where = "feedforward_modules" if inputs is None else "target_modules"
        allowed = "both, or neither for PEFT's own choice; feedforward_modules may be an empty list"
        yield Broken(where, "is missing beside the other", allowed=allowed)
    elif isinstance(targets, list) and isinstance(inputs, list):
        for name in inputs:
            if name not in targets:
                yield Broken("feedforward_modules", "is not among target_modules", name, ", ".join(targets))


class Ia3Kwargs(Ia3Fields):
    """Keyword arguments of PEFT's IA3Config, with its limits."""

    checks: ClassVar[Sequence[Rule]] = (feedforward_modules_are_targets,)


def prompts_have_a_length_and_a_beginning(prompts: PromptTuningFields) -> Iterator[Broken]:
    """PEFT has no default for the number of virtual tokens, and begins with a text only where there is one."""
    if prompts.num_virtual_tokens is None or prompts.num_virtual_tokens < 1:
        shown = "" if prompts.num_virtual_tokens is None else str(prompts.num_virtual_tokens)
        what = "is out of range" if shown else "is missing"
        yield Broken("num_virtual_tokens", what, value=shown, allowed="1 or more")
    if prompts.prompt_tuning_init == "TEXT" and not prompts.prompt_tuning_init_text:
        about = ("prompt_tuning_init",)
        yield Broken("prompt_tuning_init_text", "is missing, and prompt_tuning_init TEXT begins with it", about=about)


class PromptTuningKwargs(PromptTuningFields):
    """Keyword arguments of PEFT's PromptTuningConfig, with its limits."""

    checks: ClassVar[Sequence[Rule]] = (prompts_have_a_length_and_a_beginning,)


KWARGS: dict[str, type[Values]] = {
    "LORA": LoraKwargs,
    "VERA": VeraKwargs,
    "IA3": Ia3Kwargs,
    "PROMPT_TUNING": PromptTuningKwargs,
}
"""The adapters whose keyword arguments are checked by name and type: those that are trained."""


def arguments_without_an_adapter(conf: PeftConf) -> str | None:
    """Without an adapter there is nothing that its arguments could shape."""
    if conf.peft_type == "NO_PEFT" and conf.peft_kwargs:
        return f"peft_conf.peft_kwargs ({', '.join(sorted(conf.peft_kwargs))}) has no effect with NO_PEFT"
    return None


class PeftConf(Values):
    """The adapter that is trained."""

    remarks: ClassVar[Sequence[Remark]] = (arguments_without_an_adapter,)

    peft_type: PeftName = "NO_PEFT"
    """PEFT's name of the method, or NO_PEFT to train every weight."""

    task_type: TaskName = "CAUSAL_LM"
    """PEFT's name of the task."""

    peft_kwargs: Map = Field(default_factory=dict)
    """Keyword arguments of PEFT's configuration for that method, such as r and target_modules."""

    @model_validator(mode="before")
    @classmethod
    def kwargs_are_those_of_peft(cls, given: Any, info: ValidationInfo) -> Any:
        """Check an adapter's keyword arguments by name and type, and convert numbers that Helm sent as text."""
        if not isinstance(given, dict):
            return given
        raw = cast("dict[str, Any]", given)
        kind, kwargs_given = KWARGS.get(str(raw.get("peft_type"))), raw.get("peft_kwargs")
        if kind is None or not isinstance(kwargs_given, dict | None):
            return raw
        try:
            kwargs = kind.model_validate(kwargs_given or {})
        except ValidationError as error:
            rest = {key: value for key, value in raw.items() if key != "peft_kwargs"}
            return refuse(rest, broken_in(kind, kwargs_given or {}, error, under="peft_kwargs"), info)
        return {**raw, "peft_kwargs": kwargs.model_dump(exclude_unset=True)}


def bits_are_chosen_once(conf: QuantConf) -> Iterator[Broken]:
    """4 and 8 bits exclude each other."""
    if conf.load_in_4bit and conf.load_in_8bit:
        yield Broken("load_in_8bit", "excludes load_in_4bit", "true", about=("load_in_4bit",))
    if conf.quantization_type == "no-quantization" and (conf.load_in_4bit or conf.load_in_8bit):
        allowed = "quantization_type: bits-and-bytes"
        about = ("load_in_4bit", "load_in_8bit")
        yield Broken("quantization_type", "contradicts load_in_4bit or load_in_8bit", allowed=allowed, about=about)


def settings_belong_to_their_bits(conf: QuantConf) -> Iterator[Broken]:
    """What shapes 4 or 8 bits means nothing to the other, and none of it without quantization."""
    chosen = "load_in_4bit" if conf.load_in_4bit else "load_in_8bit" if conf.load_in_8bit else ""
    for name, field in QuantConf.model_fields.items():
        value = getattr(conf, name)
        if name not in _BITS_OF or value == field.default or chosen in _BITS_OF[name]:
            continue
        needed = " or ".join(f"{bits}: true" for bits in _BITS_OF[name])
        yield Broken(name, "has no effect without its bits", str(value), needed, about=("load_in_4bit", "load_in_8bit"))
    if conf.llm_int8_enable_fp32_cpu_offload:
        what = "has no effect: each process holds the whole model on its device"
        yield Broken("llm_int8_enable_fp32_cpu_offload", what, value="true")


_BITS_OF = {
    "llm_int8_threshold": ("load_in_8bit",),
    "llm_int8_has_fp16_weight": ("load_in_8bit",),
    "llm_int8_skip_modules": ("load_in_8bit", "load_in_4bit"),
    "bnb_4bit_compute_dtype": ("load_in_4bit",),
    "bnb_4bit_quant_type": ("load_in_4bit",),
    "bnb_4bit_use_double_quant": ("load_in_4bit",),
    "bnb_4bit_quant_storage": ("load_in_4bit",),
}
"""The bits that a setting of bitsandbytes shapes."""


class QuantConf(Values):
    """The quantization of the base model."""

    checks: ClassVar[Sequence[Rule]] = (bits_are_chosen_once, settings_belong_to_their_bits)

    quantization_type: Literal["no-quantization", "bits-and-bytes"] = "no-quantization"
    """None, or bitsandbytes."""

    load_in_8bit: bool = False
    """Load weights in 8 bits."""

    load_in_4bit: bool = False
    """Load weights in 4 bits, as for QLoRA."""

    llm_int8_threshold: Float = 6.0
    """The outlier threshold above which activations stay in 16 bits."""

    llm_int8_skip_modules: Strings | None = None
    """Modules that are not quantized."""

    llm_int8_enable_fp32_cpu_offload: bool = False
    """Offload modules that do not fit to the CPU, in 32 bits."""

    llm_int8_has_fp16_weight: bool = False
    """Keep 16-bit weights beside the 8-bit ones."""

    bnb_4bit_compute_dtype: Text | None = None
    """The compute dtype of 4-bit weights."""

    bnb_4bit_quant_type: Literal["fp4", "nf4"] = "fp4"
    """The 4-bit data type."""

    bnb_4bit_use_double_quant: bool = False
    """Quantize the quantization constants too."""

    bnb_4bit_quant_storage: Text | None = None
    """The storage dtype of packed 4-bit weights."""

    @model_validator(mode="before")
    @classmethod
    def the_librarys_own_name_is_understood(cls, given: Any) -> Any:
        """Read `bitsandbytes`, the spelling of earlier charts, as `bits-and-bytes`."""
        if isinstance(given, dict) and given.get("quantization_type") == "bitsandbytes":
            return {**cast("dict[str, Any]", given), "quantization_type": "bits-and-bytes"}
        return cast("Any", given)
