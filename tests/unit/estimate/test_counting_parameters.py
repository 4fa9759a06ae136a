"""Parameters that a plan counts are those of the real model, loaded by plain transformers and adapted by plain PEFT."""

from __future__ import annotations

import pytest
from peft import IA3Config, LoraConfig, PromptTuningConfig, VeraConfig, get_peft_model
from torch import nn
from transformers import AutoModelForCausalLM
from transformers.pytorch_utils import Conv1D

from lab.tiny_architectures import build
from lab.training import MODEL, VALUES, changed, deliver_inputs
from tuneyard.errors import InvalidValuesError
from tuneyard.estimate import build_network, estimate
from tuneyard.job.inputs import pull_settings
from tuneyard.models import find_base
from tuneyard.store import open_store
from tuneyard.values import FinetuneValues

CONF = "finetuning_config.peft_conf"
KWARGS = f"{CONF}.peft_kwargs"
CONFIGS = {"LORA": LoraConfig, "VERA": VeraConfig, "IA3": IA3Config, "PROMPT_TUNING": PromptTuningConfig}
ARCHITECTURES = [
    "BloomForCausalLM",
    "DeepseekV2ForCausalLM",
    "DeepseekV3ForCausalLM",
    "FalconForCausalLM",
    "FalconMambaForCausalLM",
    "GPT2LMHeadModel",
    "GPTBigCodeForCausalLM",
    "GPTJForCausalLM",
    "GPTNeoXForCausalLM",
    "Gemma2ForCausalLM",
    "Gemma3ForCausalLM",
    "GptOssForCausalLM",
    "JambaForCausalLM",
    "JetMoeForCausalLM",
    "Lfm2ForCausalLM",
    "LlamaForCausalLM",
    "Mamba2ForCausalLM",
    "MambaForCausalLM",
    "MixtralForCausalLM",
    "MptForCausalLM",
    "OPTForCausalLM",
    "Phi3ForCausalLM",
    "Qwen2ForCausalLM",
    "Qwen2MoeForCausalLM",
    "Qwen3ForCausalLM",
    "Qwen3MoeForCausalLM",
    "Qwen3NextForCausalLM",
    "RwkvForCausalLM",
    "StableLmForCausalLM",
]


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    """Return the store with an architecture's tiny model."""
    made = {}

    def store(name):
        if name not in made:
            folder = tmp_path_factory.mktemp(name)
            model = build(name)
            assert model is not None
            model.save_pretrained(folder / "model")
            deliver_inputs(folder / "store", folder=folder / "model")
            made[name] = folder / "store"
        return made[name]

    return store


def network(store, scratch, **changes):
    values = FinetuneValues.model_validate(changed(VALUES, **changes))
    opened = open_store(store.as_uri())
    manifest = find_base(opened, MODEL)
    settings = pull_settings(opened, MODEL, manifest, scratch / "settings")
    return build_network(values, opened, manifest, settings, scratch / "outline")


def loaded(store):
    return AutoModelForCausalLM.from_pretrained(store / MODEL)


def some_modules(model):
    """Return the names of two kinds of modules in the layers that can be adapted."""
    head = model.get_output_embeddings()
    linear = [name for name, one in model.named_modules() if isinstance(one, nn.Linear | Conv1D) and one is not head]
    return list(dict.fromkeys(name.rpartition(".")[2] for name in linear))[:2]


KINDS = {
    "LoRA": ("LORA", lambda model: {"r": 4}),
    "LoRA on all linear layers": ("LORA", lambda model: {"r": 4, "target_modules": "all-linear"}),
    "LoRA on named modules": ("LORA", lambda model: {"r": 3, "target_modules": some_modules(model)}),
    "DoRA": ("LORA", lambda model: {"r": 4, "use_dora": True, "target_modules": "all-linear"}),
    "IA3": ("IA3", lambda model: {}),
    "IA3 on named modules": (
        "IA3",
        lambda model: {"target_modules": some_modules(model), "feedforward_modules": some_modules(model)[:1]},
    ),
    "VeRA": ("VERA", lambda model: {"r": 8, "target_modules": some_modules(model)[:1]}),
    "prompts": ("PROMPT_TUNING", lambda model: {"num_virtual_tokens": 5}),
}


@pytest.mark.filterwarnings("ignore::RuntimeWarning:peft.*")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_trained_parameters_are_those_of_peft(name, kind, stores, tmp_path):
    real = loaded(stores(name))
    peft_type, make = KINDS[kind]
    kwargs = make(real)
    changes = {CONF: {"peft_type": peft_type, "peft_kwargs": kwargs}}
    try:
        adapted = get_peft_model(real, CONFIGS[peft_type](task_type="CAUSAL_LM", **kwargs))
    except (ValueError, TypeError, LookupError, AttributeError) as refusal:
        with pytest.raises(InvalidValuesError) as caught:
            network(stores(name), tmp_path, **changes)
        assert str(refusal) in caught.value.message
        return
    found = network(stores(name), tmp_path, **changes)
    assert (found.trained, found.parameters) == adapted.get_nb_trainable_parameters()
    assert found.trained_bytes == 4 * found.trained


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_parameter_is_trained_without_an_adapter(name, stores, tmp_path):
    real = loaded(stores(name))
    found = network(stores(name), tmp_path, **{CONF: {"peft_type": "NO_PEFT"}})
    assert found.trained == found.parameters == found.base_parameters == real.num_parameters()
    assert found.largest == max(weight.numel() for weight in real.parameters())
    held = [*real.parameters(), *real.buffers()]
    assert found.bytes == sum(tensor.numel() * tensor.element_size() for tensor in held)


