"""Real trainings whose peak memory is measured by the kernel: models of 30 to 80 million parameters, two steps each.

A model is made in a process of its own, so that the measuring process never holds it.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lab.training import DATA, MODEL, REMOTE, environment, write_values

MODELS: dict[str, dict[str, Any]] = {
    "plain": {
        "model_type": "llama",
        "hidden_size": 512,
        "intermediate_size": 1408,
        "num_hidden_layers": 10,
        "num_attention_heads": 8,
        "num_key_value_heads": 8,
        "vocab_size": 16000,
        "tie_word_embeddings": False,
    },
    "wide": {
        "model_type": "llama",
        "hidden_size": 512,
        "intermediate_size": 1536,
        "num_hidden_layers": 8,
        "num_attention_heads": 8,
        "num_key_value_heads": 2,
        "vocab_size": 64000,
        "tie_word_embeddings": True,
    },
    "gpt2": {
        "model_type": "gpt2",
        "n_embd": 512,
        "n_layer": 10,
        "n_head": 8,
        "n_positions": 4096,
        "vocab_size": 16000,
    },
    "moe": {
        "model_type": "mixtral",
        "hidden_size": 384,
        "intermediate_size": 768,
        "num_hidden_layers": 6,
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
        "num_local_experts": 8,
        "num_experts_per_tok": 2,
        "vocab_size": 16000,
    },
    "mamba": {
        "model_type": "mamba",
        "hidden_size": 512,
        "num_hidden_layers": 12,
        "state_size": 16,
        "vocab_size": 16000,
        "use_cache": False,
    },
}
LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]

_MAKE = """
import json, sys
from pathlib import Path
import torch
from transformers import AutoConfig, AutoModelForCausalLM
sys.path.insert(0, sys.argv[1])
from lab.tiny_models import make_tokenizer
folder = make_tokenizer(Path(sys.argv[2]))
torch.manual_seed(0)
config = AutoConfig.for_model(**{"max_position_embeddings": 4096, **json.loads(sys.argv[3])})
model = AutoModelForCausalLM.from_config(config)
model.to(getattr(torch, sys.argv[4])).save_pretrained(folder)
"""
# A small process starts and waits for the training: a child's high-water mark begins with that of its parent.
_MEASURE = """
import os, sys
child = os.posix_spawn(sys.executable, [sys.executable, *sys.argv[1:]], os.environ)
_, status, usage = os.wait4(child, 0)
print(usage.ru_maxrss)
sys.exit(os.waitstatus_to_exitcode(status))
"""


@dataclass(frozen=True)
class Case:
    """One training.

    Attributes:
        model: A name of `MODELS`.
        words: Words of each conversation's question and answer.
        batch: Conversations of a step, taken at once.
        changes: Changed values, by dotted path below `finetuning_config`.
        dtype: What the delivered weights are stored in.
        accumulation: Micro-batches of a step.
    """

    model: str
    words: int
    batch: int
    changes: dict[str, Any] = field(default_factory=dict[str, Any])
    dtype: str = "float32"
    accumulation: int = 1

    def values(self) -> dict[str, Any]:
        """Return the values that train it for two steps."""
        arguments = {"max_steps": 2, "save_strategy": "no", "report_to": ["none"], "logging_steps": 1}
        config: dict[str, Any] = {
            "method": "sft",
            "data_conf": {
                "training_data": {"type": "CONCATENATION", "datasets": [{"path": DATA}]},
                "validation_data": {"type": "NONE"},
            },
            "training_args": arguments,
            "batchsize_conf": {
                "total_train_batch_size": self.batch * self.accumulation,
                "max_per_device_train_batch_size": self.batch,
            },
            "sft_args": {"max_seq_length": 4096},
        }
        for path, value in self.changes.items():
            *above, last = path.split(".")
            place = config
            for name in above:
                place = place.setdefault(name, {})
            place[last] = value
        return {"basemodel": MODEL, "checkpointsRemote": REMOTE, "gpuResource": "", "finetuning_config": config}


def lora(*modules: str, **kwargs: Any) -> dict[str, Any]:
    """Return the changes that train an adapter on some modules; all of a decoder's linear layers if none are named."""
    arguments = {"r": 16, "lora_alpha": 32, "target_modules": list(modules) or LINEAR, **kwargs}
    return {"peft_conf": {"peft_type": "LORA", "peft_kwargs": arguments}}


