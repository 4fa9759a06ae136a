"""A traced micro-batch has the operations and bytes of a real one, by torch's own counters on the real model."""

from __future__ import annotations

import copy
import inspect
from contextlib import suppress

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch.autograd.graph import saved_tensors_hooks
from torch.nn.functional import cross_entropy
from torch.utils.flop_counter import FlopCounterMode

from lab.tiny_architectures import NOT_BUILT, build, kinds
from tuneyard.network.attention import PER_CONVERSATION
from tuneyard.network.forms import Forward
from tuneyard.network.recording import Conversation, Stage
from tuneyard.network.tracing import trace_step

TOKENS = 32
TARGETS = TOKENS - 1
NAMES = [
    "BloomForCausalLM",
    "DeepseekV3ForCausalLM",
    "FalconForCausalLM",
    "GPT2LMHeadModel",
    "GPTNeoXForCausalLM",
    "Gemma2ForCausalLM",
    "GptOssForCausalLM",
    "Lfm2ForCausalLM",
    "LlamaForCausalLM",
    "Mamba2ForCausalLM",
    "MambaForCausalLM",
    "MixtralForCausalLM",
    "MptForCausalLM",
    "OPTForCausalLM",
    "Phi3ForCausalLM",
    "Qwen2MoeForCausalLM",
    "Qwen3NextForCausalLM",
]
UNTRACED = {"DbrxForCausalLM", "JetMoeForCausalLM", "LongcatFlashForCausalLM", "XmodForCausalLM"}
"""Their passes depend on how many tokens go to which expert."""
UNLIKE = {"RemBertForCausalLM": "its head is computed twice", "InklingForCausalLM": "", "CTRLLMHeadModel": ""}


def built(name, **settings):
    model = build(name, **settings)
    assert model is not None
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return model.train()


def loss_of(model, inner):
    """The summed loss of one conversation, whose every token but the first is a target."""
    ids = torch.arange(TOKENS)[None] % 90
    selects = "logits_to_keep" in inspect.signature(inner.forward).parameters
    chosen = {"logits_to_keep": torch.arange(TARGETS)} if selects else {}
    logits = model(input_ids=ids, use_cache=False, **chosen).logits[0, :TARGETS]
    return cross_entropy(logits.float(), ids[0, 1:], reduction="sum")


def counted_flops(model, inner):
    """Operations of a real pass; torch's counter knows products of matrices, so attention and experts are those."""
    for choose in (inner.set_attn_implementation, inner.set_experts_implementation):
        with suppress(ValueError, NotImplementedError, KeyError):
            choose("eager")
    with FlopCounterMode(display=False) as counter:
        loss_of(model, inner).backward()
    return counter.get_total_flops()


