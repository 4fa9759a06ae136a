"""The verbs as functions: methods of a `Client` with the defaults, or with the given `on` and `store`.

Generated from `client` by `scripts/verbs.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, overload

from tuneyard.client import Client
from tuneyard.runners import STOP_SECONDS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from typing import Any, Literal

    from tuneyard.chatting import Message
    from tuneyard.client import AnyValues, File
    from tuneyard.data import Format
    from tuneyard.diagnosis import Report
    from tuneyard.inventory import Removal, Verified
    from tuneyard.job import CheckedData, ShownRow
    from tuneyard.runners import (
        Forecast,
        Preview,
        Run,
        RunInfo,
        Target,
        Verb,
    )
    from tuneyard.values import DeliverValues, FinetuneValues, InferenceValues


def deliver(
    *files: File,
    set: Sequence[str] = (),
    values: Mapping[str, Any] | DeliverValues | None = None,
    name: str | None = None,
    wait: bool = True,
    on: Target | None = None,
    store: File | None = None,
) -> Run:
    """Deliver a model, a dataset or both to the store.

    Args:
        files: Values files, later ones winning.
        set: `path=value` texts that win over everything else.
        values: Values that win over the files.
        name: The run's name; by default the last part of `bucketModelPath`, else the last file's name.
        wait: Whether to return only when it has succeeded.
        on: The target, as for `Client`.
        store: The store, as for `Client`.

    Returns:
        A handle on the run.

    Raises:
        InvalidValuesError: If the values are not allowed, with every problem.
        NotFoundError: If a values file does not exist.
        RunEndedError: If it was waited for and did not succeed.
    """
    return Client(on, store=store).deliver(*files, set=set, values=values, name=name, wait=wait)


def preview(
    verb: Verb,
    *files: File,
    set: Sequence[str] = (),
    values: Mapping[str, Any] | DeliverValues | FinetuneValues | InferenceValues | None = None,
    name: str | None = None,
    run: str | None = None,
    merged: bool = False,
    port: int | None = None,
    on: Target | None = None,
    store: File | None = None,
) -> Preview:
    """Return what a launch would run: the resolved values and, for a cluster, the manifests. Nothing is launched.

    Args:
        verb: `deliver`, `finetune` or `serve`.
        files: Values files, later ones winning.
        set: `path=value` texts that win over everything else.
        values: Values that win over the files.
        name: The run's name.
        run: As for `serve`.
        merged: As for `serve`.
        port: As for `serve`.
        on: The target, as for `Client`.
        store: The store, as for `Client`.

    Raises:
        InvalidValuesError: If the values are not allowed, with every problem.
        NotFoundError: If a values file, or the run to serve, does not exist.
    """
    return Client(on, store=store).preview(
        verb, *files, set=set, values=values, name=name, run=run, merged=merged, port=port
    )


def plan(
    *files: File,
    set: Sequence[str] = (),
    values: Mapping[str, Any] | FinetuneValues | None = None,
    name: str | None = None,
    inside: bool = False,
    on: Target | None = None,
    store: File | None = None,
) -> Forecast:
    """Estimate a finetuning run, and whether it would fit and start now. Nothing is launched.

    Args:
        files: Values files, later ones winning.
        set: `path=value` texts that win over everything else.
        values: Values that win over the files.
        name: The run's name.
        inside: Whether to read model and data in a short-lived pod in the cluster.
        on: The target, as for `Client`.
        store: The store, as for `Client`.

    Returns:
        The estimate, the verdict (`yes`, `not now`, `never` or `unknown`), and the findings that it is based on.

    Raises:
        InvalidValuesError: If the values are not allowed, or request what is not supported, with every problem.
        InvalidDataError: If rows of the data can't be trained on.
        NotFoundError: If a values file, the base model, the namespace or its queue does not exist.
        UnavailableError: If the store or the cluster can't be reached.
    """
    return Client(on, store=store).plan(*files, set=set, values=values, name=name, inside=inside)


def finetune(
    *files: File,
    set: Sequence[str] = (),
    values: Mapping[str, Any] | FinetuneValues | None = None,
    name: str | None = None,
    wait: bool = True,
    on: Target | None = None,
    store: File | None = None,
) -> Run:
    """Finetune a delivered model on delivered data.

    Launched again under its name, a finished run is left unchanged and an unfinished one resumes from its newest
    checkpoint.

    Args:
        files: Values files, later ones winning.
        set: `path=value` texts that win over everything else.
        values: Values that win over the files.
        name: The run's name; by default the last part of `checkpointsRemote`, else the last file's name.
        wait: Whether to return only when it has succeeded.
        on: The target, as for `Client`.
        store: The store, as for `Client`.

    Returns:
        A handle on the run.

    Raises:
        InvalidValuesError: If the values are not allowed, with every problem.
        NotFoundError: If a values file, the base model or a dataset does not exist.
        ConflictError: If a run of that name is running with other values.
        RunEndedError: If it was waited for and did not succeed.
    """
    return Client(on, store=store).finetune(*files, set=set, values=values, name=name, wait=wait)


def serve(
    run: str | None = None,
    *files: File,
    merged: bool = False,
    set: Sequence[str] = (),
    values: Mapping[str, Any] | InferenceValues | None = None,
    name: str | None = None,
    port: int | None = None,
    wait: bool = True,
    on: Target | None = None,
    store: File | None = None,
) -> Run:
    """Serve a finetuned model, or the model that values name, on an OpenAI-compatible endpoint.

    The handle's `url` is the endpoint and `info().api_key_file` holds its key; in a cluster, the Secret
    `info().api_key_secret`.

    Args:
        run: A finished finetuning run; None serves what the values name.
        files: Values files, later ones winning.
        merged: Whether to serve the run's merged model instead of its `checkpoint-final`.
        set: `path=value` texts that win over everything else.
        values: Values that win over the files.
        name: The server's name; by default the run's.
        port: The port; by default the first free one from 8080.
        wait: Whether to return only when it answers.
        on: The target, as for `Client`.
        store: The store, as for `Client`.

    Returns:
        A handle on the server.

    Raises:
        InvalidValuesError: If the values are not allowed, with every problem.
        NotFoundError: If the run, or the model it should have published, does not exist.
        RunEndedError: If it was waited for and ended before it answered.
    """
    return Client(on, store=store).serve(
        run, *files, merged=merged, set=set, values=values, name=name, port=port, wait=wait
    )


@overload
def chat(
    question: str | Sequence[Message],
    *,
    name: str | None = None,
    compare: Literal[False] = False,
    system: str | None = None,
    max_tokens: int | None = None,
    temperature: float | None = None,
    on: Target | None = None,
    store: File | None = None,
) -> str: ...


@overload
def chat(
    question: str | Sequence[Message],
    *,
    name: str | None = None,
    compare: Literal[True],
    system: str | None = None,
    max_tokens: int | None = None,
    temperature: float | None = None,
    on: Target | None = None,
    store: File | None = None,
) -> dict[str, str]: ...


@overload
def chat(
    question: str | Sequence[Message],
    *,
    name: str | None = None,
    compare: bool,
    system: str | None = None,
    max_tokens: int | None = None,
    temperature: float | None = None,
    on: Target | None = None,
    store: File | None = None,
) -> str | dict[str, str]: ...


def chat(
    question: str | Sequence[Message],
    *,
    name: str | None = None,
    compare: bool = False,
    system: str | None = None,
    max_tokens: int | None = None,
    temperature: float | None = None,
    on: Target | None = None,
    store: File | None = None,
) -> str | dict[str, str]:
    """Send a question to a served model; each call is a new conversation.

    Args:
        question: A question, or a whole conversation that ends with one.
        name: The server's name; by default the only running one. One that is still loading is waited for.
        compare: Whether the base model answers too.
        system: A system message to put first.
        max_tokens: The most tokens of the answer; by default the server's limit.
        temperature: 0 for the same answer every time; by default the model's own setting.
        on: The target, as for `Client`.
        store: The store, as for `Client`.

    Returns:
        The answer; with `compare`, both answers by the model's name, the base first.

    Raises:
        NotFoundError: If there is no such server, or no two models to compare.
        UnavailableError: If it is not running or can't be reached.
    """
    return Client(on, store=store).chat(
        question, name=name, compare=compare, system=system, max_tokens=max_tokens, temperature=temperature
    )


def runs(verb: Verb | None = None, *, on: Target | None = None, store: File | None = None) -> list[RunInfo]:
    """List the runs, newest launch first.

    Args:
        verb: Only this verb's.
        on: The target, as for `Client`.
        store: The store, as for `Client`.
    """
    return Client(on, store=store).runs(verb)


def find(name: str, *, prefer: Verb | None = None, on: Target | None = None, store: File | None = None) -> Run:
    """Return a handle on a run that was launched before.

    Args:
        name: `NAME`, or `VERB/NAME` if several verbs use the name.
        prefer: The verb to choose if several use the name.
        on: The target, as for `Client`.
        store: The store, as for `Client`.

    Raises:
        NotFoundError: If there is no such run.
        UsageError: If several runs have that name.
    """
    return Client(on, store=store).find(name, prefer=prefer)


def logs(name: str, *, follow: bool = False, on: Target | None = None, store: File | None = None) -> Iterator[str]:
    """Yield the lines of a run's log.

    Args:
        name: `NAME` or `VERB/NAME`.
        follow: Whether to wait for more until it has ended.
        on: The target, as for `Client`.
        store: The store, as for `Client`.

    Raises:
        NotFoundError: If there is no such run.
    """
    return Client(on, store=store).logs(name, follow=follow)


def watch(name: str, *, on: Target | None = None, store: File | None = None) -> Iterator[RunInfo]:
    """Yield a run's state now and after each change, until it has ended.

    Args:
        name: `NAME` or `VERB/NAME`; if several verbs use the name, the finetuning run.
        on: The target, as for `Client`.
        store: The store, as for `Client`.

    Raises:
        NotFoundError: If there is no such run.
    """
    return Client(on, store=store).watch(name)


def stop(
    name: str,
    *,
    force: bool = False,
    timeout_seconds: float = STOP_SECONDS,
    on: Target | None = None,
    store: File | None = None,
) -> RunInfo:
    """Request that a run saves and stops, and wait until it has.

    Args:
        name: `NAME` or `VERB/NAME`.
        force: Whether to kill it if it has not stopped in time.
        timeout_seconds: How long it may take.
        on: The target, as for `Client`.
        store: The store, as for `Client`.

    Raises:
        NotFoundError: If there is no such run.
        UnavailableError: If it is still running after that time and `force` is false.
    """
    return Client(on, store=store).stop(name, force=force, timeout_seconds=timeout_seconds)


def delete(name: str, *, data: bool = False, on: Target | None = None, store: File | None = None) -> RunInfo:
    """Delete what the target keeps of a run that has ended, and return its last state.

    Args:
        name: `NAME` or `VERB/NAME`.
        data: Whether to also delete what a finetuning run has published in the store. This can't be undone.
        on: The target, as for `Client`.
        store: The store, as for `Client`.

    Raises:
        NotFoundError: If there is no such run.
        ConflictError: If it is still running.
        UsageError: If `data` is set and the run has no published data.
    """
    return Client(on, store=store).delete(name, data=data)


def check_data(
    *data: File,
    model: str | None = None,
    validation: Sequence[File] = (),
    format: Format | None = None,
    files: Sequence[File] = (),
    set: Sequence[str] = (),
    values: Mapping[str, Any] | FinetuneValues | None = None,
    examples: int = 0,
    on: Target | None = None,
    store: File | None = None,
) -> CheckedData:
    """Check rows as training would read them: problems with their place, counts, and a histogram of lengths.

    Args:
        data: Files of this machine, or keys of the store; by default the datasets of the values.
        model: The model with the tokenizer: a folder, or a key of the store; by default the values' `basemodel`.
        validation: Files that `data` is compared with: a row in both is reported.
        format: The format of the rows; by default detected.
        files: Values files, later ones winning.
        set: `path=value` texts that win over everything else.
        values: Values that win over the files.
        examples: How many rows of each kind the report shows.
        on: The target, as for `Client`.
        store: The store, as for `Client`.

    Returns:
        The report, and whether a training would start.

    Raises:
        UsageError: If neither arguments nor values name data and a model.
        NotFoundError: If a file, the data or the model does not exist.
    """
    return Client(on, store=store).check_data(
        *data, model=model, validation=validation, format=format, files=files, set=set, values=values, examples=examples
    )


def show_data(
    *data: File,
    model: str | None = None,
    format: Format | None = None,
    files: Sequence[File] = (),
    set: Sequence[str] = (),
    values: Mapping[str, Any] | FinetuneValues | None = None,
    count: int = 3,
    skip: int = 0,
    on: Target | None = None,
    store: File | None = None,
) -> list[ShownRow]:
    """Return rows as the model reads them: rendered, with their token ids and what is trained.

    Args:
        data: Files of this machine, or keys of the store; by default the datasets of the values.
        model: The model with the tokenizer: a folder, or a key of the store; by default the values' `basemodel`.
        format: The format of the rows; by default detected.
        files: Values files, later ones winning.
        set: `path=value` texts that win over everything else.
        values: Values that win over the files.
        count: How many rows.
        skip: How many to skip first.
        on: The target, as for `Client`.
        store: The store, as for `Client`.

    Raises:
        InvalidDataError: If one of the rows can't be used, or there is none.
        NotFoundError: If a file, the data or the model does not exist.
        UsageError: If neither arguments nor values name data and a model.
    """
    return Client(on, store=store).show_data(
        *data, model=model, format=format, files=files, set=set, values=values, count=count, skip=skip
    )


def resolve_values(
    kind: Literal["namespace", "deliver", "finetune", "serve"],
    *files: File,
    set: Sequence[str] = (),
    values: Mapping[str, Any] | None = None,
    on: Target | None = None,
    store: File | None = None,
) -> AnyValues:
    """Resolve values as a launch would, every default filled in.

    Args:
        kind: The verb, or `namespace` for its setup.
        files: Values files, later ones winning.
        set: `path=value` texts that win over everything else.
        values: Values that win over the files.
        on: The target, as for `Client`.
        store: The store, as for `Client`.

    Raises:
        InvalidValuesError: If they are not allowed, with every problem.
        NotFoundError: If a values file does not exist.
        UsageError: If there is no such kind.
    """
    return Client(on, store=store).resolve_values(kind, *files, set=set, values=values)


def schema(
    kind: Literal["namespace", "deliver", "finetune", "serve"], *, on: Target | None = None, store: File | None = None
) -> dict[str, Any]:
    """Return the JSON Schema of values.

    Args:
        kind: The verb, or `namespace` for its setup.
        on: The target, as for `Client`.
        store: The store, as for `Client`.

    Raises:
        UsageError: If there is no such kind.
    """
    return Client(on, store=store).schema(kind)


def verify(place: str, *, on: Target | None = None, store: File | None = None) -> Verified:
    """Read everything under a key and compare it with the manifests.

    Args:
        place: A key (`bucket/path`) of a run, a model, data or a folder of them; or a finetuning run's name.
        on: The target, as for `Client`.
        store: The store, as for `Client`.

    Returns:
        The state of each part; `damage` is empty if everything is as published.

    Raises:
        NotFoundError: If there is nothing under the key, or no such run.
    """
    return Client(on, store=store).verify(place)


def gc(
    place: str,
    *,
    older_than_hours: float = 24.0,
    dry_run: bool = False,
    on: Target | None = None,
    store: File | None = None,
) -> Removal:
    """Delete the objects under a key that no manifest lists: leftovers of killed runs and deliveries.

    Args:
        place: A key (`bucket/path`), or a finetuning run's name.
        older_than_hours: The least age of an object to delete.
        dry_run: Whether to only report what would be deleted.
        on: The target, as for `Client`.
        store: The store, as for `Client`.

    Raises:
        NotFoundError: If there is no such run.
    """
    return Client(on, store=store).gc(place, older_than_hours=older_than_hours, dry_run=dry_run)


def doctor(
    *files: File,
    set: Sequence[str] = (),
    bucket: str = "default-bucket",
    quick: bool = False,
    progress: Callable[[str], None] | None = None,
    on: Target | None = None,
    store: File | None = None,
) -> Report:
    """Check that the target's prerequisites are in place.

    Args:
        files: Values files, for a cluster.
        set: `path=value` texts, for a cluster.
        bucket: The bucket to write into.
        quick: Whether to start no pod in a cluster.
        progress: Called with the name of each group of checks before it starts.
        on: The target, as for `Client`.
        store: The store, as for `Client`.

    Returns:
        The report, with a hint for each problem and the exit code of the worst.

    Raises:
        UsageError: If the target does not support an argument.
    """
    return Client(on, store=store).doctor(*files, set=set, bucket=bucket, quick=quick, progress=progress)


def check_store(
    *,
    bucket: str = "default-bucket",
    rounds: int = 20,
    progress: Callable[[str], None] | None = None,
    on: Target | None = None,
    store: File | None = None,
) -> Report:
    """Check that the store has the semantics that resuming relies on. All objects it writes are deleted again.

    Args:
        bucket: The bucket to write into.
        rounds: The number of rounds of 32 concurrent conditional writes.
        progress: Called with the name of each group of checks before it starts.
        on: The target, as for `Client`.
        store: The store, as for `Client`.
    """
    return Client(on, store=store).check_store(bucket=bucket, rounds=rounds, progress=progress)
