"""Measure how often a correct merge is refused and a broken one accepted, with LoRA on all linear layers in bfloat16.

    python benchmarks/merges.py --model FOLDER --rows FILE.jsonl     # adapters trained on these rows
    python benchmarks/merges.py --tiny                               # random adapters on many tiny architectures

Prints each merge and, at the end, the counts and the largest ratio of the merged model's typical loss from rounding
to its dtype to that of the adapter or the base model. `merge.FACTOR` is the largest ratio that is accepted.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from lab.broken_merges import EMBEDDINGS, MERGES, SAVES, broken
from tuneyard.errors import IntegrityError
from tuneyard.train.agreement import Text
from tuneyard.train.merge import merge_adapter

STEPS = 4
ROW_TOKENS = 128
TINY = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 500}
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "llama": {"intermediate_size": 128, "num_key_value_heads": 2},
    "qwen2": {"intermediate_size": 128, "num_key_value_heads": 2, "tie_word_embeddings": True},
    "qwen3": {"intermediate_size": 128, "num_key_value_heads": 2, "head_dim": 16},
    "gemma2": {"intermediate_size": 128, "num_key_value_heads": 2, "head_dim": 16},
    "phi3": {"intermediate_size": 128, "num_key_value_heads": 2, "pad_token_id": 0},
    "olmo2": {"intermediate_size": 128, "num_key_value_heads": 2, "pad_token_id": 0},
    "gpt_neox": {"intermediate_size": 128},
    "gpt2": {},
    "mixtral": {"intermediate_size": 128, "num_key_value_heads": 2, "num_local_experts": 4},
}
ROTARY = ("llama", "qwen2", "qwen3", "phi3", "olmo2", "mixtral")
"""Architectures with a single rotary embedding; only for these is a wrong one written."""


class Tally:
    """Count outcomes and keep the ratios of correct merges."""

    def __init__(self) -> None:
        self.outcomes: Counter[tuple[str, str]] = Counter()
        self.ratios: list[float] = []

    def merge(
        self, what: str, kind: str, base: Path, adapter: Path, prompts: list[list[int]], texts: list[Text]
    ) -> None:
        """Merge once, broken in the way that `kind` names, or correctly if it is `right`."""
        with tempfile.TemporaryDirectory() as folder:
            try:
                with broken(kind):
                    check = merge_adapter(base, adapter, Path(folder) / "merged", prompts, texts=texts)
            except IntegrityError as error:
                self.outcomes[kind, "refused"] += 1
                print(f"{what}: {kind}: refused: {error.message[:110]}", flush=True)
                return
        self.outcomes[kind, "accepted"] += 1
        ratio = check.kl_typical / max(check.kl_typical_adapter, check.kl_typical_base)
        mean = check.kl / max(check.kl_adapter, check.kl_base)
        if kind == "right":
            self.ratios.append(ratio)
        facts = f"ratio {ratio:.2f}, of means {mean:.2f}, choices {check.choices}/{check.positions}"
        exact = f"float32 {check.logits:.1e}, effect {check.effect:.1e}"
        print(f"{what}: {kind}: accepted: {facts}, {exact}", flush=True)

    def report(self) -> None:
        """Print the counts."""
        for (kind, outcome), count in sorted(self.outcomes.items()):
            print(f"{kind:45} {outcome:9} {count}")
        ratios = torch.tensor(self.ratios)
        print(f"ratios of correct merges: median {ratios.median():.2f}, largest {ratios.max():.2f}")


def random_texts(seed: int) -> tuple[list[list[int]], list[Text]]:
    """Make prompts and held-out texts of random tokens."""
    generator = torch.Generator().manual_seed(seed)
    rows = [torch.randint(0, TINY["vocab_size"], (ROW_TOKENS,), generator=generator).tolist() for _ in range(8)]
    return [row[:16] for row in rows[:4]], [Text(row, 64) for row in rows]


def tiny_base(kind: str, folder: Path, seed: int) -> Path:
    """Write a tiny random model with weights larger than the initial ones, as after training."""
    config = AutoConfig.for_model(kind, **TINY, **ARCHITECTURES[kind])
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim() > 1 and "embed" not in name:
                weight.mul_(4)
    model.to(torch.bfloat16).save_pretrained(folder)
    return folder


def random_adapter(base: Path, folder: Path, seed: int, rank: int, scale: float, targets: Any) -> Path:
    """Write a random adapter."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    adapted = get_peft_model(
        model, LoraConfig(task_type="CAUSAL_LM", r=rank, lora_alpha=2 * rank, target_modules=targets)
    )
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "lora_B" in name or "lora_embedding" in name:
                weight.normal_(0, scale)
    adapted.save_pretrained(folder)
    return folder


