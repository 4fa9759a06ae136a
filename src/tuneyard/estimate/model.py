"""A delivered model's shapes, from its config and the headers of its safetensors files; no weight is read."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from tuneyard.errors import IntegrityError
from tuneyard.store import Manifest, Store

ITEM_BYTES = {"F64": 8, "F32": 4, "BF16": 2, "F16": 2, "F8_E4M3": 1, "F8_E5M2": 1, "I64": 8, "I32": 4, "I8": 1, "U8": 1}
DTYPES = {"float32": 4, "bfloat16": 2, "float16": 2}
_STORED = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}
_EMBEDDINGS = ("embed_tokens", "wte", "wpe", "word_embeddings", "embed_in")
_HEADS = ("lm_head", "embed_out")
_BUFFERS = ("rotary_emb.inv_freq", ".attn.bias", ".attn.masked_bias", ".attention.bias", ".masked_bias")


@dataclass(frozen=True)
class ModelFacts:
    """What is known of a model without its weights.

    Attributes:
        config: Its `config.json`.
        tensors: Shapes of its parameters, by name; a head that is tied to the embedding is not among them.
        stored_dtype: What most of its weights are stored in.
        download_bytes: All its files together.
    """

    config: Mapping[str, Any]
    tensors: Mapping[str, tuple[int, ...]]
    stored_dtype: str
    download_bytes: int

    @property
    def parameters(self) -> int:
        """All parameters, a tied matrix counted once."""
        return sum(math.prod(shape) for shape in self.tensors.values())

    @property
    def tied(self) -> bool:
        """Whether the head is the embedding's matrix."""
        return self.head is None

    @property
    def head(self) -> str | None:
        """The name of the head's own weight; None where it has none."""
        return next((name for name in self.tensors if name.split(".")[-2:-1] in ([head] for head in _HEADS)), None)

    @cached_property
    def modules(self) -> dict[str, tuple[int, int]]:
        """Linear and embedding modules an adapter can go on: (features in, features out)."""
        found: dict[str, tuple[int, int]] = {}
        for name, shape in self.tensors.items():
            module, _, kind = name.rpartition(".")
            if kind == "weight" and len(shape) == 2 and ".experts." not in name:
                stored_transposed = self.is_embedding(module) or self.config.get("model_type") == "gpt2"
                found[module] = (shape[0], shape[1]) if stored_transposed else (shape[1], shape[0])
        if self.tied and self.embedding is not None:
            rows, width = self.tensors[self.embedding]
            found["lm_head"] = (width, rows)
        return found

    @property
    def embedding(self) -> str | None:
        """The name of the input embedding's weight."""
        return next((name for name in self.tensors if name.split(".")[-2:-1] in (["embed_tokens"], ["wte"])), None)

    def all_modules(self) -> list[str]:
        """Names of every module that holds parameters, and of those around them."""
        modules: dict[str, None] = dict.fromkeys(self.modules)
        for name in self.tensors:
            parts = name.split(".")[:-1]
            modules.update(dict.fromkeys(".".join(parts[:end]) for end in range(1, len(parts) + 1)))
        return list(modules)

    def is_embedding(self, module: str) -> bool:
        """Whether a module looks rows up."""
        return module.rpartition(".")[2] in _EMBEDDINGS

    def is_head(self, module: str) -> bool:
        """Whether a module makes logits."""
        return module.rpartition(".")[2] in _HEADS

    def number(self, *names: str) -> int:
        """Look a number up in the config under any of its names.

        Raises:
            IntegrityError: Where the config has none of them.
        """
        text: Mapping[str, Any] = self.config.get("text_config") or {}
        for name in names:
            value = self.config.get(name, text.get(name))
            if value is not None:
                return int(value)
        raise IntegrityError(f"The model's config.json has no {names[0]}.", hint="Deliver the model again.")

    @property
    def hidden(self) -> int:
        """Width of the residual stream."""
        return self.number("hidden_size", "n_embd", "d_model")

    @property
    def layers(self) -> int:
        """Decoder layers."""
        return self.number("num_hidden_layers", "n_layer", "num_layers")

    @property
    def heads(self) -> int:
        """Attention heads."""
        return self.number("num_attention_heads", "n_head", "num_heads")

    @property
    def vocabulary(self) -> int:
        """Rows of the embedding, which are the logits of one position."""
        return self.tensors[self.embedding][0] if self.embedding else self.number("vocab_size")

    @property
    def head_size(self) -> int:
        """Features of one attention head."""
        return int(self.config.get("head_dim") or self.hidden // self.heads)

    @property
    def query_width(self) -> int:
        """Features of all queries."""
        return self.heads * self.head_size

    @property
    def key_width(self) -> int:
        """Features of all keys; fewer than those of the queries where heads share them."""
        return int(self.config.get("num_key_value_heads") or self.heads) * self.head_size

    @property
    def intermediate(self) -> int:
        """Width within a layer's feed-forward part, of the experts that one token uses."""
        width = self.number("moe_intermediate_size", "intermediate_size", "n_inner", "ffn_dim")
        return width * int(self.config.get("num_experts_per_tok") or 1)


def read_model(store: Store, key: str, manifest: Manifest) -> ModelFacts:
    """Read the config and the headers of a delivered model.

    Args:
        store: Where it lies.
        key: The model's key.
        manifest: Its manifest.

    Raises:
        IntegrityError: Where it has no config, or a header can't be read.
    """
    prefix = key.strip("/")
    if not any(entry.path == "config.json" for entry in manifest.files):
        raise IntegrityError(f"The model {key} has no config.json.", hint="Deliver it again, with config.json.")
    config: dict[str, Any] = json.loads(store.get(f"{prefix}/config.json").body)
    tensors: dict[str, tuple[int, ...]] = {}
    sizes: dict[str, int] = {}
    for entry in manifest.files:
        if not entry.path.endswith(".safetensors"):
            continue
        for name, told in _header(store, f"{prefix}/{entry.path}").items():
            if name == "__metadata__" or name.endswith(_BUFFERS):
                continue
            tensors[name] = tuple(told["shape"])
            sizes[told["dtype"]] = sizes.get(told["dtype"], 0) + math.prod(told["shape"])
    if not tensors:
        raise IntegrityError(f"The model {key} has no safetensors file.", hint="Deliver it as safetensors.")
    if config.get("tie_word_embeddings"):
        tensors = {name: shape for name, shape in tensors.items() if name.split(".")[-2:-1] != ["lm_head"]}
    stored = _STORED.get(max(sizes, key=lambda dtype: sizes[dtype]), "float32")
    return ModelFacts(config, tensors, stored, manifest.size)


def _header(store: Store, key: str) -> dict[str, Any]:
    """Read a safetensors file's header: its length as eight bytes, then JSON (huggingface.co/docs/safetensors)."""
    stream = store.read(key)
    try:
        begun = b""
        while len(begun) < 8:
            begun += next(stream)
        (length,) = struct.unpack("<Q", begun[:8])
        while len(begun) < 8 + length:
            begun += next(stream)
        return json.loads(begun[8 : 8 + length])
    except (StopIteration, ValueError) as error:
        raise IntegrityError(f"The header of {key} can't be read.", hint="Deliver the model again.", key=key) from error
    finally:
        close = getattr(stream, "close", None)
        if close is not None:
            close()
