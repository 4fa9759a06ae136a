"""A merged model computes what the adapter computes, or it is not published."""

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from tiny_models import make_model
from transformers import AutoModelForCausalLM

from tuneyard.errors import IntegrityError
from tuneyard.train.merge import merge_adapter

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
    difference = merge_adapter(base, adapter, tmp_path / "merged", SAMPLES)
    assert difference < 1e-5
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