def tiny(tally: Tally) -> None:
    """Merge random adapters into tiny models, correctly and broken."""
    for kind in ARCHITECTURES:
        for seed, rank, scale in itertools.product(range(3), (4, 32), (0.005, 0.03)):
            with tempfile.TemporaryDirectory() as name:
                base = tiny_base(kind, Path(name) / "base", seed)
                adapter = random_adapter(base, Path(name) / "adapter", seed, rank, scale, "all-linear")
                prompts, texts = random_texts(seed)
                what = f"{kind} seed {seed} rank {rank} scale {scale}"
                kinds = [
                    "right",
                    *(MERGES if seed == 0 and rank == 4 else ()),
                    *(SAVES if seed == 1 and rank == 4 else ()),
                ]
                for way in kinds:
                    if way != "another rotation is written" or kind in ROTARY:
                        tally.merge(what, way, base, adapter, prompts, texts)
                if kind == "llama" and rank == 4:
                    targets = ["q_proj", "embed_tokens", "lm_head"]
                    adapter = random_adapter(base, Path(name) / "embeddings", seed, rank, scale, targets)
                    for way in ("right", *EMBEDDINGS, "the head is lost"):
                        tally.merge(f"{what}, embeddings", way, base, adapter, prompts, texts)


def encoded(base: Path, rows: Path) -> list[list[int]]:
    """Encode conversations with the model's template."""
    tokenizer = AutoTokenizer.from_pretrained(base)
    texts: list[list[int]] = []
    for line in itertools.islice(rows.open(encoding="utf-8"), 400):
        text = tokenizer.apply_chat_template(json.loads(line)["messages"], tokenize=False)
        ids = tokenizer(text, add_special_tokens=False)["input_ids"][:ROW_TOKENS]
        if len(ids) >= ROW_TOKENS // 2:
            texts.append(ids)
    return texts


def trained(base: Path, rows: list[list[int]], folder: Path) -> Iterator[tuple[str, Path]]:
    """Train adapters of several ranks, rates and seeds for a few steps."""
    for seed, (rank, rate) in enumerate(itertools.product((8, 64), (1e-3, 4e-3))):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
        config = LoraConfig(task_type="CAUSAL_LM", r=rank, lora_alpha=2 * rank, target_modules="all-linear")
        adapted = get_peft_model(model, config)
        optimizer = torch.optim.AdamW((w for w in adapted.parameters() if w.requires_grad), lr=rate)
        for step in range(STEPS):
            ids = torch.tensor([rows[(seed * STEPS + step) % len(rows)]])
            adapted(input_ids=ids, labels=ids).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        target = folder / f"rank-{rank}-rate-{rate}-seed-{seed}"
        adapted.save_pretrained(target)
        del model, adapted, optimizer
        yield target.name, target


def real(base: Path, file: Path, tally: Tally) -> None:
    """Merge trained adapters into a real model, correctly and broken."""
    rows = encoded(base, file)
    texts = [Text(row, 64) for row in rows[:8]]
    prompts = [row[: ROW_TOKENS // 2] for row in rows[:4]]
    with tempfile.TemporaryDirectory() as name:
        for number, (what, adapter) in enumerate(trained(base, rows[8:], Path(name))):
            tally.merge(what, "right", base, adapter, prompts, texts)
            kinds = [*MERGES, *SAVES]
            for way in kinds if number == 0 else [kinds[number % len(kinds)]]:
                tally.merge(what, way, base, adapter, prompts, texts)


def main() -> None:
    """Merge tiny models or a real one, and report."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", type=Path)
    parser.add_argument("--rows", type=Path)
    parser.add_argument("--tiny", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    tally = Tally()
    if options.tiny:
        tiny(tally)
    else:
        real(options.model, options.rows, tally)
    tally.report()


if __name__ == "__main__":
    main()
