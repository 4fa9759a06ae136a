"""Models that generate a text chosen by the test: real ones, served as any other, whose bias decides each token.

transformers' own `sequence_bias` in an adapter's `generation_config.json` does it: nothing of the server is replaced.
The base is a Qwen 2, whatever the chat template: an architecture implies no template.
"""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lab import serving
from lab.chat_families import FAMILIES, make_family_tokenizer

BASE = "default-bucket/models/qwen"
_VOCABULARY = 1024
_STRENGTH = 1000.0
_TAIL = 8
"""Tokens of a prompt that are the same whether there are tools or not."""

QUESTION = [{"role": "user", "content": "How long is the Anna?"}]
"""The prompt that makes such a model recite."""


def make_qwen(folder: Path) -> Path:
    """Write a random Qwen 2 whose vocabulary holds that of every family."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    make_family_tokenizer(folder, FAMILIES["qwen-2.5"])
    config = Qwen2Config(
        vocab_size=_VOCABULARY,
        hidden_size=64,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=4096,
        dtype="float32",
    )
    kept = (folder / "generation_config.json").read_bytes()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        Qwen2ForCausalLM(config).save_pretrained(folder)
    (folder / "generation_config.json").write_bytes(kept)
    return folder


@dataclass(frozen=True)
class Script:
    """What a model writes.

    Attributes:
        family: Whose chat template and tokenizer it has.
        text: What it writes, special tokens spelled out.
        ends: Whether it then writes a stop token; else it continues with arbitrary tokens.
    """

    family: str
    text: str
    ends: bool = True


def make_reciter(adapter: Path, folder: Path, script: Script) -> None:
    """Write an adapter that makes the model write a script.

    Args:
        adapter: An adapter to take the weights of.
        folder: Where it goes.
        script: What it writes.
    """
    from transformers import AutoTokenizer

    folder.mkdir()
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        shutil.copy(adapter / name, folder / name)
    make_family_tokenizer(folder, FAMILIES[script.family])
    tokenizer = AutoTokenizer.from_pretrained(folder)
    # Whatever the tokenizer normalizes, the ids are those of the text itself.
    ids = tokenizer(script.text, add_special_tokens=False)["input_ids"]
    config: dict[str, Any] = json.loads((folder / "generation_config.json").read_text())
    stops = config["eos_token_id"]
    ids = [*ids, stops[0] if isinstance(stops, list) else stops] if script.ends else ids
    # After the end of the prompt and what it has written so far, the next token; so that repetitions are not ambiguous.
    prompt = tokenizer.apply_chat_template(QUESTION, add_generation_prompt=True, return_dict=False)[-_TAIL:]
    config["sequence_bias"] = [[[*prompt, *ids[: end + 1]], _STRENGTH] for end in range(len(ids))]
    (folder / "generation_config.json").write_text(json.dumps(config))


def put_reciters(store: Path, beside: Path, scripts: dict[str, Script]) -> dict[str, Any]:
    """Put a base and a model for each script into a store; return the values that serve them all.

    Args:
        store: The store's folder.
        beside: Where the models are made.
        scripts: What each writes, by its name.
    """
    base = make_qwen(beside / "base")
    trained_on = {"key": BASE, "content_sha256": serving.put(store, BASE, base, kind="model")}
    adapter = serving.make_adapter(base, beside / "adapter", seed=1)
    adapters: dict[str, str] = {}
    for number, (name, script) in enumerate(scripts.items()):
        folder = beside / f"{number}-{re.sub('[^a-z0-9]', '-', name)}"
        make_reciter(adapter, folder, script)
        adapters[name] = f"default-bucket/experiments/{folder.name}/checkpoint-final"
        serving.put(store, adapters[name], folder, about={"type": "adapter", "run": folder.name, "base": trained_on})
    return serving.values(f"s3://{BASE}", adapters=adapters)
