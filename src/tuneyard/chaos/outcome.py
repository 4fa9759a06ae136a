"""What the trials of one kind have shown: counts, and a sentence for each that went wrong. Pure values."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Trial:
    """One trial.

    Attributes:
        resumed: Whether the training went on afterwards and ended well; None where that was not asked.
        bit_equal: Whether its losses and weights are those of the training that nobody disturbed; None where not asked.
        on_its_way: Whether the kill came between its first step and its end; None where there was none.
        steps_lost: Steps that were done again; None where not asked.
        caught: Whether the damage was found before the first step; None where there was none.
        wrong: What went wrong, as a sentence with what it takes to make it happen again; empty where nothing did.
    """

    resumed: bool | None = None
    bit_equal: bool | None = None
    on_its_way: bool | None = None
    steps_lost: int | None = None
    caught: bool | None = None
    wrong: str = ""


@dataclass(frozen=True, slots=True)
class Outcome:
    """All trials of one kind.

    Attributes:
        kind: What was done, in a few words.
        trials: How many.
        resumed: How many went on and ended well; None where that was not asked.
        bit_equal: How many ended with the same losses and weights, bit for bit.
        on_its_way: How many were killed between their first step and their end.
        steps_lost: The most steps that one had to do again.
        caught: How often damage was found before the first step.
        wrong: What went wrong, a sentence for each.
        skipped: Why there were no trials; empty where there were.
    """

    kind: str
    trials: int
    resumed: int | None = None
    bit_equal: int | None = None
    on_its_way: int | None = None
    steps_lost: int | None = None
    caught: int | None = None
    wrong: tuple[str, ...] = ()
    skipped: str = ""

    @classmethod
    def of(cls, kind: str, trials: Iterable[Trial]) -> Outcome:
        """Count trials."""
        made = list(trials)

        def count(name: str) -> int | None:
            asked = [getattr(trial, name) for trial in made if getattr(trial, name) is not None]
            return sum(asked) if asked else None

        return cls(
            kind=kind,
            trials=len(made),
            resumed=count("resumed"),
            bit_equal=count("bit_equal"),
            on_its_way=count("on_its_way"),
            steps_lost=max((trial.steps_lost for trial in made if trial.steps_lost is not None), default=None),
            caught=count("caught"),
            wrong=tuple(trial.wrong for trial in made if trial.wrong),
        )

    def to_dict(self) -> dict[str, Any]:
        """Give it as JSON can hold it."""
        return asdict(self)
