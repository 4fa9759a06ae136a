"""No input of a user ends in exit 1: random values, rows and models, through plan and a first step."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, Phase, example, given, seed, settings

from lab.written import Bench, Written, written
from tuneyard.errors import error_of

CONFIG = "finetuning_config."
ARGS = f"{CONFIG}training_args."
DOCUMENTED = (0, 2, 3, 4, 5, 6, 7, 8)
_PLAIN = settings(
    database=None,
    deadline=None,
    phases=(Phase.explicit, Phase.generate),  # each takes a plan and a training: too long to look for a smaller one
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture(scope="module")
def bench(tmp_path_factory) -> Iterator[Bench]:
    yield Bench(tmp_path_factory.mktemp("bench"))


def ends_as_documented(bench: Bench, one: Written) -> None:
    for outcome in (bench.plan(one), bench.train(one)):
        assert outcome.code in DOCUMENTED, f"{one}\n{outcome.errors}"
        assert "report it" not in outcome.errors
        if outcome.code:
            assert "hint: " in outcome.errors or "finetuning_config" in outcome.errors, outcome.errors
            assert error_of(outcome.code).exit_code == outcome.code


# Each was exit 1 once.
@example(Written({CONFIG + "run_conf.model_args": {"hidden_size": "x"}}))
@example(Written({ARGS + "torch_compile_mode": "x"}))
@example(Written(config={"mlp_bias": {"a": 1}}))
@example(Written(tokenizer={"model_max_length": {"a": 1}}))
@example(Written(generation={"eos_token_id": [[1]]}))
@example(Written({ARGS + "dataloader_multiprocessing_context": "fork"}))
@example(Written(generation={"eos_token_id": 2**70}))
@example(Written(config={"return_dict": None}))
@example(Written({CONFIG + "peft_conf.peft_kwargs.alora_invocation_tokens": "inf"}))
@example(Written({ARGS + "eval_strategy": "no", ARGS + "load_best_model_at_end": True}))
@seed(20261130)
@settings(_PLAIN, max_examples=15)
@given(written())
def test_random_inputs_end_as_documented(bench, one):
    ends_as_documented(bench, one)


@pytest.mark.soak
@pytest.mark.timeout(7200)
@settings(_PLAIN, max_examples=1500)
@given(written())
def test_many_random_inputs_end_as_documented(bench, one):
    ends_as_documented(bench, one)
