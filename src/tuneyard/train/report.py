"""What a run publishes for people: the loss plot as SVG and PNG, and the model card."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

Metrics = Mapping[str, Any]


def plot_loss(rows: Sequence[Metrics], folder: Path, *, title: str, per: str = "trained token") -> list[Path]:
    """Draw training and validation loss over steps.

    Args:
        rows: Rows of `metrics.jsonl`.
        folder: Where `loss.svg` and `loss.png` go.
        title: The run's name.
        per: What the loss is the mean of.

    Returns:
        The files written; none where no loss was logged.
    """
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    train = [(row["step"], row["loss"]) for row in rows if row.get("kind") == "train"]
    validation = [(row["step"], row["eval_loss"]) for row in rows if row.get("kind") == "eval"]
    if not train and not validation:
        return []
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for points, label, style in ((train, "training", "-"), (validation, "validation", "o-")):
        if points:
            axes.plot(*zip(*points, strict=True), style, label=label, markersize=4)
    axes.set(title=title, xlabel="optimizer step", ylabel=f"loss per {per} (nats)")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend()
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / "loss.svg", folder / "loss.png"]
    # A fixed salt and no date: the same rows give the same bytes.
    with mpl.rc_context({"svg.hashsalt": title}):
        figure.savefig(files[0], metadata={"Date": None})
    figure.savefig(files[1], dpi=150, metadata={"Software": None})
    return files


def model_card(facts: Mapping[str, Any]) -> str:
    """Write the card that is published with the weights.

    Args:
        facts: `run`, `base`, `base_content_sha256`, `method`, `peft_type`, `datasets` (name → content SHA-256),
            `rows`, `trained_tokens`, `steps`, `epochs`, `train_loss`, `eval_loss` (or None), `seconds`,
            `learning_rate`, `total_batch_size`, `chat_template`, `config` (entries of the base's config.json that were
            trained with other values), `versions` (package → version).

    Returns:
        Markdown with the metadata block that model hubs read.
    """
    from huggingface_hub import ModelCardData

    adapter = facts["peft_type"] != "NO_PEFT"
    rows = "preferences" if facts["method"] == "dpo" else "conversations"
    data = ModelCardData(
        library_name="peft" if adapter else "transformers",
        tags=["tuneyard", facts["method"], *(["lora"] if facts["peft_type"] == "LORA" else [])],
        pipeline_tag="text-generation",
    )
    lines = [
        "---",
        data.to_yaml(),
        "---",
        f"# {facts['run']}",
        "",
        f"{'An adapter for' if adapter else 'A finetuned version of'} `{facts['base']}`, "
        f"trained with Tuneyard on {facts['rows']} {rows} ({facts['trained_tokens']} trained tokens an epoch).",
        "",
        "| what | value |",
        "| --- | --- |",
        f"| method | {facts['method']}, {facts['peft_type']} |",
        f"| base model content | `{facts['base_content_sha256']}` |",
        *(f"| data `{name}` | `{digest}` |" for name, digest in facts["datasets"].items()),
        f"| chat template | {facts['chat_template']} |",
        *(
            f"| config.json `{name}`, changed | `{json.dumps(value, sort_keys=True)}` |"
            for name, value in facts["config"].items()
        ),
        f"| optimizer steps | {facts['steps']} ({facts['epochs']:g} epochs of {facts['total_batch_size']} per step) |",
        f"| learning rate | {facts['learning_rate']:g} |",
        f"| training loss, mean | {facts['train_loss']:.4f} |",
    ]
    if facts.get("eval_loss") is not None:
        lines.append(f"| validation loss, last | {facts['eval_loss']:.4f} |")
    lines.append(f"| training time | {facts['seconds']:.0f} s |")
    lines += [f"| {package} | {version} |" for package, version in facts["versions"].items()]
    return "\n".join(lines) + "\n"


def merged_card(card: str, check: Mapping[str, Any]) -> str:
    """Make the card of a merged model from that of its adapter.

    Args:
        card: What `model_card` wrote.
        check: The fields of `MergeCheck`.
    """
    card = card.replace("library_name: peft", "library_name: transformers", 1)
    card = card.replace("\nAn adapter for `", "\nAn adapter, merged into `", 1)
    lines = [
        f"| weights | merged in float32, written as {check['dtype']} |",
        f"| compared with the adapter in float32 | logits within {check['logits']:.1e} of the largest one, "
        f"{check['answer_tokens']} tokens of greedy answers the same |",
    ]
    if check["dtype"] != "float32":
        lines.append(
            f"| divergence due to {check['dtype']}, nats per token over {check['positions']} | {check['kl']:.1e}; "
            f"of the adapter {check['kl_adapter']:.1e}, of the base {check['kl_base']:.1e} |"
        )
    return card + "\n".join(lines) + "\n"
