"""A merged model computes what the adapter computes, or it is not published."""

from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from tiny_models import make_model
from transformers import AutoModelForCausalLM

from tuneyard.errors import IntegrityError
from tuneyard.train.merge import ANSWER_TOKENS, merge_adapter

SAMPLES = [[5, 6, 7, 8], [9, 10]]


@pytest.fixture(params=["float32", "bfloat16"])
def base(request, tmp_path):
    folder = make_model(tmp_path / "base")
    dtype = getattr(torch, request.param)
    AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).save_pretrained(folder)
    return folder


@pytest.fixture
def adapter(base, tmp_path):
    model = get_peft_model(
        AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32),
        LoraConfig(task_type="CAUSAL_LM", r=4, target_modules=["q_proj", "down_proj"]),
    )
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.copy_(torch.randn(weight.shape, generator=generator) * 0.1)
    folder = tmp_path / "adapter"
    model.save_pretrained(folder)
    return folder


def logits(model):
    with torch.no_grad():
        return [model(input_ids=torch.tensor([sample])).logits for sample in SAMPLES]


def test_the_merged_model_has_the_bases_dtype_and_the_adapters_logits(base, adapter, tmp_path):
    check = merge_adapter(base, adapter, tmp_path / "merged", SAMPLES)
    assert check.logits < 1e-5
    assert check.answer_tokens == 2 * ANSWER_TOKENS
    dtype = AutoModelForCausalLM.from_pretrained(base).dtype
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    assert merged.dtype == dtype
    adapted = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), adapter)
    tolerance = {"rtol": 1e-4, "atol": 1e-4} if dtype == torch.float32 else {"rtol": 5e-2, "atol": 5e-2}
    for one, other in zip(logits(merged.float()), logits(adapted), strict=True):
        torch.testing.assert_close(one, other, **tolerance)


def test_an_adapter_that_changes_nothing_is_told_from_one_that_does(base, adapter, tmp_path):
    merge_adapter(base, adapter, tmp_path / "merged", SAMPLES)
    plain, merged = (AutoModelForCausalLM.from_pretrained(folder).float() for folder in (base, tmp_path / "merged"))
    assert (logits(plain)[0] - logits(merged)[0]).abs().max() > 1e-3


def test_a_merge_that_computes_something_else_is_refused_and_writes_nothing(base, adapter, tmp_path):
    with pytest.raises(IntegrityError, match="differ from the adapter's by"):
        merge_adapter(base, adapter, tmp_path / "merged", SAMPLES, tolerance=0.0)
    assert not (tmp_path / "merged").exists()


EMBEDDINGS = {
    "input embeddings trained": {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"]},
    "output embeddings trained": {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]},
    "both trained": {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens", "lm_head"]},
    "both trained as one": {
        "target_modules": ["q_proj"],
        "modules_to_save": ["embed_tokens", "lm_head"],
        "ensure_weight_tying": True,
    },
    "input embeddings adapted": {"target_modules": ["q_proj", "embed_tokens"]},
    "input embeddings adapted and tied": {"target_modules": ["q_proj", "embed_tokens"], "ensure_weight_tying": True},
    "output embeddings adapted": {"target_modules": ["q_proj", "lm_head"]},
    "both adapted": {"target_modules": ["embed_tokens", "lm_head"]},
    "added tokens trained": {"target_modules": ["q_proj"], "trainable_token_indices": [3, 4]},
    "DoRA": {"target_modules": ["q_proj", "down_proj"], "use_dora": True},
    "rank-stabilized": {"target_modules": ["q_proj", "down_proj"], "use_rslora": True},
}


def trained_adapter(base: Path, folder: Path, **kwargs: object) -> Path:
    model = get_peft_model(
        AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32),
        LoraConfig(task_type="CAUSAL_LM", r=4, **kwargs),  # pyright: ignore[reportArgumentType]
    )
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in (weight for weight in model.parameters() if weight.requires_grad):
            weight.add_(torch.randn(weight.shape, generator=generator) * 0.05)
    model.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("kind", EMBEDDINGS)
def test_what_is_trained_of_the_embeddings_is_in_the_written_model(tmp_path, kind, tied):
    base = make_model(tmp_path / "base", tied=tied)
    AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16).save_pretrained(base)
    adapter = trained_adapter(base, tmp_path / "adapter", **EMBEDDINGS[kind])
    check = merge_adapter(base, adapter, tmp_path / "merged", SAMPLES)
    assert check.logits < 1e-5
    assert check.served_logits < 2e-2
    adapted = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), adapter)
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    assert merged.dtype == torch.bfloat16
    for one, other in zip(logits(merged), logits(adapted.eval()), strict=True):
        assert (one.float() - other).abs().max() < 2e-2 * other.abs().max()


def test_a_model_that_is_written_wrong_is_refused_and_removed(base, adapter, tmp_path, monkeypatch):
    # as a save that ties two embeddings which training made two would lose one
    from transformers import LlamaForCausalLM

    save = LlamaForCausalLM.save_pretrained

    def lose(model: LlamaForCausalLM, folder: Path) -> None:
        with torch.no_grad():
            model.lm_head.weight.zero_()
        save(model, folder)

    monkeypatch.setattr(LlamaForCausalLM, "save_pretrained", lose)
    with pytest.raises(IntegrityError, match="written model's logits differ") as caught:
        merge_adapter(base, adapter, tmp_path / "merged", SAMPLES)
    assert "5e-02" in str(caught.value)
    assert not (tmp_path / "merged").exists()


def test_a_merged_model_that_answers_otherwise_is_refused(base, adapter, tmp_path, monkeypatch):
    from tuneyard.train import merge

    logits_of = merge._logits
    monkeypatch.setattr(merge, "_logits", lambda model, ids: logits_of(model, ids).roll(int(is_merged(model)), -1))
    with pytest.raises(IntegrityError, match="greedy answers are not the adapter's"):
        merge_adapter(base, adapter, tmp_path / "merged", SAMPLES, tolerance=10)


def is_merged(model: torch.nn.Module) -> bool:
    return not isinstance(model, PeftModel)
