"""What `network.private` takes for granted of transformers and torch, checked on the libraries themselves."""

from __future__ import annotations

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import LlamaConfig, LlamaForCausalLM

from tuneyard.network import private

CONFIG = {"vocab_size": 8, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}


def test_attention_is_what_was_set() -> None:
    model = LlamaForCausalLM(LlamaConfig(**CONFIG))
    assert private.attention_of(model.config) == "sdpa"
    model.set_attn_implementation("eager")
    assert private.attention_of(model.config) == "eager"


def test_a_model_takes_the_attention_of_its_config() -> None:
    config = LlamaConfig(**CONFIG)
    private.choose_attention(config, "eager")
    model = LlamaForCausalLM(config)
    assert private.attention_of(model.config) == private.attention_of(model.model.config) == "eager"


def test_tensors_of_a_module_can_be_replaced() -> None:
    module = torch.nn.BatchNorm1d(3)
    parameters, buffers = private.tensors_of(module)
    assert set(parameters) == {"weight", "bias"}
    assert set(buffers) == {"running_mean", "running_var", "num_batches_tracked"}
    other = torch.nn.Parameter(torch.zeros(5))
    parameters["weight"] = other
    assert module.weight is other


def test_storages_of_fake_tensors_differ_by_address() -> None:
    with FakeTensorMode():
        one, other = torch.empty(3), torch.empty(3)
        view = one.view(3, 1)
    assert private.storage_address(one) != private.storage_address(other)
    assert private.storage_address(one) == private.storage_address(view)
