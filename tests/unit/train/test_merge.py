"""A merged model computes what the adapter computes, or it is not published."""

import json
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM

from lab.broken_merges import MERGES, SAVES, broken
from lab.tiny_models import make_model
from tuneyard.errors import IntegrityError
from tuneyard.train.agreement import Distance, distance, other_choices
from tuneyard.train.merge import (
    ANSWER_TOKENS,
    FACTOR,
    TOLERANCE,
    UNLIKELY,
    MergeStopped,
    _check_cast,
    _check_exact,
    _poisson_bound,
    merge_adapter,
)

SAMPLES = [[5, 6, 7, 8], [9, 10]]


@pytest.fixture(params=["float32", "bfloat16"])
def base(request, tmp_path):
    folder = make_model(tmp_path / "base")
    dtype = getattr(torch, request.param)
    AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).save_pretrained(folder)
    return folder


@pytest.fixture
def adapter(base, tmp_path):
    return lora(base, tmp_path / "adapter")


def lora(base, folder, scale=0.1):
    model = get_peft_model(
        AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32),
        LoraConfig(task_type="CAUSAL_LM", r=4, target_modules=["q_proj", "down_proj"]),
    )
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.copy_(torch.randn(weight.shape, generator=generator) * scale)
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


def test_an_adapter_without_effect_differs_from_one_with_effect(base, adapter, tmp_path):
    merge_adapter(base, adapter, tmp_path / "merged", SAMPLES)
    plain, merged = (AutoModelForCausalLM.from_pretrained(folder).float() for folder in (base, tmp_path / "merged"))
    assert (logits(plain)[0] - logits(merged)[0]).abs().max() > 1e-3


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
    assert check.kl < FACTOR * max(check.kl_adapter, check.kl_base) < 1e-4
    adapted = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), adapter)
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    assert merged.dtype == torch.bfloat16
    for one, other in zip(logits(merged), logits(adapted.eval()), strict=True):
        assert (one.float() - other).abs().max() < 2e-2 * other.abs().max()


REASONS = {
    **dict.fromkeys(MERGES, "The merged model's logits differ from the adapter's"),
    **dict.fromkeys(SAVES, "The written model's weights differ from the merged ones"),
    "another rotation is written": "With the config.json that was written",
}


@pytest.mark.parametrize("base", ["bfloat16"], indirect=True)
@pytest.mark.parametrize("kind", [*MERGES, *SAVES])
def test_a_broken_merge_is_refused_and_writes_nothing(base, adapter, tmp_path, kind):
    with broken(kind), pytest.raises(IntegrityError) as caught:
        merge_adapter(base, adapter, tmp_path / "merged", SAMPLES)
    assert REASONS[kind] in caught.value.message
    assert caught.value.exit_code == 7
    assert not (tmp_path / "merged").exists()


@pytest.mark.parametrize("base", ["bfloat16"], indirect=True)
@pytest.mark.parametrize("factor", [1.1, 0.9])
def test_a_tenth_of_a_weak_adapter_is_missed(base, tmp_path, factor):
    """Its effect is close to the tolerance, so the tolerance alone would accept a loss of a tenth of it."""
    adapter = lora(base, tmp_path / "adapter", scale=0.002)
    check = merge_adapter(base, adapter, tmp_path / "merged", SAMPLES)
    assert check.effect < 10 * TOLERANCE
    with broken(f"scaled by {factor}"), pytest.raises(IntegrityError, match="differ from the adapter's"):
        merge_adapter(base, adapter, tmp_path / "again", SAMPLES)


def test_the_loss_of_an_adapter_on_the_embeddings_is_refused(tmp_path):
    base = make_model(tmp_path / "base")
    adapter = trained_adapter(base, tmp_path / "adapter", target_modules=["q_proj", "embed_tokens"])
    with broken("the change of the embeddings is lost"), pytest.raises(IntegrityError, match="differ"):
        merge_adapter(base, adapter, tmp_path / "merged", SAMPLES)


def distances(kl: float, choices: int = 0, *, typical: float = 1e-3, error: float = 1e-5) -> Distance:
    return Distance(kl, error, typical, choices, positions=640)


def test_a_merged_model_may_lose_what_the_adapter_or_the_base_loses_by_the_cast():
    lost, none = distances(1e-3, 10), distances(1e-5, typical=1e-5)
    _check_cast(distances(1.9e-3, 14, typical=1.9e-3), lost, none, torch.bfloat16)
    _check_cast(distances(1.9e-3, 14, typical=1.9e-3), none, lost, torch.bfloat16)
    with pytest.raises(
        IntegrityError, match=r"diverges from the adapter by 2\.10e-03 nats per token \(typical"
    ) as caught:
        _check_cast(distances(1e-3, 14, typical=2.1e-3), lost, lost, torch.bfloat16)
    assert "allowed: 2.0e-03" in caught.value.message
    with pytest.raises(IntegrityError, match=r"by 2\.10e-03 nats per token \(mean"):
        _check_cast(distances(2.1e-3, 14), lost, lost, torch.bfloat16)
    with pytest.raises(IntegrityError, match="60 of 640 greedy tokens"):
        _check_cast(distances(1e-3, 60), lost, lost, torch.bfloat16)
    with pytest.raises(IntegrityError):
        _check_cast(distances(float("nan")), lost, lost, torch.bfloat16)
    with pytest.raises(IntegrityError):
        _check_cast(distances(1e-3, typical=float("nan")), lost, lost, torch.bfloat16)


