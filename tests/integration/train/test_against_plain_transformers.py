"""Losses, gradient norms and updated weights of three steps equal those of plain transformers and PEFT.

Every method, with accumulation, micro-batches of several conversations and two processes. `plain_training` is the other
side: padded batches, the library's own attention, torch's AdamW.
"""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, set_seed

from lab.plain_training import (
    Plain,
    answer_log_prob,
    encode,
    eval_loss,
    padded,
    sigmoid_preference_loss,
    square_root_scaled,
    summed_cross_entropy,
    targets_of,
    weights_of,
)
from lab.tiny_models import make_model
from lab.training import (
    ARGUMENTS,
    REMOTE,
    changed,
    conversations,
    deliver_inputs,
    metrics,
    preferences,
    train,
    train_here,
)

CONFIG = "finetuning_config."
CONF = CONFIG + "peft_conf"
BATCH = CONFIG + "batchsize_conf"
STEPS, TOTAL, RATE = 3, 4, 1e-2
LORA = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj", "down_proj"]}
KINDS = {
    "lora": {"peft_type": "LORA", "peft_kwargs": LORA},
    "dora": {"peft_type": "LORA", "peft_kwargs": {**LORA, "use_dora": True}},
    "rslora": {"peft_type": "LORA", "peft_kwargs": {**LORA, "use_rslora": True}},
    "vera": {"peft_type": "VERA", "peft_kwargs": {"r": 8, "target_modules": ["q_proj", "down_proj"]}},
    "ia3": {"peft_type": "IA3", "peft_kwargs": {}},
    "prompt": {"peft_type": "PROMPT_TUNING", "peft_kwargs": {"num_virtual_tokens": 5}},
    "full": {"peft_type": "NO_PEFT"},
}
EXACT = {
    ARGUMENTS + "max_steps": STEPS,
    ARGUMENTS + "logging_steps": 1,
    ARGUMENTS + "save_steps": STEPS,
    ARGUMENTS + "learning_rate": RATE,
    ARGUMENTS + "eval_strategy": "no",
    ARGUMENTS + "optim": "adamw_torch",
    ARGUMENTS + "train_sampling_strategy": "sequential",
    CONFIG + "data_conf.validation_data": {"type": "NONE"},
}
ROWS = conversations(STEPS * TOTAL, seed=5)
PAIRS = preferences(STEPS * TOTAL, seed=5)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_model(tmp_path_factory.mktemp("model") / "tiny")


def delivered_store(folder, tmp_path, rows=ROWS):
    deliver_inputs(tmp_path / "store", folder=folder, rows=rows)
    return tmp_path / "store"


def batches(per_device):
    return {BATCH: {"total_train_batch_size": TOTAL, "max_per_device_train_batch_size": per_device}}


def base_and_tokenizer(folder):
    set_seed(7)
    return AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)


def with_adapter(base, conf):
    """PEFT's own model around the base; the base itself for full finetuning."""
    import peft

    kinds = {
        "LORA": peft.LoraConfig,
        "VERA": peft.VeraConfig,
        "IA3": peft.IA3Config,
        "PROMPT_TUNING": peft.PromptTuningConfig,
    }
    if conf["peft_type"] == "NO_PEFT":
        return base
    return peft.get_peft_model(base, kinds[conf["peft_type"]](task_type="CAUSAL_LM", **conf["peft_kwargs"]))


def plain_sft(folder, conf, *, rows=ROWS, smoothing=0.0, rate=RATE):
    base, tokenizer = base_and_tokenizer(folder)
    model = with_adapter(base, conf)
    samples = [encode(tokenizer, row["messages"]) for row in rows]
    plain = plain_training(model, rate=rate)
    for step in range(STEPS):
        members = samples[step * TOTAL : (step + 1) * TOTAL]
        batch = padded(members, tokenizer.pad_token_id)
        labels = batch.pop("labels")
        plain.step(
            lambda model, batch=batch, labels=labels, members=members: (
                summed_cross_entropy(model(**batch, use_cache=False).logits, labels, smoothing) / targets_of(members)
            )
        )
    return plain


def logged(store, name):
    return [row[name] for row in metrics(store, REMOTE) if row["kind"] == "train"]


