"""Adapters of every kind: trained whole, resumed after a kill, merged, and served by our server."""

import json
import re

import pytest
import torch

from lab.training import (
    ARGUMENTS,
    MODEL,
    REMOTE,
    changed,
    deliver_inputs,
    killed_and_resumed,
    metrics,
    train,
    train_here,
)
from tuneyard.errors import InvalidValuesError
from tuneyard.serving.flags import app_settings
from tuneyard.serving.placement import place_models
from tuneyard.serving.vllm import build_command
from tuneyard.store import open_store
from tuneyard.train.merge import merge_adapter
from tuneyard.values import FinetuneValues, InferenceValues, check_values

CONF = "finetuning_config.peft_conf"
LORA = {"r": 4, "lora_alpha": 8, "lora_dropout": 0.1, "target_modules": ["q_proj", "v_proj", "down_proj"]}
VERA = {"r": 8, "vera_dropout": 0.1, "target_modules": ["q_proj", "down_proj"]}
PROMPT = {"num_virtual_tokens": 5, "prompt_tuning_init": "SAMPLE_VOCAB"}
KINDS = {
    "dora": {"peft_type": "LORA", "peft_kwargs": {**LORA, "use_dora": True}},
    "rslora": {"peft_type": "LORA", "peft_kwargs": {**LORA, "use_rslora": True}},
    "vera": {
        "peft_type": "VERA",
        "peft_kwargs": {"r": 8, "vera_dropout": 0.1, "target_modules": ["q_proj", "down_proj"]},
    },
    "ia3": {"peft_type": "IA3", "peft_kwargs": {}},
    "prompt": {
        "peft_type": "PROMPT_TUNING",
        "peft_kwargs": {"num_virtual_tokens": 5, "prompt_tuning_init": "SAMPLE_VOCAB"},
    },
}
SHORT = {ARGUMENTS + "num_train_epochs": 1, ARGUMENTS + "logging_steps": 1, ARGUMENTS + "save_steps": 2}


