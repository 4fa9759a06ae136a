"""The verbs of Tuneyard for Python programs: the same as on the command line, with the same words.

    run = tuneyard.finetune("values.yaml", set=["finetuning_config.peft_conf.peft_kwargs.r=16"], name="lora-16")
    server = tuneyard.serve("lora-16")
    print(tuneyard.chat("What is a manifest?", name="lora-16"))

Each verb plans (tuneyard.runners.plans), launches on a runner and gives a handle back. No verb asks which target it is
on. Errors are those of `tuneyard.errors`; a run that was waited for and did not succeed raises `RunEndedError`.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from typing import TYPE_CHECKING, Any, Literal, overload

from tuneyard.runners.base import STOP_SECONDS, Runner
from tuneyard.runners.info import RunInfo, RunKey, Verb
from tuneyard.runners.names import find_run
from tuneyard.runners.targets import Target, runner_for
from tuneyard.runners.waiting import raise_if_not_succeeded

if TYPE_CHECKING:
    from tuneyard.chatting import Message
    from tuneyard.runners.forecast import Forecast
    from tuneyard.runners.plans import Plan
    from tuneyard.values import DeliverValues, FinetuneValues, InferenceValues

logger = logging.getLogger(__name__)

_LOOK_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Run:
    """A handle on one run. It holds no state: every method asks the runner anew.

    Attributes:
        key: The run's verb and name.
        runner: Where it runs.
    """

    key: RunKey
    runner: Runner

    def info(self) -> RunInfo:
        """Tell all that is known of it now."""
        return self.runner.get(self.key)

    def wait(self, *, timeout_seconds: float | None = None) -> RunInfo:
        """Wait until it has ended.

        Raises:
            RunEndedError: If it did not succeed.
            UnavailableError: If it still works after that time.
        """
        return raise_if_not_succeeded(self.runner.wait(self.key, timeout_seconds=timeout_seconds))

    def logs(self, *, follow: bool = False) -> Iterator[str]:
        """Give the lines it printed; with `follow`, wait for more until it has ended."""
        return self.runner.logs(self.key, follow=follow)

    def stop(self, *, force: bool = False, timeout_seconds: float = STOP_SECONDS) -> RunInfo:
        """Tell it to save and stop, and wait until it has; with `force`, kill it where it has not in time."""
        return self.runner.stop(self.key, force=force, timeout_seconds=timeout_seconds)


def deliver(
    *files: str | PathLike[str],
    set: Sequence[str] = (),
    values: Mapping[str, Any] | DeliverValues | None = None,
    name: str | None = None,
    store: str | None = None,
    wait: bool = True,
    on: Target = "local",
) -> Run:
    """Bring a model, a dataset or both into the store.

    Args:
        files: Values files, later ones winning.
        set: `path=value` texts that win over everything else.
        values: Values that win over the files.
        name: The run's name; by default the last part of `bucketModelPath`, else the last file's name.
        store: The store's URL or folder; `TUNEYARD_STORE` or the local store by default.
        wait: Whether to return only when it has succeeded.
        on: The target: `"local"`, `"kubernetes"`, or `tuneyard.Kubernetes(context=…, namespace=…)`.

    Returns:
        A handle on the run.

    Raises:
        InvalidValuesError: If the values are not allowed, with every problem.
        NotFoundError: If a values file is not there.
        RunEndedError: If it was waited for and did not succeed.
    """
    from tuneyard.runners.plans import Sources, plan_deliver

    runner = runner_for(on)
    return _launch(plan_deliver(Sources(files, set, values, name, store), runner), runner, wait=wait)


def plan(
    *files: str | PathLike[str],
    set: Sequence[str] = (),
    values: Mapping[str, Any] | FinetuneValues | None = None,
    name: str | None = None,
    store: str | None = None,
    inside: bool = False,
    on: Target = "local",
) -> Forecast:
    """Tell what a finetuning run would take, and whether it fits and would start now. Nothing is launched.

    Args:
        files: Values files, later ones winning.
        set: `path=value` texts that win over everything else.
        values: Values that win over the files.
        name: The run's name.
        store: The store's URL or folder as this machine reaches it; by default `TUNEYARD_STORE`, else the local store,
            or for a cluster the values' own.
        inside: Whether to look at model and data from a short pod in the cluster.
        on: The target: `"local"`, `"kubernetes"`, or `tuneyard.Kubernetes(context=…, namespace=…)`.

    Returns:
        The estimate, the verdict (`yes`, `not now`, `never` or `unknown`), and what a cluster says.

    Raises:
        InvalidValuesError: If the values are not allowed, or ask for what is not trained, with every problem.
        InvalidDataError: If rows of the data can't be trained on.
        NotFoundError: If a values file, the base model, the namespace or its queue is not there.
        UnavailableError: If the store or the cluster can't be reached.
    """
    from tuneyard.runners.forecast import forecast
    from tuneyard.runners.plans import Sources

    return forecast(Sources(files, set, values, name, store), runner_for(on), inside=inside)


def finetune(
    *files: str | PathLike[str],
    set: Sequence[str] = (),
    values: Mapping[str, Any] | FinetuneValues | None = None,
    name: str | None = None,
    store: str | None = None,
    wait: bool = True,
    on: Target = "local",
) -> Run:
    """Finetune a delivered model on delivered data.

    Launched again under its name, a finished run is left as it is and an unfinished one goes on from its newest
    checkpoint.

    Args:
        files: Values files, later ones winning.
        set: `path=value` texts that win over everything else.
        values: Values that win over the files.
        name: The run's name; by default the last part of `checkpointsRemote`, else the last file's name.
        store: The store's URL or folder; `TUNEYARD_STORE` or the local store by default.
        wait: Whether to return only when it has succeeded.
        on: The target: `"local"`, `"kubernetes"`, or `tuneyard.Kubernetes(context=…, namespace=…)`.

    Returns:
        A handle on the run.

    Raises:
        InvalidValuesError: If the values are not allowed, with every problem.
        NotFoundError: If a values file, the base model or a dataset is not there.
        ConflictError: If a run of that name works with other values.
        RunEndedError: If it was waited for and did not succeed.
    """
    from tuneyard.runners.plans import Sources, plan_finetune

    runner = runner_for(on)
    return _launch(plan_finetune(Sources(files, set, values, name, store), runner), runner, wait=wait)


def serve(
    run: str | None = None,
    *files: str | PathLike[str],
    merged: bool = False,
    set: Sequence[str] = (),
    values: Mapping[str, Any] | InferenceValues | None = None,
    name: str | None = None,
    store: str | None = None,
    port: int | None = None,
    wait: bool = True,
    on: Target = "local",
) -> Run:
    """Serve a finetuned model, or any that values name, on an OpenAI-compatible endpoint.

    The handle's `info().url` is the endpoint and `info().api_key_file` holds its key; in a cluster, the Secret
    `info().api_key_secret`.

    Args:
        run: A finished finetuning run; None serves what the values name.
        files: Values files, later ones winning.
        merged: Whether to serve the run's merged model instead of its `checkpoint-final`.
        set: `path=value` texts that win over everything else.
        values: Values that win over the files.
        name: The server's name; by default the run's.
        store: The store's URL or folder; by default the run's.
        port: The port; by default the first free one from 8080.
        wait: Whether to return only when it answers.
        on: The target: `"local"`, `"kubernetes"`, or `tuneyard.Kubernetes(context=…, namespace=…)`.

    Returns:
        A handle on the server.

    Raises:
        InvalidValuesError: If the values are not allowed, with every problem.
        NotFoundError: If the run, or what it should have published, is not there.
        RunEndedError: If it was waited for and ended before it answered.
    """
    from tuneyard.runners.plans import Sources, plan_serve
    from tuneyard.runners.waiting import wait_until_ready

    runner = runner_for(on)
    sources = Sources(files, set, values, name, store)
    server = _launch(plan_serve(sources, runner, run=run, merged=merged, port=port), runner, wait=False)
    if wait:
        wait_until_ready(runner, server.key)
    return server


@overload
def chat(
    question: str | Sequence[Message],
    *,
    name: str | None = None,
    compare: Literal[False] = False,
    system: str | None = None,
    max_tokens: int | None = None,
    temperature: float | None = None,
    on: Target = "local",
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
    on: Target = "local",
) -> dict[str, str]: ...
def chat(
    question: str | Sequence[Message],
    *,
    name: str | None = None,
    compare: bool = False,
    system: str | None = None,
    max_tokens: int | None = None,
    temperature: float | None = None,
    on: Target = "local",
) -> str | dict[str, str]:
    """Ask a served model; nothing is remembered from one call to the next.

    Args:
        question: A question, or a whole conversation whose last message asks.
        name: The server's name; the only running one by default. One that still loads is waited for.
        compare: Whether the base model is asked too.
        system: A system message to put first.
        max_tokens: The longest answer; the server's own limit by default.
        temperature: 0 for the same answer every time; the model's own setting by default.
        on: The target: `"local"`, `"kubernetes"`, or `tuneyard.Kubernetes(context=…, namespace=…)`.

    Returns:
        The answer; with `compare`, both answers by the model's name, the base first.

    Raises:
        NotFoundError: If there is no such server, or no two models to compare.
        UnavailableError: If it does not run or can't be reached.
    """
    from tuneyard.chatting import ask, ask_both, connect
    from tuneyard.runners.waiting import find_server, wait_until_ready

    runner = runner_for(on)
    server = wait_until_ready(runner, find_server(runner, name).key)
    asked: list[Message] = [{"role": "system", "content": system}] if system else []
    asked += [{"role": "user", "content": question}] if isinstance(question, str) else question
    with runner.reach(server.key) as reached:
        endpoint = connect(reached.url, reached.api_key, target=runner.words)
        if compare:
            return ask_both(endpoint, asked, max_tokens=max_tokens, temperature=temperature)
        (model,) = endpoint.chosen(None, compare=False)
        return ask(endpoint, model, asked, max_tokens=max_tokens, temperature=temperature)


def runs(verb: Verb | None = None, *, on: Target = "local") -> list[RunInfo]:
    """List the runs there are, newest launch first.

    Args:
        verb: Only this verb's.
        on: The target: `"local"`, `"kubernetes"`, or `tuneyard.Kubernetes(context=…, namespace=…)`.
    """
    return runner_for(on).list(verb)


def find(name: str, *, on: Target = "local") -> Run:
    """Give a handle on a run that was launched before.

    Args:
        name: `NAME`, or `VERB/NAME` where several verbs use the name.
        on: The target: `"local"`, `"kubernetes"`, or `tuneyard.Kubernetes(context=…, namespace=…)`.

    Raises:
        NotFoundError: If there is no such run.
        UsageError: If several are named so.
    """
    runner = runner_for(on)
    return Run(find_run(runner.list(), name, target=runner.words).key, runner)


def logs(name: str, *, follow: bool = False, on: Target = "local") -> Iterator[str]:
    """Give the lines that a run printed.

    Args:
        name: `NAME` or `VERB/NAME`.
        follow: Whether to wait for more until it has ended.
        on: The target: `"local"`, `"kubernetes"`, or `tuneyard.Kubernetes(context=…, namespace=…)`.

    Raises:
        NotFoundError: If there is no such run.
    """
    return find(name, on=on).logs(follow=follow)


def watch(name: str, *, on: Target = "local") -> Iterator[RunInfo]:
    """Give what is known of a run whenever it has changed, until it has ended; the run does not notice.

    Args:
        name: `NAME` or `VERB/NAME`; where several verbs use the name, the finetuning run is meant.
        on: The target: `"local"`, `"kubernetes"`, or `tuneyard.Kubernetes(context=…, namespace=…)`.

    Raises:
        NotFoundError: If there is no such run.
    """
    from tuneyard.runners.waiting import changes

    runner = runner_for(on)
    key = find_run(runner.list(), name, prefer="finetune", target=runner.words).key
    return changes(runner, key, every_seconds=max(_LOOK_SECONDS, runner.look_seconds))


def stop(name: str, *, force: bool = False, timeout_seconds: float = STOP_SECONDS, on: Target = "local") -> RunInfo:
    """Tell a run to save and stop, and wait until it has.

    Args:
        name: `NAME` or `VERB/NAME`.
        force: Whether to kill it where it has not stopped in time.
        timeout_seconds: How long it may take.
        on: The target: `"local"`, `"kubernetes"`, or `tuneyard.Kubernetes(context=…, namespace=…)`.

    Raises:
        NotFoundError: If there is no such run.
        UnavailableError: If it still works after that time and `force` is false.
    """
    return find(name, on=on).stop(force=force, timeout_seconds=timeout_seconds)


def delete(name: str, *, data: bool = False, on: Target = "local") -> RunInfo:
    """Remove what a target keeps of a run that has ended, and tell what it was.

    Args:
        name: `NAME` or `VERB/NAME`.
        data: Whether to remove what a finetuning run has published in the store too. There is no way back.
        on: The target: `"local"`, `"kubernetes"`, or `tuneyard.Kubernetes(context=…, namespace=…)`.

    Raises:
        NotFoundError: If there is no such run.
        ConflictError: If it still works.
        UsageError: If data is to be removed of a run that publishes none.
    """
    run = find(name, on=on)
    if data:
        run.runner.delete_data(run.key)
    return run.runner.delete(run.key)


def _launch(planned: Plan, runner: Runner, *, wait: bool) -> Run:
    for note in planned.notes:
        logger.info("%s", note)
    run = Run(runner.launch(planned.launch).key, runner)
    if wait:
        run.wait()
    return run
