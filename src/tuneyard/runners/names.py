"""Names of runs: which are allowed, and how a command line refers to a run (`lora-16` or `finetune/lora-16`).

Pure functions over text and `RunInfo`; they need no runner.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from tuneyard.errors import NotFoundError, UsageError
from tuneyard.runners.info import KINDS, VERBS, RunInfo, RunKey, Verb

NAME_CHARACTERS_MAX = 53
# The names that Kubernetes objects and Helm releases allow, so that a name is valid on both targets.
_NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,51}[a-z0-9])?")


def check_name(name: str) -> str:
    """Return the name if it is allowed.

    Raises:
        UsageError: If it is not; the hint holds the nearest name that is.
    """
    if _NAME.fullmatch(name):
        return name
    nearest = nearest_name(name)
    raise UsageError(
        f"{name!r} is not a valid run name; allowed: lowercase letters, digits and inner '-', "
        f"at most {NAME_CHARACTERS_MAX} characters.",
        hint=f"Use --name {nearest}" if nearest else "Choose one with --name.",
        name=name,
    )


def nearest_name(text: str) -> str:
    """Return the allowed name that is closest to a text; empty if none of its characters is allowed."""
    plain = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
    return plain[:NAME_CHARACTERS_MAX].rstrip("-")


def parse_reference(reference: str) -> tuple[Verb | None, str]:
    """Split `verb/name` or `name`.

    Raises:
        UsageError: If the verb or the name is not one.
    """
    before, slash, after = reference.partition("/")
    if not slash:
        return None, check_name(reference)
    for verb in VERBS:
        if verb == before:
            return verb, check_name(after)
    raise UsageError(
        f"{reference!r} is not the name of a run: {before!r} is not a verb with runs.",
        hint=f"Use one of {', '.join(f'{verb}/NAME' for verb in VERBS)}, or the name alone.",
    )


def find_run(
    runs: Iterable[RunInfo],
    reference: str,
    *,
    verbs: Sequence[Verb] = VERBS,
    prefer: Verb | None = None,
    command: str = "tuneyard logs",
    options: str = "",
) -> RunInfo:
    """Find the run that `name` or `verb/name` refers to.

    If several verbs use a name, it refers to the preferred verb's run, else to the only one that is running; otherwise
    the verb is required.

    Args:
        runs: All runs.
        reference: What the user wrote.
        verbs: The verbs whose runs it can refer to.
        prefer: The verb to choose if several use the name.
        command: The command in which it was written, for the hint.
        options: The options that select these runs' target (`Runner.options`), for the hint.

    Raises:
        NotFoundError: If there is no such run.
        UsageError: If it is ambiguous.
    """
    verb, name = parse_reference(reference)
    found = [run for run in runs if run.name == name and run.verb in verbs and verb in (None, run.verb)]
    if not found:
        raise NotFoundError(
            f"There is no {_kinds(verbs if verb is None else (verb,))} named {name!r}.",
            hint=f"List the runs: tuneyard runs{options}",
            name=name,
        )
    preferred = [run for run in found if run.verb == prefer]
    running = [run for run in found if not run.ended]
    for chosen in (found, preferred, running):
        if len(chosen) == 1:
            return chosen[0]
    keys = [str(RunKey(run.verb, run.name)) for run in found]
    raise UsageError(
        f"{name!r} is the name of several runs: {', '.join(keys)}.",
        hint=f"Name one of them: {command} {keys[0]}{options}",
        runs=keys,
    )


def _kinds(verbs: Sequence[Verb]) -> str:
    return "run" if len(verbs) == len(VERBS) else " or ".join(KINDS[verb] for verb in verbs)