def trained_weights(model):
    if not hasattr(model, "peft_config"):
        return dict(model.state_dict())
    from peft import get_peft_model_state_dict

    return get_peft_model_state_dict(model)


def plain_training(model, **settings):
    plain = Plain(model, rate=settings.get("rate", RATE), steps=STEPS)
    plain.before = {name: weight.detach().clone() for name, weight in trained_weights(model).items()}
    return plain


def compare(store, plain, *, share=2e-3):
    """Compare losses, norms of gradients and the changes of the weights."""
    assert logged(store, "loss") == pytest.approx(plain.losses, rel=1e-5)
    assert logged(store, "grad_norm") == pytest.approx(plain.norms, rel=1e-3)
    ours = weights_of(store / REMOTE / "checkpoint-final")
    theirs, before = trained_weights(plain.model), plain.before
    assert ours.keys() <= theirs.keys()
    apart = sum(float((weight - theirs[name]).square().sum()) for name, weight in ours.items())
    moved = sum(float((theirs[name] - before[name]).square().sum()) for name in ours)
    assert moved > 0
    assert (apart / moved) ** 0.5 < share


@pytest.mark.parametrize("per_device", [1, 2, 4])
@pytest.mark.parametrize("kind", ["lora", "full"])
def test_accumulation_and_micro_batches_make_the_step_of_one_batch(kind, per_device, folder, tmp_path):
    store = delivered_store(folder, tmp_path)
    assert train_here(changed(**EXACT, **{CONF: KINDS[kind]}, **batches(per_device)), store, tmp_path / "work") == 0
    compare(store, plain_sft(folder, KINDS[kind]))


@pytest.mark.parametrize("kind", ["dora", "rslora", "vera", "ia3", "prompt"])
def test_every_kind_of_adapter_makes_pefts_own_steps(kind, folder, tmp_path):
    store = delivered_store(folder, tmp_path)
    assert train_here(changed(**EXACT, **{CONF: KINDS[kind]}, **batches(2)), store, tmp_path / "work") == 0
    compare(store, plain_sft(folder, KINDS[kind]))


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_two_processes_make_the_step_of_one_batch(kind, folder, tmp_path):
    store = delivered_store(folder, tmp_path)
    train(changed(**EXACT, **{CONF: KINDS[kind]}, **batches(1), finetuningGpus=2), store, tmp_path / "work")
    compare(store, plain_sft(folder, KINDS[kind]))


def plain_dpo(folder, conf, *, beta=0.5):
    base, tokenizer = base_and_tokenizer(folder)
    pairs = [
        [
            encode(
                tokenizer,
                [{"role": "user", "content": row["prompt"]}, {"role": "assistant", "content": row[side]}],
            )
            for side in ("chosen", "rejected")
        ]
        for row in PAIRS
    ]
    base.eval()
    with torch.no_grad():
        reference = [[float(answer_log_prob(base, side)) for side in pair] for pair in pairs]
    plain = plain_training(with_adapter(base, conf))
    for step in range(STEPS):
        members = range(step * TOTAL, (step + 1) * TOTAL)

        def loss(model, members=members):
            losses = [
                sigmoid_preference_loss([answer_log_prob(model, side) for side in pairs[at]], reference[at], beta)
                for at in members
            ]
            return torch.stack(losses).mean()

        plain.step(loss)
    return plain


DPO = {
    CONFIG + "method": "dpo",
    CONFIG + "sft_args": None,
    CONFIG + "dpo_args": {"beta": 0.5, "max_length": 256, "precompute_ref_log_probs": True},
}


@pytest.mark.parametrize("per_device", [1, 4])
@pytest.mark.parametrize("kind", ["lora", "full"])
def test_preferences_make_the_papers_steps(kind, per_device, folder, tmp_path):
    store = delivered_store(folder, tmp_path, PAIRS)
    values = changed(**EXACT, **DPO, **{CONF: KINDS[kind]}, **batches(per_device))
    assert train_here(values, store, tmp_path / "work") == 0
    compare(store, plain_dpo(folder, KINDS[kind]))


def test_preferences_on_two_processes_make_the_papers_steps(folder, tmp_path):
    store = delivered_store(folder, tmp_path, PAIRS)
    values = changed(**EXACT, **DPO, **{CONF: KINDS["lora"]}, **batches(1), finetuningGpus=2)
    train(values, store, tmp_path / "work")
    compare(store, plain_dpo(folder, KINDS["lora"]))


