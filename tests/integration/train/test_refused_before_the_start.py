"""Training and plan refuse, before a step, what values, data and a model's settings show to be impossible."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from lab.tiny_models import make_tokenizer
from lab.written import HUGE, Bench, Written

CONFIG = "finetuning_config."
ARGS = f"{CONFIG}training_args."
MODEL_ARGS = f"{CONFIG}run_conf.model_args"


def args(**given: Any) -> Written:
    return Written({ARGS + name: value for name, value in given.items()})


def model_args(**given: Any) -> Written:
    return Written({MODEL_ARGS: given})


def scheduled(name: str, **kwargs: Any) -> Written:
    return args(lr_scheduler_type=name, **({"lr_scheduler_kwargs": kwargs} if kwargs else {}))


REFUSED: dict[str, tuple[Written, str]] = {
    "a metric that no evaluation gives": (args(metric_for_best_model="accuracy"), "metric_for_best_model"),
    "a metric of another method": (args(metric_for_best_model="eval_rewards/margins"), "metric_for_best_model"),
    "a count as metric": (args(metric_for_best_model="tokens"), "metric_for_best_model"),
    "the best model without an evaluation": (
        args(load_best_model_at_end=True, eval_strategy="no", save_strategy="no"),
        "load_best_model_at_end",
    ),
    "early stopping without an evaluation": (
        Written({ARGS + "eval_strategy": "no", CONFIG + "early_stopping": {"early_stopping_patience": 2}}),
        "early_stopping",
    ),
    "saves that do not fit evaluations": (
        args(load_best_model_at_end=True, eval_strategy="epoch", save_strategy="steps"),
        "load_best_model_at_end",
    ),
    "no arguments for cosine_with_min_lr": (scheduled("cosine_with_min_lr"), "lr_scheduler_type"),
    "no arguments for warmup_stable_decay": (scheduled("warmup_stable_decay"), "lr_scheduler_type"),
    "an unknown argument of a schedule": (scheduled("cosine", x=1), "lr_scheduler_type"),
    "an optimizer without galore": (args(optim="galore_adamw", optim_target_modules=["q_proj"]), "optim"),
    "an optimizer without bitsandbytes": (args(optim="adamw_8bit"), "optim"),
    "an optimizer without grokadamw": (args(optim="grokadamw"), "optim"),
    "an optimizer without apollo": (args(optim="apollo_adamw", optim_target_modules=["q_proj"]), "optim"),
    "an argument that no optimizer has": (args(optim_args="x"), "optim"),
    "a tracker without wandb": (args(report_to="wandb"), "report_to"),
    "a tracker without comet": (args(report_to=["comet_ml"]), "report_to"),
    "no tracker at all": (args(report_to="x"), "report_to"),
    "an argument that no checkpointing has": (
        args(gradient_checkpointing=True, gradient_checkpointing_kwargs={"x": 1}),
        "gradient_checkpointing_kwargs",
    ),
    "a step without end": (Written({CONFIG + "batchsize_conf.total_train_batch_size": 2**70}), "total_train_batch"),
    "a compiler that is unknown": (args(torch_compile_backend="x"), "torch_compile_backend"),
    "a mode that no compiler has": (args(torch_compile_mode="x"), "torch_compile_mode"),
    "flex attention on a CPU": (model_args(attn_implementation="flex_attention"), f"{MODEL_ARGS}.attn_implementation"),
    "a kernel of a hub": (
        model_args(attn_implementation="kernels-community/flash-attn3"),
        f"{MODEL_ARGS}.attn_implementation",
    ),
    "no attention at all": (model_args(attn_implementation="x"), f"{MODEL_ARGS}.attn_implementation"),
    "a list of attentions": (model_args(attn_implementation=["eager"]), f"{MODEL_ARGS}.attn_implementation"),
    "experts of a hub": (model_args(experts_implementation="org/name"), f"{MODEL_ARGS}.experts_implementation"),
    "text for a size": (model_args(hidden_size="x"), f"{MODEL_ARGS}.hidden_size: is refused"),
    "a map for a size": (model_args(hidden_size={"a": {"b": 1}}), f"{MODEL_ARGS}.hidden_size: is refused"),
    "a list for a size": (model_args(hidden_size=[16]), f"{MODEL_ARGS}.hidden_size: is refused"),
    "a huge size": (model_args(hidden_size=HUGE), f"{MODEL_ARGS}.hidden_size"),
    "more layers": (model_args(num_hidden_layers=2), f"{MODEL_ARGS} (num_hidden_layers) do not fit the model"),
    "no layers": (model_args(num_hidden_layers=0), f"{MODEL_ARGS} (num_hidden_layers) do not fit the model"),
    "a smaller vocabulary": (model_args(vocab_size=10), f"{MODEL_ARGS} (vocab_size) do not fit the model"),
    "other tying": (model_args(tie_word_embeddings=False), f"{MODEL_ARGS}.tie_word_embeddings"),
    "an unknown rope": (model_args(rope_parameters={"rope_type": "x"}), f"{MODEL_ARGS}.rope_parameters"),
    "an unknown type of weights": (model_args(dtype="float64"), f"{MODEL_ARGS}.dtype"),
    "a setting that no config has": (model_args(x=1), f"{MODEL_ARGS}.x"),
    "config.json: text for a number": (Written(config={"hidden_size": "16"}), "'hidden_size' expected int"),
    "config.json: a list for a number": (Written(config={"rms_norm_eps": [1]}), "'rms_norm_eps' expected float"),
    "config.json: a map for a number": (Written(config={"vocab_size": {"a": 1}}), "'vocab_size' expected int"),
    "config.json: null for a number": (Written(config={"num_attention_heads": None}), "num_attention_heads"),
    "config.json: a number for a truth value": (
        Written(config={"tie_word_embeddings": 3}),
        "'tie_word_embeddings' expected bool",
    ),
    "generation_config.json: an end that is no number": (Written(generation={"eos_token_id": [[1]]}), "eos_token_id"),
    "rows beyond a rotary model's positions": (Written(config={"max_position_embeddings": 16}), "16 positions"),
    "named templates without a default": (
        Written(tokenizer={"chat_template": [{"name": "x", "template": "{{ messages[0].content }}"}]}),
        "has chat templates named x, and none named default",
    ),
    "a length that is no number": (Written(tokenizer={"model_max_length": {"a": 1}}), "The tokenizer of"),
}  # fmt: skip


@pytest.fixture(scope="module")
def bench(tmp_path_factory) -> Bench:
    return Bench(tmp_path_factory.mktemp("bench"))


def refuses(bench: Bench, one: Written, expected: str) -> None:
    for outcome in (bench.plan(one), bench.train(one, capped=False)):
        assert outcome.code == 3, outcome.errors
        assert expected in outcome.errors
        assert "report it" not in outcome.errors
        assert "…" not in outcome.errors, "the reason is cut off"


@pytest.mark.parametrize("name", REFUSED)
def test_plan_and_training_refuse_by_name(name, bench):
    refuses(bench, *REFUSED[name])


def llama(folder: Path, **settings: Any) -> Path:
    """A Llama whose tokenizer has 400 tokens."""
    from transformers import LlamaConfig, LlamaForCausalLM

    size: dict[str, Any] = {"vocab_size": 400, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    LlamaForCausalLM(LlamaConfig(**{**size, **heads, **settings})).save_pretrained(make_tokenizer(folder))
    return folder


def gpt2(folder: Path) -> Path:
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(vocab_size=400, n_positions=16, n_embd=16, n_layer=1, n_head=2)
    GPT2LMHeadModel(config).save_pretrained(make_tokenizer(folder))
    return folder


def test_token_ids_beyond_the_embeddings_are_refused(tmp_path):
    one = Bench(tmp_path, llama(tmp_path / "model", vocab_size=300))
    refuses(one, Written(), "have tokens without an embedding in the model")


def test_rows_beyond_learned_positions_are_refused(tmp_path):
    one = Bench(tmp_path, gpt2(tmp_path / "model"))
    refuses(one, Written({CONFIG + "peft_conf": {"peft_type": "NO_PEFT"}}), "longer than the model's 16 positions")


def test_tying_an_untied_model_is_refused(tmp_path):
    one = Bench(tmp_path, llama(tmp_path / "model", tie_word_embeddings=False))
    refuses(one, model_args(tie_word_embeddings=True), f"{MODEL_ARGS}.tie_word_embeddings")


@dataclass(frozen=True)
class Taken:
    """Model arguments as Helm and JSON write them, and as the trained model has them."""

    given: dict[str, Any]
    has: dict[str, Any] = field(default_factory=dict)


@pytest.mark.parametrize(
    "taken",
    [
        Taken({"rms_norm_eps": 1}, {"rms_norm_eps": 1.0}),
        Taken({"attention_dropout": 0}),
        Taken({"max_position_embeddings": 4096.0}, {"max_position_embeddings": 4096}),
        Taken({"attn_implementation": "flash_attention_2"}),  # computed by its equivalent on a CPU
        Taken({"tie_word_embeddings": True}),  # as the model is
    ],
    ids=lambda taken: ", ".join(taken.given),
)
def test_plan_and_training_take_numbers_as_helm_writes_them(taken, bench):
    full = {CONFIG + "peft_conf": {"peft_type": "NO_PEFT"}, MODEL_ARGS: taken.given}
    assert bench.plan(Written(full)).code == 0
    outcome = bench.train(Written(full))
    assert outcome.code == 0, outcome.errors
    published = json.loads((bench.published / "config.json").read_text())
    assert {name: published[name] for name in taken.has} == taken.has
    assert all(type(published[name]) is type(value) for name, value in taken.has.items())


def test_a_compiled_model_trains(bench):
    outcome = bench.train(args(torch_compile_backend="eager"), capped=False)
    assert outcome.code == 0, outcome.errors
