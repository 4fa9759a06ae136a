"""What a run leaves for people: the loss plot as SVG and PNG, and the model card."""

from __future__ import annotations

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
    """Write the card that lies beside published weights.

    Args:
        facts: `run`, `base`, `base_content_sha256`, `method`, `peft_type`, `datasets` (name → content SHA-256),
            `rows`, `trained_tokens`, `steps`, `epochs`, `train_loss`, `eval_loss` (or None), `seconds`,
            `learning_rate`, `total_batch_size`, `chat_template`, `versions` (package → version).

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
        f"| optimizer steps | {facts['steps']} ({facts['epochs']:g} epochs of {facts['total_batch_size']} per step) |",
        f"| learning rate | {facts['learning_rate']:g} |",
        f"| training loss, mean | {facts['train_loss']:.4f} |",
    ]
    if facts.get("eval_loss") is not None:
        lines.append(f"| validation loss, last | {facts['eval_loss']:.4f} |")
    lines.append(f"| training time | {facts['seconds']:.0f} s |")
    lines += [f"| {package} | {version} |" for package, version in facts["versions"].items()]
    return "\n".join(lines) + "\n"
