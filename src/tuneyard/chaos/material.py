"""What the trials train on: a tiny model with random weights, conversations of random words, and the values of a run.

Made in seconds without any download. The conversations are the same for everyone; nothing is learnt from them but
whether two trainings made the same numbers.
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

from tuneyard.store import Manifest, Store, upload_tree, write_manifest

STEPS = 16
"""Optimizer steps of one training."""

SAVE_STEPS = 4
"""Steps from one checkpoint to the next."""

_BATCH = 4
_ROWS = 40  # a fifth is held out
_WORDS = ("yard", "boat", "model", "data", "bucket", "rank", "loss", "token", "answer", "question", "adapter", "tune")
_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def model_key(prefix: str) -> str:
    """Tell where the model lies below a prefix."""
    return f"{prefix}/models/tiny"


def data_key(prefix: str) -> str:
    """Tell where the conversations lie below a prefix."""
    return f"{prefix}/datasets/chat.jsonl"


def values(prefix: str, run: str) -> dict[str, Any]:
    """Give the values of a run below a prefix, as a user would write them."""
    return {
        "basemodel": model_key(prefix),
        "checkpointsRemote": f"{prefix}/experiments/{run}",
        "gpuResource": "",
        "finetuningGpus": 1,
        "finetuning_config": {
            "method": "sft",
            "data_conf": {
                "training_data": {"type": "CONCATENATION", "datasets": [{"path": data_key(prefix)}]},
                "validation_data": {"type": "AUTO_SPLIT", "ratio": 0.2},
                "chat_template_name": "keep-original",
                "missing_pad_token_strategy": "bos-repurpose",
            },
            "training_args": {
                "learning_rate": 1e-2,
                "num_train_epochs": STEPS * _BATCH / (_ROWS * 0.8),
                "logging_steps": 3,
                "eval_strategy": "steps",
                "eval_steps": SAVE_STEPS,
                "save_strategy": "steps",
                "save_steps": SAVE_STEPS,
                "save_total_limit": 2,
                "lr_scheduler_type": "linear",
                "report_to": ["none"],
                "seed": 7,
            },
            "batchsize_conf": {"total_train_batch_size": _BATCH, "max_per_device_train_batch_size": 2},
            "peft_conf": {
                "peft_type": "LORA",
                "peft_kwargs": {
                    "r": 4,
                    "lora_alpha": 8,
                    "lora_dropout": 0.1,
                    "target_modules": ["q_proj", "v_proj", "down_proj"],
                },
            },
            "sft_args": {"max_seq_length": 256},
        },
    }


def write_values(path: Path, given: dict[str, Any]) -> None:
    """Resolve values and write the one file that a process reads."""
    from tuneyard.values import FinetuneValues, canonical_json

    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(canonical_json(FinetuneValues.model_validate(given)))


def lay_out(store: Store, prefix: str, folder: Path) -> None:
    """Put the model and the conversations below a prefix, manifests last, as a delivery does.

    Loads torch and transformers.

    Args:
        store: Where to.
        prefix: The key that all of it goes below.
        folder: A folder of this machine to make them in.
    """
    files = upload_tree(store, _make_model(folder / "model"), f"{model_key(prefix)}/")
    manifest = Manifest(kind="model", files=tuple(files))
    write_manifest(store, f"{model_key(prefix)}/.tuneyard/manifest.json", manifest)
    where, _, name = data_key(prefix).rpartition("/")
    (folder / "data").mkdir(parents=True)
    (folder / "data" / name).write_text("".join(json.dumps(row) + "\n" for row in _conversations()), encoding="utf-8")
    files = upload_tree(store, folder / "data", f"{where}/")
    write_manifest(store, f"{where}/.tuneyard/{name}.manifest.json", Manifest(kind="dataset", files=tuple(files)))


def _conversations() -> list[dict[str, Any]]:
    chance = random.Random(0)  # noqa: S311 - words, no secrets

    def text() -> str:
        return " ".join(chance.choices(_WORDS, k=chance.randint(2, 12)))

    return [
        {"messages": [{"role": "user", "content": text()}, {"role": "assistant", "content": text()}]}
        for _ in range(_ROWS)
    ]


def _make_model(folder: Path) -> Path:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = _make_tokenizer()
    tokenizer.save_pretrained(folder)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        dtype="float32",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model: Any = LlamaForCausalLM(config)
    model.save_pretrained(folder, safe_serialization=True)
    return folder


def _make_tokenizer() -> Any:
    """Make a byte-level tokenizer whose special tokens and template are those of ChatML."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    special = {
        "unk_token": "<|endoftext|>",
        "bos_token": "<|im_start|>",
        "eos_token": "<|im_end|>",
        "pad_token": "<|im_end|>",
    }
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=list(dict.fromkeys(special.values())),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator([" ".join(_WORDS), "system user assistant"], trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, clean_up_tokenization_spaces=False, **special)
    tokenizer.chat_template = _TEMPLATE
    return tokenizer