def test_label_smoothing_is_the_share_of_the_uniform_distribution(folder, tmp_path):
    store = delivered_store(folder, tmp_path)
    values = changed(**EXACT, **{CONF: KINDS["lora"], ARGUMENTS + "label_smoothing_factor": 0.2}, **batches(2))
    assert train_here(values, store, tmp_path / "work") == 0
    compare(store, plain_sft(folder, KINDS["lora"], smoothing=0.2))


@pytest.mark.parametrize(
    ("overrides", "scale"),
    [
        ({"lr_multiplier": 0.25}, 0.25),
        ({"lr_batch_size_scaling": "sqrt"}, square_root_scaled(1, TOTAL)),
        ({"lr_batch_size_scaling": "linear"}, TOTAL),
        ({"lr_multiplier": 3.0, "lr_batch_size_scaling": "sqrt"}, 3 * square_root_scaled(1, TOTAL)),
        ({}, 1.0),
    ],
)
def test_the_learning_rate_is_scaled_by_overrides(overrides, scale, folder, tmp_path):
    store = delivered_store(folder, tmp_path)
    rate = RATE / 16
    values = changed(
        **{**EXACT, ARGUMENTS + "learning_rate": rate, CONFIG + "overrides": overrides, CONF: KINDS["lora"]},
        **batches(4),
    )
    assert train_here(values, store, tmp_path / "work") == 0
    expected = [rate * scale * (STEPS - step) / STEPS for step in range(STEPS)]
    assert logged(store, "learning_rate") == pytest.approx(expected, rel=1e-9)
    compare(store, plain_sft(folder, KINDS["lora"], rate=rate * scale))


def test_the_evaluation_is_the_mean_over_the_trained_tokens_of_all_validation_rows(folder, tmp_path):
    store = delivered_store(folder, tmp_path)
    validation = {"type": "CONCATENATION", "datasets": [{"path": "default-bucket/datasets/chat.jsonl"}]}
    values = changed(
        **{
            **EXACT,
            CONFIG + "data_conf.validation_data": validation,
            ARGUMENTS + "eval_strategy": "steps",
            ARGUMENTS + "eval_steps": STEPS,
            ARGUMENTS + "label_smoothing_factor": 0.3,
            BATCH: {
                "total_train_batch_size": TOTAL,
                "max_per_device_train_batch_size": 2,
                "per_device_eval_batch_size": 5,
            },
            CONF: KINDS["lora"],
        }
    )
    assert train_here(values, store, tmp_path / "work") == 0
    base, tokenizer = base_and_tokenizer(folder)
    from peft import PeftModel

    tuned = PeftModel.from_pretrained(base, store / REMOTE / "checkpoint-final")
    samples = [encode(tokenizer, row["messages"]) for row in ROWS]
    row = next(row for row in metrics(store, REMOTE) if row["kind"] == "eval")
    assert row["eval_loss"] == pytest.approx(eval_loss(tuned, samples), rel=1e-5)
    assert row["eval_tokens"] == targets_of(samples)


def test_grouping_by_length_orders_rows_as_transformers_own_sampler():
    from transformers.trainer_pt_utils import LengthGroupedSampler

    from tuneyard.train.plan import StepPlan

    lengths = torch.randint(3, 90, (60,), generator=torch.Generator().manual_seed(1)).tolist()
    plan = StepPlan(lengths, total=TOTAL, per_device=TOTAL, accumulation=1, seed=11, order="group_by_length")
    sampler = LengthGroupedSampler(TOTAL, lengths=lengths, generator=torch.Generator().manual_seed(11))
    assert [index for batch in plan for index in batch] == list(sampler)
    assert spread(plan, lengths) < spread(StepPlan(lengths, total=TOTAL, per_device=TOTAL, accumulation=1), lengths) / 2


def spread(plan, lengths):
    return sum(max(lengths[index] for index in batch) - min(lengths[index] for index in batch) for batch in plan)