def test_single_tokens_that_make_up_a_mean_refuse_nothing():
    """As on SmolLM2-135M, where one token of 640 was half of a correct merge's mean."""
    lost = distances(1e-3, 10)
    _check_cast(distances(2.8e-3, 14, error=1.2e-3), lost, lost, torch.bfloat16)


def test_other_greedy_tokens_are_allowed_within_the_poisson_bound():
    """Against the incomplete gamma function, which is the sum of a Poisson distribution's tail."""

    def beyond(count: float, mean: float) -> float:
        return float(torch.special.gammainc(torch.tensor(count + 1.0).double(), torch.tensor(mean).double()))

    for mean in (0.5, 3.0, 15.6, 80.0):
        bound = _poisson_bound(mean, limit=640)
        assert beyond(bound, mean) < UNLIKELY <= beyond(bound - 1, mean)
    assert _poisson_bound(1e4, limit=640) == 640


def test_distances_are_those_of_the_formula():
    generator = torch.Generator().manual_seed(3)
    one, other = (torch.randn(5, 11, generator=generator) for _ in range(2))
    found = distance([one[:2], one[2:]], [other[:2], other[2:]])
    log_p, log_q = one.log_softmax(-1), other.log_softmax(-1)
    expected = torch.nn.functional.kl_div(log_q, log_p, log_target=True, reduction="batchmean")
    each = (log_p.exp() * (log_p - log_q)).sum(-1)
    assert found.kl == pytest.approx(float(expected), rel=1e-5)
    assert found.kl_typical == pytest.approx(float(each.prod() ** (1 / 5)), rel=1e-5)
    assert found.kl_error == pytest.approx(float(each.std(correction=0) / 5**0.5), rel=1e-5)
    assert found.choices == int((one.argmax(-1) != other.argmax(-1)).sum())
    assert found.positions == 5


def test_a_greedy_token_that_is_not_a_tie_is_another_answer():
    logits = torch.tensor([[2.0, 1.0, 1.99999]])
    near, far = torch.tensor([[1.99999, 1.0, 2.0]]), torch.tensor([[1.0, 2.0, 1.0]])
    assert other_choices([logits], [near], tie=1e-4) == 0
    assert other_choices([logits], [far], tie=1e-4) == 1
    with pytest.raises(IntegrityError, match="greedy answers differ from the adapter's"):
        _check_exact([torch.tensor([[2.0, 1.999]])], [torch.tensor([[1.9992, 1.9995]])], effect=1.0)


def test_a_stopped_merge_leaves_no_files(base, adapter, tmp_path):
    answers = iter([False] * 40)
    with pytest.raises(MergeStopped):
        merge_adapter(base, adapter, tmp_path / "merged", SAMPLES, stop=lambda: next(answers, True))
    assert not (tmp_path / "merged").exists()


SMALL_MOE = {
    "hidden_size": 32, "intermediate_size": 64, "moe_intermediate_size": 16, "num_hidden_layers": 2, "vocab_size": 100,
    "num_attention_heads": 2, "num_key_value_heads": 2, "n_routed_experts": 4, "n_group": 1, "topk_group": 1,
    "num_experts_per_tok": 2, "first_k_dense_replace": 1, "kv_lora_rank": 8, "q_lora_rank": 8, "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8, "v_head_dim": 16, "head_dim": 8,
}  # fmt: skip


def test_weights_that_stay_float32_in_a_bfloat16_model_are_written_as_float32(tmp_path):
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model("deepseek_v3", **SMALL_MOE)).to(torch.bfloat16)
    kept = "model.layers.1.mlp.gate.e_score_correction_bias"
    bias = model.get_buffer(kept)
    bias.data = 1 + 1e-3 * torch.arange(4)  # bfloat16 has no numbers between 1 and 1.0078
    model.save_pretrained(tmp_path / "base")
    adapter = trained_adapter(tmp_path / "base", tmp_path / "adapter", target_modules=["o_proj", "down_proj"])
    merge_adapter(tmp_path / "base", adapter, tmp_path / "merged", SAMPLES)
    written = load_file(tmp_path / "merged" / "model.safetensors")
    torch.testing.assert_close(written[kept], bias)
    assert {weight.dtype for name, weight in written.items() if name != kept} == {torch.bfloat16}


@pytest.mark.parametrize("base", ["float32"], indirect=True)
def test_the_merged_model_has_the_settings_that_the_adapter_was_trained_with(base, adapter, tmp_path):
    entries = {"rope_parameters": {"rope_type": "default", "rope_theta": 500.0}}
    merge_adapter(base, adapter, tmp_path / "merged", SAMPLES, entries=entries)
    written = json.loads((tmp_path / "merged" / "config.json").read_text())
    assert written["rope_parameters"] == entries["rope_parameters"]
    changed = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32, **entries)
    adapted = PeftModel.from_pretrained(changed, adapter).eval()
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged").float()
    plain = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    for one, other, third in zip(
        logits(merged), logits(adapted), logits(PeftModel.from_pretrained(plain, adapter)), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)
        assert (third - other).abs().max() > 1e-4