MORE = {
    "biases": {"target_modules": ["q_proj"], "use_rslora": True, "lora_bias": True},
    "every bias of the base": {"target_modules": ["q_proj"], "bias": "all"},
    "biases of adapted modules": {"target_modules": ["q_proj"], "bias": "lora_only"},
    "a pattern": {"target_modules": r".*\.1\.mlp\..*_proj"},
    "one layer": {"target_modules": ["q_proj", "k_proj"], "layers_to_transform": [1]},
    "another rank for some": {"target_modules": ["q_proj", "k_proj"], "rank_pattern": {"k_proj": 16}},
    "exclusions": {"target_modules": ["q_proj", "k_proj"], "exclude_modules": r".*\.0\..*"},
    "embeddings": {"target_modules": ["embed_tokens", "up_proj"]},
    "a whole module": {"target_modules": ["q_proj"], "modules_to_save": ["norm"]},
    "the head": {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]},
    "rows of the embedding": {"target_modules": ["q_proj"], "trainable_token_indices": [1, 2, 3]},
    "replicated layers": {"target_modules": ["q_proj"], "layer_replication": [[0, 2], [1, 2]]},
    "an orthogonal beginning": {"target_modules": ["q_proj"], "init_lora_weights": "orthogonal"},
    "a beginning by singular values": {"target_modules": ["q_proj"], "init_lora_weights": "pissa"},
    "a beginning by QR": {"target_modules": ["q_proj"], "init_lora_weights": "olora"},
}


@pytest.fixture(scope="module", params=[True, False], ids=["tied", "untied"])
def llama(request, tmp_path_factory):
    """A Llama with biases."""
    folder = tmp_path_factory.mktemp("llama")
    model = build("LlamaForCausalLM", attention_bias=True, tie_word_embeddings=request.param)
    assert model is not None
    model.save_pretrained(folder / "model")
    deliver_inputs(folder / "store", folder=folder / "model")
    return folder / "store"


@pytest.mark.parametrize("what", MORE)
def test_options_of_lora_count(what, llama, tmp_path):
    kwargs = {"r": 4, **MORE[what]}
    adapted = get_peft_model(loaded(llama), LoraConfig(task_type="CAUSAL_LM", **kwargs))
    found = network(llama, tmp_path, **{KWARGS: kwargs})
    assert (found.trained, found.parameters) == adapted.get_nb_trainable_parameters()


@pytest.mark.parametrize("name", ["MixtralForCausalLM", "GptOssForCausalLM"])
def test_adapters_on_the_matrices_of_experts_count(name, stores, tmp_path):
    kwargs = {"r": 4, "target_modules": ["q_proj"], "target_parameters": ["mlp.experts.gate_up_proj"]}
    adapted = get_peft_model(loaded(stores(name)), LoraConfig(task_type="CAUSAL_LM", **kwargs))
    found = network(stores(name), tmp_path, **{KWARGS: kwargs})
    assert (found.trained, found.parameters) == adapted.get_nb_trainable_parameters()
    assert found.trained > 4 * 4 * 2 * 32  # some of it is on the experts


def test_an_estimate_has_the_recorded_numbers(tmp_path):
    deliver_inputs(tmp_path / "store")
    kwargs = VALUES["finetuning_config"]["peft_conf"]["peft_kwargs"]
    adapted = get_peft_model(loaded(tmp_path / "store"), LoraConfig(task_type="CAUSAL_LM", **kwargs))
    found = estimate(FinetuneValues.model_validate(VALUES), open_store((tmp_path / "store").as_uri()))
    assert (found.trained, found.parameters) == adapted.get_nb_trainable_parameters()


def test_each_target_without_a_match_is_refused(llama, tmp_path):
    with pytest.raises(InvalidValuesError, match="matches no module") as caught:
        network(llama, tmp_path, **{KWARGS: {"r": 4, "target_modules": ["q_proj", "query", "value"]}})
    assert [problem.value for problem in caught.value.problems] == ["query", "value"]


def test_a_warning_of_peft_is_a_note(llama, tmp_path):
    kwargs = {"r": 4, "target_modules": ["q_proj"], "exclude_modules": ["query"]}
    (note,) = network(llama, tmp_path, **{KWARGS: kwargs}).notes
    assert "exclude_modules" in note
