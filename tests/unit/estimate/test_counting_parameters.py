"""Parameters counted from headers are those that PEFT and transformers have; unmatched targets are refused."""

from __future__ import annotations

import pytest
from peft import IA3Config, LoraConfig, PromptTuningConfig, VeraConfig, get_peft_model
from peft.utils.constants import TRANSFORMERS_MODELS_TO_IA3_FEEDFORWARD_MODULES_MAPPING as PEFTS_INPUTS
from peft.utils.constants import TRANSFORMERS_MODELS_TO_IA3_TARGET_MODULES_MAPPING as PEFTS_IA3
from peft.utils.constants import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as PEFTS
from training import MODEL, VALUES, changed, lay_out
from transformers import AutoModelForCausalLM

from tuneyard.errors import InvalidValuesError
from tuneyard.estimate import estimate
from tuneyard.estimate.adapter import DEFAULT_TARGETS, IA3_TARGETS
from tuneyard.store import open_store
from tuneyard.values import FinetuneValues

KWARGS = "finetuning_config.peft_conf.peft_kwargs"


def told(store, **changes):
    values = FinetuneValues.model_validate(changed(VALUES, **changes))
    return estimate(values, open_store(store.as_uri()))


@pytest.fixture(scope="module", params=[True, False], ids=["tied", "untied"])
def store(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("lab") / "store"
    lay_out(folder, tied=request.param)
    return folder


@pytest.mark.parametrize(
    "kwargs",
    [
        {"r": 4, "target_modules": ["q_proj", "v_proj"]},
        {"r": 4, "target_modules": "all-linear"},
        {"r": 4, "target_modules": ["q_proj", "down_proj"], "use_dora": True},
        {"r": 4, "target_modules": ["q_proj"], "use_rslora": True, "lora_bias": True},
        {"r": 4, "target_modules": r".*\.1\.mlp\..*_proj"},
        {"r": 4, "target_modules": ["q_proj", "k_proj"], "layers_to_transform": [1]},
        {"r": 4, "target_modules": ["q_proj", "k_proj"], "rank_pattern": {"k_proj": 16}},
        {"r": 4, "target_modules": ["q_proj", "k_proj"], "exclude_modules": r".*\.0\..*"},
        {"r": 4, "target_modules": ["embed_tokens", "up_proj"]},
        {"r": 4, "target_modules": ["q_proj"], "modules_to_save": ["norm"]},
        {"r": 4},
    ],
    ids=lambda kwargs: "-".join(kwargs),
)
def test_trained_parameters_are_those_of_peft(store, kwargs):
    model = AutoModelForCausalLM.from_pretrained(store / MODEL)
    adapted = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **kwargs))
    trained, whole = adapted.get_nb_trainable_parameters()
    found = told(store, **{KWARGS: kwargs})
    assert (found.trained, found.parameters) == (trained, whole)


@pytest.mark.parametrize(
    ("kind", "config", "kwargs"),
    [
        ("VERA", VeraConfig, {"r": 8, "target_modules": ["q_proj", "down_proj"]}),
        ("VERA", VeraConfig, {}),
        ("IA3", IA3Config, {}),
        ("IA3", IA3Config, {"target_modules": ["k_proj", "up_proj"], "feedforward_modules": ["up_proj"]}),
        ("PROMPT_TUNING", PromptTuningConfig, {"num_virtual_tokens": 7}),
    ],
)
def test_other_adapters_are_counted_as_peft_counts_them(store, kind, config, kwargs):
    adapted = get_peft_model(
        AutoModelForCausalLM.from_pretrained(store / MODEL), config(task_type="CAUSAL_LM", **kwargs)
    )
    found = told(store, **{KWARGS: kwargs, "finetuning_config.peft_conf.peft_type": kind})
    assert found.trained == adapted.get_nb_trainable_parameters()[0]
    assert any("vLLM can't serve" in note for note in found.notes)


def test_every_parameter_is_trained_without_an_adapter(store):
    model = AutoModelForCausalLM.from_pretrained(store / MODEL)
    found = told(store, **{KWARGS: {}, "finetuning_config.peft_conf.peft_type": "NO_PEFT"})
    assert found.trained == found.parameters == model.num_parameters()


def test_each_target_that_matches_nothing_is_refused(store):
    with pytest.raises(InvalidValuesError, match="matches no module") as caught:
        told(store, **{KWARGS: {"r": 4, "target_modules": ["q_proj", "query", "value"]}})
    assert [problem.value for problem in caught.value.problems] == ["query", "value"]


def test_targets_that_are_not_named_are_those_of_peft():
    assert {kind: set(names) for kind, names in DEFAULT_TARGETS.items()} == {
        kind: set(PEFTS[kind]) for kind in DEFAULT_TARGETS
    }
    assert {kind: (tuple(PEFTS_IA3[kind]), tuple(PEFTS_INPUTS[kind])) for kind in IA3_TARGETS} == IA3_TARGETS
