"""From verified folders to models in memory: one set of base weights, and a tree of modules for each adapter on it.

An adapter's model is a copy of the base model's modules around the same weights, so base model and adapters answer at
the same time, each in its own thread, and no adapter is ever switched. It costs the modules (a few MB) and the adapter.
"""

from __future__ import annotations

import copy
import json
import logging
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from peft import PeftModel
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerFast

from tuneyard.data import bound_template, read_tokenizer, stop_token_ids, template_problem
from tuneyard.errors import InvalidDataError, InvalidValuesError, Problem
from tuneyard.models import ADAPTER_CONFIG, load_adapter, load_model
from tuneyard.serving.answers.decoding import SpecialTokens
from tuneyard.serving.flags import AppSettings
from tuneyard.serving.placement import Placement, Weights
from tuneyard.serving.template import ChatTemplate

logger = logging.getLogger(__name__)

_WITHOUT_POSITIONS = 2048
"""The context, in tokens, of an architecture without a limit of its own (Mamba, Bloom)."""

_TOKENIZER = "tokenizer_config.json"
_GENERATION = "generation_config.json"
_INIT_LEAVES_BASE = (True, False, "gaussian", "eva", None)
"""Initializations that leave the base weights unchanged; peft repeats an adapter's initialization when it loads it."""


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model in memory, ready to generate.

    Attributes:
        names: Its names.
        parent: The name of its base model where it is an adapter; empty otherwise.
        model: The model, or an adapter's `PeftModel`.
        tokenizer: Its own: an adapter may have been trained with another chat template than its base model.
        generation: The defaults of its generation, with every token that ends an answer.
        limit: The most tokens of a prompt and its answer.
        longest_token: The number of characters of its longest token.
        special: Its special tokens.
        template: Its chat template; None where it has none.
        stop_words: Words that end every answer.
    """

    names: tuple[str, ...]
    parent: str
    model: Any
    tokenizer: PreTrainedTokenizerFast
    generation: GenerationConfig
    limit: int
    longest_token: int
    special: SpecialTokens
    template: ChatTemplate | None
    stop_words: tuple[str, ...]


def load_models(placement: Placement, settings: AppSettings, device: str) -> tuple[LoadedModel, ...]:
    """Load everything that one server serves.

    Args:
        placement: Verified folders and names.
        settings: From the values.
        device: torch's name of the device.

    Returns:
        The models, that of the values' `model` first.

    Raises:
        IncompleteModelError: A model's files lack a weight, or hold one that it doesn't have or of another shape.
        InvalidDataError: The files are intact, but transformers or peft can't load them.
        InvalidValuesError: `max_model_len` exceeds the model's context.
    """
    base = _load_base(placement.model, settings.dtype, device, placement.config)
    limit = _limit(base, settings.max_model_len)
    loaded = [_loaded(placement.names, "", base, placement.model, placement.model, limit)]
    for adapter in placement.adapters:
        model = _put_on(base, adapter.weights)
        left = limit - _virtual_tokens(model)
        loaded.append(_loaded(adapter.names, placement.names[0], model, adapter.weights, placement.model, left))
    return tuple(sorted(loaded, key=lambda model: model.names != placement.requested))


def _load_base(weights: Weights, dtype: str, device: str, config: Mapping[str, Any]) -> PreTrainedModel:
    loaded = load_model(weights.folder, where=weights.where, dtype=dtype, **config)
    model = loaded.eval().requires_grad_(False)
    model.generation_config.stop_strings = None  # `stop_words` end an answer instead, and are not part of it
    return cast("Any", model).to(device)


def _put_on(base: PreTrainedModel, adapter: Weights) -> Any:
    config = json.loads((adapter.folder / ADAPTER_CONFIG).read_text(encoding="utf-8"))
    shares = config.get("init_lora_weights", True) in _INIT_LEAVES_BASE
    # The memo makes the copy share every parameter.
    memo: dict[int, Any] = {id(weight): weight for weight in base.parameters()} if shares else {}
    return load_adapter(copy.deepcopy(base, memo), adapter.folder, where=adapter.where)


def _virtual_tokens(model: PeftModel) -> int:
    """Return how many positions a trained prompt takes."""
    config = model.active_peft_config
    if not config.is_prompt_learning:
        return 0
    # every position follows from the cache; the warning would appear for each answer
    warnings.filterwarnings("ignore", message="Position ids are not supported for parameter efficient tuning")
    return int(cast("Any", config).num_virtual_tokens)


def _loaded(names: Sequence[str], parent: str, model: Any, own: Weights, base: Weights, limit: int) -> LoadedModel:
    folder = own.folder if (own.folder / _TOKENIZER).exists() else base.folder
    tokenizer = read_tokenizer(folder, name=own.where)
    if why := template_problem(tokenizer):
        raise InvalidDataError(
            f"The tokenizer of '{own.where}' {why}.",
            hint="Name one of them default in its tokenizer_config.json and deliver it again, or finetune the model "
            "with finetuning_config.data_conf.chat_template_name=chat-ml.",
            problems=[Problem(own.where, f"its tokenizer {why}")],
        )
    settings = next((each.folder for each in (own, base) if (each.folder / _GENERATION).exists()), base.folder)
    generation = _generation(tokenizer, settings)
    longest = max(map(len, tokenizer.get_vocab()), default=1)
    words: Any = generation.stop_strings or ()
    generation.stop_strings = None
    special = SpecialTokens(tokenizer)
    if tokenizer.chat_template:
        bound_template(tokenizer)
    template = ChatTemplate(tokenizer, special, generation.eos_token_id or ()) if tokenizer.chat_template else None
    stop_words = (words,) if isinstance(words, str) else tuple(words)
    return LoadedModel(
        tuple(names), parent, model, tokenizer, generation, limit, longest, special, template, stop_words
    )


def _generation(tokenizer: PreTrainedTokenizerFast, folder: Path) -> GenerationConfig:
    exists = (folder / _GENERATION).exists()
    generation = GenerationConfig.from_pretrained(folder) if exists else GenerationConfig()
    stops = stop_token_ids(tokenizer, folder)
    generation.eos_token_id = list(stops) or None
    pads = [number for number in (tokenizer.pad_token_id, *stops) if isinstance(number, int)]
    generation.pad_token_id = pads[0] if pads else None
    generation.num_beams = 1  # a stream sends tokens as they are chosen
    generation.max_length = None
    return generation


def _limit(model: PreTrainedModel, wanted: int | None) -> int:
    # models that also take images keep the settings of text apart
    most = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if not isinstance(most, int):
        if wanted is None:
            logger.warning(
                "The model's config.json has no max_position_embeddings: the context is %d tokens. "
                "Set another with vllm_engine_args.max_model_len.",
                _WITHOUT_POSITIONS,
            )
        return wanted or _WITHOUT_POSITIONS
    if wanted is not None and wanted > most:
        problem = Problem("vllm_engine_args.max_model_len", "exceeds the model's context", str(wanted), f"up to {most}")
        raise InvalidValuesError(
            f"max_model_len {wanted} exceeds the model's context of {most} tokens.", problems=[problem]
        )
    return wanted or most
