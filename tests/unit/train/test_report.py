"""The plot shows exactly the measured losses, and hubs can read the card."""

from huggingface_hub import ModelCard

from tuneyard.train.report import model_card, plot_loss

TRAIN = [{"kind": "train", "step": step, "loss": 3.0 / step} for step in (1, 2, 3)]
SUMMARY = {"kind": "summary", "step": 3, "train_loss": 1.8, "eval_loss": None}
FACTS = {
    "run": "facts",
    "base": "default-bucket/models/tiny",
    "base_content_sha256": "ab" * 32,
    "method": "sft",
    "peft_type": "LORA",
    "datasets": {"default-bucket/datasets/chat.jsonl": "cd" * 32},
    "rows": 20,
    "trained_tokens": 257,
    "steps": 10,
    "epochs": 2.0,
    "total_batch_size": 4,
    "learning_rate": 0.01,
    "train_loss": 1.5,
    "eval_loss": None,
    "seconds": 12.4,
    "chat_template": "keep-original",
    "config": {},
    "versions": {"torch": "2.13.0"},
}


def test_a_plot_without_validation_has_no_validation_line(tmp_path):
    svg, png = plot_loss([*TRAIN, SUMMARY], tmp_path, title="facts")
    assert png.read_bytes().startswith(b"\x89PNG")
    evaluated = [*TRAIN, {"kind": "eval", "step": 2, "eval_loss": 2.0}, SUMMARY]
    with_validation, _ = plot_loss(evaluated, tmp_path / "other", title="facts")
    assert len(with_validation.read_bytes()) > len(svg.read_bytes())


def test_the_same_rows_give_the_same_bytes(tmp_path):
    first, second = (plot_loss(TRAIN, tmp_path / name, title="facts") for name in ("a", "b"))
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]


def test_no_loss_gives_no_plot(tmp_path):
    assert plot_loss([SUMMARY], tmp_path, title="facts") == []


def test_the_card_has_metadata_and_names_the_inputs():
    card = ModelCard(model_card(FACTS))
    assert card.data.library_name == "peft"
    assert {"tuneyard", "sft", "lora"} <= set(card.data.tags)
    assert FACTS["base_content_sha256"] in card.text
    assert "validation loss" not in card.text
    assert "validation loss, last | 0.5000" in model_card({**FACTS, "eval_loss": 0.5})
