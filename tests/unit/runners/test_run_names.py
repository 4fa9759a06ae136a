"""Names of runs, and which run a name refers to."""

from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuneyard.errors import NotFoundError, UsageError
from tuneyard.runners import RunInfo, check_name, find_run, nearest_name, parse_reference


@pytest.mark.parametrize("name", ["a", "lora-16", "0", "a" * 53, "r-8-alpha-1"])
def test_allowed_names_are_returned(name):
    assert check_name(name) == name


@pytest.mark.parametrize("name", ["", "-a", "a-", "A", "a_b", "a.b", "a/b", "..", "a" * 54, "ä", "a\n", "a b"])
def test_other_names_are_refused(name):
    with pytest.raises(UsageError, match="is not a valid run name"):
        check_name(name)


@given(st.text(max_size=80))
def test_the_nearest_name_is_allowed_or_empty(text):
    nearest = nearest_name(text)
    assert nearest == "" or check_name(nearest) == nearest


@given(st.from_regex(r"[a-z0-9]([-a-z0-9]{0,51}[a-z0-9])?", fullmatch=True, alphabet=string.printable))
def test_an_allowed_name_without_double_dashes_is_its_own_nearest(name):
    if "--" not in name:
        assert nearest_name(name) == name


def test_a_reference_is_a_name_or_a_verb_and_a_name():
    assert parse_reference("lora") == (None, "lora")
    assert parse_reference("serve/lora") == ("serve", "lora")


def test_an_unknown_verb_is_refused_with_the_allowed_ones():
    with pytest.raises(UsageError, match="'train' is not a verb with runs") as caught:
        parse_reference("train/lora")
    assert "finetune/NAME" in caught.value.hint


RUNS = [
    RunInfo("finetune", "lora", "succeeded"),
    RunInfo("serve", "lora", "running"),
    RunInfo("deliver", "both", "succeeded"),
    RunInfo("finetune", "both", "failed"),
]


def test_a_name_refers_to_the_only_active_run():
    assert find_run(RUNS, "lora") is RUNS[1]


def test_a_verb_decides_between_several_runs():
    assert find_run(RUNS, "finetune/lora") is RUNS[0]
    assert find_run(RUNS, "lora", verbs=("finetune",)) is RUNS[0]


def test_a_name_of_several_ended_runs_is_ambiguous():
    with pytest.raises(UsageError, match="'both' is the name of several runs: deliver/both, finetune/both") as caught:
        find_run(RUNS, "both", command="tuneyard watch")
    assert caught.value.hint == "Name one of them: tuneyard watch deliver/both"


def test_a_missing_run_is_an_error_with_its_verb():
    with pytest.raises(NotFoundError, match="no run named 'nope'"):
        find_run(RUNS, "nope")
    with pytest.raises(NotFoundError, match="no server named 'both'"):
        find_run(RUNS, "serve/both")


def test_the_preferred_verb_decides_between_several_runs():
    assert find_run(RUNS, "lora", prefer="finetune") is RUNS[0]
    assert find_run(RUNS, "lora", prefer="deliver") is RUNS[1]
    assert find_run(RUNS, "serve/lora", prefer="finetune").verb == "serve"