def kept_bytes(model):
    """Bytes that a real forward pass keeps for the backward pass, weights aside."""
    weights = {one.untyped_storage().data_ptr() for one in (*model.parameters(), *model.buffers())}
    kept = {}

    def note(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage
        return tensor

    with saved_tensors_hooks(note, lambda tensor: tensor):
        loss = loss_of(model, model)
    del loss
    return sum(storage.nbytes() for storage in kept.values())


def traced(model, inner=None, **how):
    return trace_step(model.to("meta"), inner or model, [Conversation(TOKENS, TARGETS)], **how)


@pytest.mark.parametrize("name", NAMES)
def test_operations_are_those_that_torch_counts(name):
    model = built(name)
    real = copy.deepcopy(model)
    assert traced(model).trace.flops == pytest.approx(counted_flops(real, real), rel=0.1)


def test_operations_are_two_for_each_weight_and_token_and_twice_that_backward():
    model = built("LlamaForCausalLM")
    head = model.get_output_embeddings().weight.numel()
    linear = sum(one.weight.numel() for one in model.modules() if isinstance(one, torch.nn.Linear)) - head
    layers, width = model.config.num_hidden_layers, model.config.num_attention_heads * model.config.head_dim
    attention = 2 * 2 * TOKENS**2 * width * layers  # scores, and their product with the values
    backward = attention * 5 / 2  # the scores once more, and the gradients of both products
    expected = 6 * (linear * TOKENS + head * TARGETS) + attention + backward
    assert traced(model).trace.flops == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_operations_of_an_adapter_are_those_that_torch_counts(checkpointing):
    def adapted():
        base = built("LlamaForCausalLM")
        if checkpointing:
            base.gradient_checkpointing_enable()
            base.enable_input_require_grads()
        return get_peft_model(base, LoraConfig(task_type="CAUSAL_LM", r=4, target_modules="all-linear"))

    model, real = adapted(), adapted()
    inner = real.get_base_model()
    found = traced(model, model.get_base_model()).trace.flops
    assert found == pytest.approx(counted_flops(real, inner), rel=0.1)


def test_only_the_experts_that_a_token_uses_are_computed():
    few, all_of_them = (built("MixtralForCausalLM", num_experts_per_tok=count) for count in (1, 4))
    layers, hidden, inside = few.config.num_hidden_layers, few.config.hidden_size, few.config.intermediate_size
    expert = 6 * TOKENS * layers * 3 * hidden * inside
    assert traced(all_of_them).trace.flops - traced(few).trace.flops == pytest.approx(3 * expert, rel=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_traced_activations_are_those_that_autograd_saves(name):
    model = built(name)
    if name not in ("BloomForCausalLM", "FalconForCausalLM", "MptForCausalLM"):  # they have an attention of their own
        model.set_attn_implementation(PER_CONVERSATION)
    real = copy.deepcopy(model)
    selects = "logits_to_keep" in inspect.signature(model.forward).parameters
    recording = Stage(model.to("meta"), None, False).run(Forward(selects=selects), [Conversation(TOKENS, TARGETS)])
    kept, most = recording.trace(at_turn=True), recording.trace()
    softmax = 4 * TARGETS * real.get_output_embeddings().weight.shape[0]
    assert kept.activations + softmax == pytest.approx(kept_bytes(real), rel=0.05)
    assert 2 * softmax <= kept.logits <= 4 * softmax  # logits and their softmax, then gradients of both
    assert most.activations + most.logits + most.gradients >= kept.activations + softmax


def test_a_step_with_checkpointing_keeps_less_and_computes_more():
    plain, checkpointed = built("LlamaForCausalLM"), built("LlamaForCausalLM")
    checkpointed.gradient_checkpointing_enable()
    before, after = traced(plain).trace, traced(checkpointed).trace
    assert after.activations < 0.7 * before.activations
    assert 1.2 * before.flops < after.flops < 4 / 3 * before.flops


def test_autocast_keeps_copies_of_weights_and_halves_activations():
    plain, half = built("LlamaForCausalLM"), built("LlamaForCausalLM")
    linear = sum(one.weight.numel() for one in half.modules() if isinstance(one, torch.nn.Linear))
    before, after = traced(plain).trace, traced(half, autocast="bfloat16").trace
    assert after.casts == pytest.approx(2 * linear, rel=0.02)
    assert after.activations < 0.8 * before.activations


def test_gradients_of_an_earlier_micro_batch_are_reused():
    assert traced(built("LlamaForCausalLM"), accumulates=True).trace.gradients == 0


def test_conversations_of_a_row_add_up():
    two = trace_step(*[built("LlamaForCausalLM").to("meta")] * 2, [Conversation(40, 20)] * 2)
    one = trace_step(*[built("LlamaForCausalLM").to("meta")] * 2, [Conversation(40, 20)])
    assert two.tokens == 2 * one.tokens
    assert two.trace.flops == pytest.approx(2 * one.trace.flops)
    assert two.trace.activations == pytest.approx(2 * one.trace.activations, rel=0.1)


@pytest.mark.parametrize(("name", "noted"), [("MambaForCausalLM", True), ("LlamaForCausalLM", False)])
def test_one_conversation_at_a_time_is_assumed_unless_every_layer_isolates_them(name, noted):
    model = built(name).to("meta")
    found = trace_step(model, model, [Conversation(8, 4)] * 3)
    assert found.tokens == (8 if noted else 24)
    assert any("one conversation at a time is assumed" in note for note in found.notes) == noted


def test_both_answers_of_a_preference_stay_together():
    model = built("MambaForCausalLM").to("meta")
    assert trace_step(model, model, [Conversation(8, 4)] * 6, together=2).tokens == 16


def test_a_loop_over_tokens_is_extrapolated_with_a_note():
    long, short = built("MambaForCausalLM").to("meta"), built("MambaForCausalLM").to("meta")
    half, whole = (
        trace_step(one, one, [Conversation(count, count // 2)]) for one, count in ((short, 400), (long, 800))
    )
    assert any("extrapolated" in note for note in whole.notes)
    assert whole.trace.flops == pytest.approx(2 * half.trace.flops, rel=0.01)
    assert whole.trace.activations == pytest.approx(2 * half.trace.activations, rel=0.05)


def test_an_untraceable_pass_is_counted_by_widths_with_a_note():
    model = built("JetMoeForCausalLM")
    real = copy.deepcopy(model)
    found = traced(model)
    assert any("can't be traced" in note for note in found.notes)
    assert found.trace.flops == pytest.approx(counted_flops(real, real), rel=0.35)
    assert found.trace.activations == pytest.approx(kept_bytes(real), rel=0.5)


def test_a_pass_that_reads_numbers_is_traced():
    model = built("OPTForCausalLM", layerdrop=0.0)  # it draws one to choose the layers that it leaves out
    assert traced(model).notes == ()


@pytest.mark.soak
@pytest.mark.parametrize("name", [name for name in kinds() if name not in NOT_BUILT])
def test_every_architecture_is_traced(name):
    model = built(name)
    real = copy.deepcopy(model)
    found = traced(model)
    assert any("can't be traced" in note for note in found.notes) == (name in UNTRACED)
    if name not in UNTRACED | set(UNLIKE):
        assert found.trace.flops == pytest.approx(counted_flops(real, real), rel=0.1)