def make_folder(folder: Path, model: str, dtype: str) -> Path:
    """Make a model's folder if it does not exist."""
    if not folder.exists():
        shape = json.dumps(MODELS[model])
        command = [sys.executable, "-c", _MAKE, str(Path(__file__).parents[1]), str(folder), shape, dtype]
        subprocess.run(command, check=True, capture_output=True)
    return folder


def deliver_case(case: Case, models: Path, store: Path) -> None:
    """Write the model and the dataset as a delivery does."""
    from tuneyard.store import Manifest, open_store, upload_tree, write_manifest

    opened = open_store(store.as_uri())
    files = upload_tree(opened, make_folder(models / f"{case.model}-{case.dtype}", case.model, case.dtype), f"{MODEL}/")
    write_manifest(opened, f"{MODEL}/.tuneyard/manifest.json", Manifest(kind="model", files=tuple(files)))
    text = " ".join(["yard", "boat", "model", "tuned"] * case.words)[: 6 * case.words]
    row = {"messages": [{"role": "user", "content": text}, {"role": "assistant", "content": text}]}
    data = store.parent / "data"
    data.mkdir(parents=True)
    count = 2 * case.batch * case.accumulation
    (data / "chat.jsonl").write_text((json.dumps(row) + "\n") * count, encoding="utf-8")
    where, _, name = DATA.rpartition("/")
    files = upload_tree(opened, data, f"{where}/")
    write_manifest(opened, f"{where}/.tuneyard/{name}.manifest.json", Manifest(kind="dataset", files=tuple(files)))


def measured_peak(case: Case, store: Path, workdir: Path) -> int:
    """Train, and return the process's peak resident memory in bytes, as counted by the kernel."""
    path = write_values(workdir / "values.json", case.values())
    command = [sys.executable, "-c", _MEASURE, "-m", "tuneyard.train", str(path), "--workdir", str(workdir)]
    done = subprocess.run(command, env=environment(store), capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    return int(done.stdout.split()[-1]) * 1024


CASES: dict[str, Case] = {
    "full float32, adamw": Case("plain", 40, 2),
    "full float32, long rows in a large batch": Case("plain", 160, 4),
    "full float32, gradient checkpointing": Case("plain", 160, 4, {"training_args.gradient_checkpointing": True}),
    "full bfloat16": Case(
        "plain",
        40,
        2,
        {"run_conf": {"model_args": {"dtype": "bfloat16"}, "trained_weights": "as-loaded"}},
        "bfloat16",
    ),
    "full bfloat16, trained in float32": Case("plain", 40, 2, {}, "bfloat16"),
    "full float32, sgd": Case("plain", 40, 2, {"training_args.optim": "sgd"}),
    "full float32, adafactor": Case("plain", 40, 2, {"training_args.optim": "adafactor"}),
    "LoRA on every linear layer": Case("plain", 160, 4, lora()),
    "DoRA on two modules, grouped keys": Case("wide", 160, 2, lora("q_proj", "v_proj", use_dora=True)),
    "full float32, large vocabulary, whole text trained": Case(
        "wide", 100, 2, {"sft_args": {"train_on_completions_only": False, "max_seq_length": 4096}}, accumulation=2
    ),
    "full float32, bfloat16 autocast": Case("plain", 160, 4, {"training_args.bf16": True}),
    "full float32, rmsprop": Case("plain", 40, 2, {"training_args.optim": "rmsprop"}),
    "full float32, two micro-batches": Case("plain", 160, 2, accumulation=2),
    "LoRA on every linear layer, gradient checkpointing": Case(
        "plain", 160, 4, {**lora(), "training_args.gradient_checkpointing": True}
    ),
    "LoRA with dropout on a bfloat16 base": Case("plain", 160, 4, lora(lora_dropout=0.1), "bfloat16"),
    "GPT-2, full": Case("gpt2", 160, 2),
    "GPT-2, LoRA on every linear layer": Case("gpt2", 160, 4, lora("c_attn", "c_proj", "c_fc")),
    "mixture of experts, full": Case("moe", 160, 2),
    "mixture of experts, LoRA on attention": Case("moe", 160, 4, lora("q_proj", "k_proj", "v_proj", "o_proj")),
    "Mamba, full": Case("mamba", 20, 1),
    "Mamba, LoRA": Case("mamba", 20, 1, lora("in_proj", "x_proj")),
}
