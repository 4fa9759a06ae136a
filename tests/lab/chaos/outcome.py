"""The outcome of trials: counts, and a sentence for each trial that failed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Trial:
    """One trial; a field is None where it does not apply.

    Attributes:
        resumed: Whether the training resumed and finished.
        bit_equal: Whether its losses and weights equal those of the undisturbed training.
        mid_run: Whether the kill came between its first step and its end.
        steps_lost: The number of steps that were repeated.
        caught: Whether the damage was reported before the first step.
        failure: What went wrong, with what it takes to reproduce it; empty where nothing did.
    """

    resumed: bool | None = None
    bit_equal: bool | None = None
    mid_run: bool | None = None
    steps_lost: int | None = None
    caught: bool | None = None
    failure: str = ""


@dataclass(frozen=True, slots=True)
class Outcome:
    """All trials of one kind; each field counts the trials for which that of `Trial` is true.

    Attributes:
        trials: The number of trials.
        resumed: How many resumed and finished.
        bit_equal: How many finished with equal losses and weights.
        mid_run: How many were killed between their first step and their end.
        steps_lost: The most steps that one repeated.
        caught: How often damage was reported before the first step.
        failures: A sentence for each trial that failed.
    """

    trials: int
    resumed: int
    bit_equal: int
    mid_run: int
    steps_lost: int
    caught: int
    failures: tuple[str, ...]

    @classmethod
    def of(cls, trials: Iterable[Trial]) -> Outcome:
        """Run the trials and count."""
        made = list(trials)
        return cls(
            trials=len(made),
            resumed=sum(trial.resumed is True for trial in made),
            bit_equal=sum(trial.bit_equal is True for trial in made),
            mid_run=sum(trial.mid_run is True for trial in made),
            steps_lost=max((trial.steps_lost or 0 for trial in made), default=0),
            caught=sum(trial.caught is True for trial in made),
            failures=tuple(trial.failure for trial in made if trial.failure),
        )


def run(trials: Iterable[Trial]) -> Outcome:
    """Run trials, check that none failed, and return their outcome."""
    outcome = Outcome.of(trials)
    print(outcome)
    assert outcome.failures == (), "\n".join(outcome.failures)
    return outcome