def values(kind, **more):
    return changed(**{CONF: KINDS[kind], **SHORT, **more})


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Each kind trained, killed after its third step and resumed; the stores by kind."""
    stores = {}
    for kind in KINDS:
        folder = tmp_path_factory.mktemp(kind)
        deliver_inputs(folder / "store")
        stores[kind] = folder / "store"
        killed_and_resumed(values(kind), folder / "store", folder, kill_at=4)
    return stores


@pytest.mark.parametrize("kind", KINDS)
def test_a_killed_training_resumes_bit_for_bit_and_learns(kind, trained):
    losses = [row["loss"] for row in metrics(trained[kind]) if row["kind"] == "train"]
    assert len(losses) == 5
    assert len(set(losses)) == 5
    config = json.loads((trained[kind] / REMOTE / "checkpoint-final/adapter_config.json").read_text())
    assert config["peft_type"] == KINDS[kind]["peft_type"]


def loaded(store, workdir):
    from tuneyard.serving.loading import load_models

    served = InferenceValues.model_validate({"model": f"s3://{REMOTE}/checkpoint-final", "gpuResource": ""})
    placement = place_models(served, open_store(store.as_uri()), workdir)
    return load_models(placement, app_settings(served.vllm_engine_args), "cpu"), placement, served


@pytest.mark.parametrize("kind", KINDS)
def test_our_own_server_serves_the_trained_adapter(kind, trained, tmp_path):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    (tuned, base), _, _ = loaded(trained[kind], tmp_path)
    ids = torch.tensor([[5, 6, 7, 8, 9, 10]])
    base_alone = AutoModelForCausalLM.from_pretrained(trained[kind] / MODEL)
    with torch.no_grad():
        before = base.model(ids).logits
        alone = PeftModel.from_pretrained(base_alone, trained[kind] / REMOTE / "checkpoint-final").eval()
        torch.testing.assert_close(tuned.model(ids).logits, alone(ids).logits)
        torch.testing.assert_close(base.model(ids).logits, before)
        length = 5 if kind == "prompt" else 0
        assert not torch.equal(tuned.model(ids).logits[:, length:], before)
        answer = tuned.model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=4, do_sample=False
        )
    assert answer.shape[1] > ids.shape[1]
    assert tuned.limit == base.limit - length


@pytest.mark.parametrize("kind", ["dora", "vera", "ia3"])
def test_an_adapter_that_vllm_refuses_can_be_merged(kind, trained, tmp_path):
    final = trained[kind] / REMOTE / "checkpoint-final"
    check = merge_adapter(trained[kind] / MODEL, final, tmp_path / "merged", [[5, 6, 7, 8], [9, 10]])
    assert check.logits < 1e-5
    assert check.kl < 1e-9


@pytest.mark.parametrize(
    ("kind", "why", "way"),
    [
        ("dora", "use_dora adds decomposed weights", "mergeAdapter=true"),
        ("vera", "peft_type is not LoRA", "mergeAdapter=true"),
        ("ia3", "peft_type is not LoRA", "mergeAdapter=true"),
        ("prompt", "peft_type is not LoRA", "can't be merged"),
    ],
)
def test_vllm_refuses_by_name_and_a_notice_precedes_the_training(kind, why, way, trained, tmp_path):
    _, placement, served = loaded(trained[kind], tmp_path)
    with pytest.raises(InvalidValuesError, match=re.escape(why)) as caught:
        build_command(served, placement, host="127.0.0.1", port=1, guarded=False, on_cpu=True, finish_seconds=5)
    assert caught.value.exit_code == 3
    assert way in caught.value.hint
    notices: list[str] = []
    check_values(FinetuneValues, values(kind), notice=notices.append)
    assert len(notices) == 1
    assert notices[0].startswith("vLLM can't serve this adapter:")
    assert ("can't be merged either" if kind == "prompt" else "mergeAdapter=true also publishes") in notices[0]


@pytest.mark.parametrize("kind", ["rslora"])
def test_vllm_accepts_a_rank_stabilized_adapter_without_a_notice(kind, trained, tmp_path):
    _, placement, served = loaded(trained[kind], tmp_path)
    command = build_command(served, placement, host="127.0.0.1", port=1, guarded=False, on_cpu=True, finish_seconds=5)
    assert "--enable-lora" in command
    notices: list[str] = []
    check_values(FinetuneValues, values(kind), notice=notices.append)
    assert notices == []


def test_a_prompt_starts_from_a_text_and_no_published_file_names_this_machine(tmp_path):
    deliver_inputs(tmp_path / "store")
    kwargs = {"num_virtual_tokens": 4, "prompt_tuning_init": "TEXT", "prompt_tuning_init_text": "What is a yard?"}
    served = values("prompt", **{f"{CONF}.peft_kwargs": kwargs, ARGUMENTS + "gradient_checkpointing": True})
    assert train_here(served, tmp_path / "store", tmp_path / "work") == 0
    config = json.loads((tmp_path / "store" / REMOTE / "checkpoint-final/adapter_config.json").read_text())
    assert config["tokenizer_name_or_path"] == MODEL
    machine = str(tmp_path).encode()
    assert not [p for p in (tmp_path / "store" / REMOTE).rglob("*") if p.is_file() and machine in p.read_bytes()]


def test_a_conversation_after_its_prompt_has_the_same_logits_as_alone(tmp_path):
    from peft import PromptTuningConfig
    from transformers import AutoModelForCausalLM

    from lab.tiny_models import make_model
    from tuneyard.network.attention import PER_CONVERSATION
    from tuneyard.network.batches import flatten
    from tuneyard.network.prompts import FlatPromptModel

    folder = make_model(tmp_path / "model")
    base = AutoModelForCausalLM.from_pretrained(folder, attn_implementation=PER_CONVERSATION)
    model = FlatPromptModel(base, PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)).eval()
    torch.nn.init.normal_(model.prompt_encoder["default"].embedding.weight)
    rows = [
        {"input_ids": torch.arange(5, 5 + n).numpy(), "loss_mask": torch.ones(n, dtype=torch.bool).numpy()}
        for n in (4, 7, 2)
    ]
    with torch.no_grad():
        inputs = {name: value for name, value in flatten(rows).items() if "labels" not in name}
        together = model(**inputs).logits[0]
        plain = AutoModelForCausalLM.from_pretrained(folder)
        prompt = model.prompt_encoder["default"].embedding.weight[None]
        alone = []
        for row in rows:
            tokens = plain.get_input_embeddings()(torch.from_numpy(row["input_ids"])[None])
            alone.append(plain(inputs_embeds=torch.cat([prompt, tokens], dim=1)).logits[0, 3:-1])
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-5, atol=1e-5)


def test_merging_a_prompt_is_refused_before_the_training(tmp_path):
    with pytest.raises(InvalidValuesError, match="mergeAdapter: has nothing to merge into: PROMPT_TUNING"):
        check_values(FinetuneValues, values("prompt", mergeAdapter=True))


@pytest.mark.soak
@pytest.mark.parametrize("kind", KINDS)
def test_two_processes_have_the_losses_of_one(kind, tmp_path):
    deliver_inputs(tmp_path / "store")
    kwargs = {name: value for name, value in KINDS[kind]["peft_kwargs"].items() if not name.endswith("_dropout")}
    losses = {}
    for processes in (1, 2):
        remote = f"{REMOTE}-{processes}"
        served = values(kind, **{f"{CONF}.peft_kwargs": kwargs}, checkpointsRemote=remote, finetuningGpus=processes)
        train(served, tmp_path / "store", tmp_path / f"work-{processes}")
        losses[processes] = [row["loss"] for row in metrics(tmp_path / "store", remote) if row["kind"] == "train"]
    assert len(losses[1]) == 5
    assert losses[2] == pytest.approx(losses[1], abs=1e-5, rel=0)