def test_disabled_dropout_leaves_nothing_random_and_enabled_dropout_does(folder, tmp_path):
    losses = {}
    dropping = {CONF: {"peft_type": "LORA", "peft_kwargs": {**LORA, "lora_dropout": 0.3}}}
    drops = {CONFIG + "run_conf.model_args": {"attention_dropout": 0.2}, **dropping}
    for name, more in {
        "off": {**drops, CONFIG + "dpo_args.disable_dropout": True},
        "on": {**drops, CONFIG + "dpo_args.disable_dropout": False},
    }.items():
        store = delivered_store(folder, tmp_path / name, PAIRS)
        assert train_here(changed(**{**EXACT, **DPO, **batches(2), **more}), store, tmp_path / name / "work") == 0
        losses[name] = logged(store, "loss")
    plain = plain_dpo(folder, KINDS["lora"])
    assert losses["off"] == pytest.approx(plain.losses, rel=1e-4)
    assert losses["on"] != pytest.approx(plain.losses, rel=1e-2)


def test_the_loss_of_a_mixture_of_experts_is_the_models_own_with_its_balance(tmp_path):
    from transformers import MixtralConfig, MixtralForCausalLM

    make_model(tmp_path / "experts")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "experts")
    config = MixtralConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, num_local_experts=4, max_position_embeddings=512, router_aux_loss_coef=0.3,
        output_router_logits=True,
    )  # fmt: skip
    torch.manual_seed(0)
    MixtralForCausalLM(config).save_pretrained(tmp_path / "experts")
    store = delivered_store(tmp_path / "experts", tmp_path)
    conf = {"peft_type": "LORA", "peft_kwargs": {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"]}}
    assert train_here(changed(**EXACT, **{CONF: conf}, **batches(TOTAL)), store, tmp_path / "work") == 0

    base, tokenizer = base_and_tokenizer(tmp_path / "experts")
    samples = [encode(tokenizer, row["messages"]) for row in ROWS]
    plain = plain_training(with_adapter(base, conf))
    for step in range(STEPS):
        members = samples[step * TOTAL : (step + 1) * TOTAL]
        batch = padded(members, tokenizer.pad_token_id)
        plain.step(lambda model, batch=batch: model(**batch, use_cache=False).loss)  # with the model's own balance
    compare(store, plain)
    without = plain_sft(tmp_path / "experts", conf)
    assert plain.losses[0] > without.losses[0] + 0.1


def test_a_recurrent_model_trains_as_plain_transformers_with_pairs_too(tmp_path):
    from transformers import MambaConfig, MambaForCausalLM

    make_model(tmp_path / "mamba")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "mamba")
    config = MambaConfig(vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=2, state_size=8)
    torch.manual_seed(0)
    MambaForCausalLM(config).save_pretrained(tmp_path / "mamba")
    conf = {"peft_type": "NO_PEFT"}
    for name, rows, more, plain_of in (("sft", ROWS, {}, plain_sft), ("dpo", PAIRS, DPO, plain_dpo)):
        store = delivered_store(tmp_path / "mamba", tmp_path / name, rows)
        values = changed(**{**EXACT, **more, CONF: conf, **batches(4), ARGUMENTS + "learning_rate": RATE})
        assert train_here(values, store, tmp_path / name / "work") == 0
        plain = plain_of(tmp_path / "mamba", conf)
        assert logged(store, "loss") == pytest.approx(plain.losses, rel=1e-4)


def test_noise_on_embeddings_is_per_conversation_in_a_training(folder, tmp_path, monkeypatch):
    from tuneyard.train.noise import EmbeddingNoise

    bounds = []
    real = EmbeddingNoise._add

    def seen(self, module, inputs, embeddings):
        if module.training:
            bounds.append(None if self.bounds is None else self.bounds.tolist())
        return real(self, module, inputs, embeddings)

    monkeypatch.setattr(EmbeddingNoise, "_add", seen)
    store = delivered_store(folder, tmp_path)
    values = changed(**EXACT, **{CONF: KINDS["full"], ARGUMENTS + "neftune_noise_alpha": 5}, **batches(4))
    assert train_here(values, store, tmp_path / "work") == 0
    assert len(bounds) == STEPS
    assert all(len(each) == TOTAL + 1 for each in bounds)
    assert logged(store, "loss") != pytest.approx(plain_sft(folder, KINDS["full"]).losses, rel=1e-6)
