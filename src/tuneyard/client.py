"""The client: every verb of the command line for Python programs, under the same names.

    client = tuneyard.Client(on=tuneyard.Kubernetes(namespace="lab"))
    run = client.finetune("values.yaml", set=["finetuning_config.peft_conf.peft_kwargs.r=16"], name="lora-16")
    server = client.serve("lora-16")
    print(client.chat("What is a manifest?", name="lora-16"))

A client holds the target and the store; module functions such as `tuneyard.finetune(…)` use a default client. A verb
plans (`runners.plans`), launches on a runner and returns a handle on the run; no verb depends on its target. Errors are
those of `tuneyard.errors`. Nothing is printed: notices are logged.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from os import PathLike
from typing import TYPE_CHECKING, Any, Literal, cast, overload

from tuneyard.runners import (
    STOP_SECONDS,
    Run,
    RunInfo,
    Runner,
    Target,
    Verb,
    find_run,
    runner_for,
)

if TYPE_CHECKING:
    from tuneyard.chatting import Message
    from tuneyard.data import Format
    from tuneyard.diagnosis import Report
    from tuneyard.inventory import Removal, Verified
    from tuneyard.job import CheckedData, ShownRow
    from tuneyard.runners import Forecast, Plan, Preview, Sources
    from tuneyard.store import Store
    from tuneyard.values import DeliverValues, FinetuneValues, InferenceValues, NamespaceValues

    AnyValues = NamespaceValues | DeliverValues | FinetuneValues | InferenceValues

File = str | PathLike[str]
"""A path of this machine, or a key of the store where that is allowed."""

logger = logging.getLogger(__name__)

_NAMED_BY_ARGUMENTS: Mapping[str, Any] = {
    "basemodel": "default-bucket/models/named-by-argument",
    "finetuning_config": {
        "data_conf": {"training_data": {"datasets": [{"path": "default-bucket/datasets/named-by-argument.jsonl"}]}}
    },
}
"""Values need a model and data to be complete; `check_data` and `show_data` get them as arguments instead."""


class Client:
    """Every verb, on one target and one store.

    Args:
        on: The target: `"local"`, `"kubernetes"`, or `tuneyard.Kubernetes(context=…, namespace=…)`; by default
            `TUNEYARD_ON`, else this machine.
        store: The store's URL or folder as this machine reaches it; by default `TUNEYARD_STORE`, else the local store,
            or for a cluster the values' own.

    Raises:
        UsageError: If there is no such target.
    """

    def __init__(self, on: Target | None = None, *, store: File | None = None) -> None:
        self.target: Target = on or cast("Target", os.environ.get("TUNEYARD_ON") or "local")
        self.runner: Runner = runner_for(self.target)
        self.store = os.fspath(store) if store is not None else None

    def __repr__(self) -> str:
        """Name the target and the store."""
        return f"Client(on={self.target!r}, store={self.store!r})"

    def deliver(
        self,
        *files: File,
        set: Sequence[str] = (),
        values: Mapping[str, Any] | DeliverValues | None = None,
        name: str | None = None,
        wait: bool = True,
    ) -> Run:
        """Deliver a model, a dataset or both to the store.

        Args:
            files: Values files, later ones winning.
            set: `path=value` texts that win over everything else.
            values: Values that win over the files.
            name: The run's name; by default the last part of `bucketModelPath`, else the last file's name.
            wait: Whether to return only when it has succeeded.

        Returns:
            A handle on the run.

        Raises:
            InvalidValuesError: If the values are not allowed, with every problem.
            NotFoundError: If a values file does not exist.
            RunEndedError: If it was waited for and did not succeed.
        """
        from tuneyard.runners import plan_deliver

        return self._launch(plan_deliver(self._sources(files, set, values, name), self.runner), wait=wait)

    def preview(
        self,
        verb: Verb,
        *files: File,
        set: Sequence[str] = (),
        values: Mapping[str, Any] | DeliverValues | FinetuneValues | InferenceValues | None = None,
        name: str | None = None,
        run: str | None = None,
        merged: bool = False,
        port: int | None = None,
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

        Raises:
            InvalidValuesError: If the values are not allowed, with every problem.
            NotFoundError: If a values file, or the run to serve, does not exist.
        """
        from tuneyard.runners import plan_deliver, plan_finetune, plan_serve, preview

        sources = self._sources(files, set, values, name)
        if verb == "deliver":
            planned = plan_deliver(sources, self.runner)
        elif verb == "finetune":
            planned = plan_finetune(sources, self.runner, dry_run=True)
        else:
            planned = plan_serve(sources, self.runner, run=run, merged=merged, port=port)
        return preview(planned, self.runner)

    def plan(
        self,
        *files: File,
        set: Sequence[str] = (),
        values: Mapping[str, Any] | FinetuneValues | None = None,
        name: str | None = None,
        inside: bool = False,
    ) -> Forecast:
        """Estimate a finetuning run, and whether it would fit and start now. Nothing is launched.

        Args:
            files: Values files, later ones winning.
            set: `path=value` texts that win over everything else.
            values: Values that win over the files.
            name: The run's name.
            inside: Whether to read model and data in a short-lived pod in the cluster.

        Returns:
            The estimate, the verdict (`yes`, `not now`, `never` or `unknown`), and the findings that it is based on.

        Raises:
            InvalidValuesError: If the values are not allowed, or request what is not supported, with every problem.
            InvalidDataError: If rows of the data can't be trained on.
            NotFoundError: If a values file, the base model, the namespace or its queue does not exist.
            UnavailableError: If the store or the cluster can't be reached.
        """
        from tuneyard.runners import forecast

        return forecast(self._sources(files, set, values, name), self.runner, inside=inside)

    def finetune(
        self,
        *files: File,
        set: Sequence[str] = (),
        values: Mapping[str, Any] | FinetuneValues | None = None,
        name: str | None = None,
        wait: bool = True,
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

        Returns:
            A handle on the run.

        Raises:
            InvalidValuesError: If the values are not allowed, with every problem.
            NotFoundError: If a values file, the base model or a dataset does not exist.
            ConflictError: If a run of that name is running with other values.
            RunEndedError: If it was waited for and did not succeed.
        """
        from tuneyard.runners import plan_finetune

        return self._launch(plan_finetune(self._sources(files, set, values, name), self.runner), wait=wait)

    def serve(
        self,
        run: str | None = None,
        *files: File,
        merged: bool = False,
        set: Sequence[str] = (),
        values: Mapping[str, Any] | InferenceValues | None = None,
        name: str | None = None,
        port: int | None = None,
        wait: bool = True,
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

        Returns:
            A handle on the server.

        Raises:
            InvalidValuesError: If the values are not allowed, with every problem.
            NotFoundError: If the run, or the model it should have published, does not exist.
            RunEndedError: If it was waited for and ended before it answered.
        """
        from tuneyard.runners import plan_serve, wait_until_ready

        sources = self._sources(files, set, values, name)
        server = self._launch(plan_serve(sources, self.runner, run=run, merged=merged, port=port), wait=False)
        if wait:
            wait_until_ready(self.runner, server.key)
        return server

    @overload
    def chat(
        self,
        question: str | Sequence[Message],
        *,
        name: str | None = None,
        compare: Literal[False] = False,
        system: str | None = None,
        max_tokens: int | None = None,
        temperature: float | None = None,
    ) -> str: ...
    @overload
    def chat(
        self,
        question: str | Sequence[Message],
        *,
        name: str | None = None,
        compare: Literal[True],
        system: str | None = None,
        max_tokens: int | None = None,
        temperature: float | None = None,
    ) -> dict[str, str]: ...
    @overload
    def chat(
        self,
        question: str | Sequence[Message],
        *,
        name: str | None = None,
        compare: bool,
        system: str | None = None,
        max_tokens: int | None = None,
        temperature: float | None = None,
    ) -> str | dict[str, str]: ...
    def chat(
        self,
        question: str | Sequence[Message],
        *,
        name: str | None = None,
        compare: bool = False,
        system: str | None = None,
        max_tokens: int | None = None,
        temperature: float | None = None,
    ) -> str | dict[str, str]:
        """Send a question to a served model; each call is a new conversation.

        Args:
            question: A question, or a whole conversation that ends with one.
            name: The server's name; by default the only running one. One that is still loading is waited for.
            compare: Whether the base model answers too.
            system: A system message to put first.
            max_tokens: The most tokens of the answer; by default the server's limit.
            temperature: 0 for the same answer every time; by default the model's own setting.

        Returns:
            The answer; with `compare`, both answers by the model's name, the base first.

        Raises:
            NotFoundError: If there is no such server, or no two models to compare.
            UnavailableError: If it is not running or can't be reached.
        """
        from tuneyard.chatting import ask, ask_both, connect
        from tuneyard.runners import find_server, wait_until_ready

        server = wait_until_ready(self.runner, find_server(self.runner, name).key)
        messages: list[Message] = [{"role": "system", "content": system}] if system else []
        messages += [{"role": "user", "content": question}] if isinstance(question, str) else question
        with self.runner.reach(server.key) as reached:
            endpoint = connect(reached.url, reached.api_key, target=self.runner.options)
            if compare:
                return ask_both(endpoint, messages, max_tokens=max_tokens, temperature=temperature)
            (model,) = endpoint.chosen(None, compare=False)
            return ask(endpoint, model, messages, max_tokens=max_tokens, temperature=temperature)

    def runs(self, verb: Verb | None = None) -> list[RunInfo]:
        """List the runs, newest launch first.

        Args:
            verb: Only this verb's.
        """
        return self.runner.list(verb)

    def find(self, name: str, *, prefer: Verb | None = None) -> Run:
        """Return a handle on a run that was launched before.

        Args:
            name: `NAME`, or `VERB/NAME` if several verbs use the name.
            prefer: The verb to choose if several use the name.

        Raises:
            NotFoundError: If there is no such run.
            UsageError: If several runs have that name.
        """
        found = find_run(self.runner.list(), name, prefer=prefer, options=self.runner.options)
        return Run(found.key, self.runner)

    def logs(self, name: str, *, follow: bool = False) -> Iterator[str]:
        """Yield the lines of a run's log.

        Args:
            name: `NAME` or `VERB/NAME`.
            follow: Whether to wait for more until it has ended.

        Raises:
            NotFoundError: If there is no such run.
        """
        return self.find(name).logs(follow=follow)

    def watch(self, name: str) -> Iterator[RunInfo]:
        """Yield a run's state now and after each change, until it has ended.

        Args:
            name: `NAME` or `VERB/NAME`; if several verbs use the name, the finetuning run.

        Raises:
            NotFoundError: If there is no such run.
        """
        return self.find(name, prefer="finetune").watch()

    def stop(self, name: str, *, force: bool = False, timeout_seconds: float = STOP_SECONDS) -> RunInfo:
        """Request that a run saves and stops, and wait until it has.

        Args:
            name: `NAME` or `VERB/NAME`.
            force: Whether to kill it if it has not stopped in time.
            timeout_seconds: How long it may take.

        Raises:
            NotFoundError: If there is no such run.
            UnavailableError: If it is still running after that time and `force` is false.
        """
        return self.find(name).stop(force=force, timeout_seconds=timeout_seconds)

    def delete(self, name: str, *, data: bool = False) -> RunInfo:
        """Delete what the target keeps of a run that has ended, and return its last state.

        Args:
            name: `NAME` or `VERB/NAME`.
            data: Whether to also delete what a finetuning run has published in the store. This can't be undone.

        Raises:
            NotFoundError: If there is no such run.
            ConflictError: If it is still running.
            UsageError: If `data` is set and the run has no published data.
        """
        return self.find(name).delete(data=data)

    def check_data(
        self,
        *data: File,
        model: str | None = None,
        validation: Sequence[File] = (),
        format: Format | None = None,
        files: Sequence[File] = (),
        set: Sequence[str] = (),
        values: Mapping[str, Any] | FinetuneValues | None = None,
        examples: int = 0,
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

        Returns:
            The report, and whether a training would start.

        Raises:
            UsageError: If neither arguments nor values name data and a model.
            NotFoundError: If a file, the data or the model does not exist.
        """
        from tuneyard.job import check_source, open_source

        job = self._job_values(self._sources(files, set, values, None), data, model, command="check")
        with open_source(job, self._open_store(), data, model, validation, format) as source:
            return check_source(source, examples=examples)

    def show_data(
        self,
        *data: File,
        model: str | None = None,
        format: Format | None = None,
        files: Sequence[File] = (),
        set: Sequence[str] = (),
        values: Mapping[str, Any] | FinetuneValues | None = None,
        count: int = 3,
        skip: int = 0,
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

        Raises:
            InvalidDataError: If one of the rows can't be used, or there is none.
            NotFoundError: If a file, the data or the model does not exist.
            UsageError: If neither arguments nor values name data and a model.
        """
        from tuneyard.job import open_source, show_source

        job = self._job_values(self._sources(files, set, values, None), data, model, command="show")
        with open_source(job, self._open_store(), data, model, (), format) as source:
            return show_source(source, count=count, skip=skip)

    def resolve_values(
        self,
        kind: Literal["namespace", "deliver", "finetune", "serve"],
        *files: File,
        set: Sequence[str] = (),
        values: Mapping[str, Any] | None = None,
    ) -> AnyValues:
        """Resolve values as a launch would, every default filled in.

        Args:
            kind: The verb, or `namespace` for its setup.
            files: Values files, later ones winning.
            set: `path=value` texts that win over everything else.
            values: Values that win over the files.

        Raises:
            InvalidValuesError: If they are not allowed, with every problem.
            NotFoundError: If a values file does not exist.
            UsageError: If there is no such kind.
        """
        from pathlib import Path

        from tuneyard.values import load_values

        return load_values(self._model(kind), [Path(file) for file in files], set, above=values, notice=logger.info)

    def schema(self, kind: Literal["namespace", "deliver", "finetune", "serve"]) -> dict[str, Any]:
        """Return the JSON Schema of values.

        Args:
            kind: The verb, or `namespace` for its setup.

        Raises:
            UsageError: If there is no such kind.
        """
        return self._model(kind).model_json_schema()

    def verify(self, place: str) -> Verified:
        """Read everything under a key and compare it with the manifests.

        Args:
            place: A key (`bucket/path`) of a run, a model, data or a folder of them; or a finetuning run's name.

        Returns:
            The state of each part; `damage` is empty if everything is as published.

        Raises:
            NotFoundError: If there is nothing under the key, or no such run.
        """
        from tuneyard.inventory import verify_place
        from tuneyard.progress import progress_bar

        store, key = self._place(place)
        with progress_bar("Verifying", None) as advance:
            return verify_place(store, key, advance=advance)

    def gc(self, place: str, *, older_than_hours: float = 24.0, dry_run: bool = False) -> Removal:
        """Delete the objects under a key that no manifest lists: leftovers of killed runs and deliveries.

        Args:
            place: A key (`bucket/path`), or a finetuning run's name.
            older_than_hours: The least age of an object to delete.
            dry_run: Whether to only report what would be deleted.

        Raises:
            NotFoundError: If there is no such run.
        """
        from datetime import timedelta

        from tuneyard.inventory import remove_leftovers

        store, key = self._place(place)
        return remove_leftovers(store, key, grace=timedelta(hours=older_than_hours), dry_run=dry_run)

    def doctor(
        self,
        *files: File,
        set: Sequence[str] = (),
        bucket: str = "default-bucket",
        quick: bool = False,
        progress: Callable[[str], None] | None = None,
    ) -> Report:
        """Check that the target's prerequisites are in place.

        Args:
            files: Values files, for a cluster.
            set: `path=value` texts, for a cluster.
            bucket: The bucket to write into.
            quick: Whether to start no pod in a cluster.
            progress: Called with the name of each group of checks before it starts.

        Returns:
            The report, with a hint for each problem and the exit code of the worst.

        Raises:
            UsageError: If the target does not support an argument.
        """
        from tuneyard.diagnosis import check_target

        return check_target(
            self.target, store=self.store, files=files, sets=set, bucket=bucket, quick=quick, progress=progress
        )

    def check_store(
        self, *, bucket: str = "default-bucket", rounds: int = 20, progress: Callable[[str], None] | None = None
    ) -> Report:
        """Check that the store has the semantics that resuming relies on. All objects it writes are deleted again.

        Args:
            bucket: The bucket to write into.
            rounds: The number of rounds of 32 concurrent conditional writes.
            progress: Called with the name of each group of checks before it starts.
        """
        from tuneyard.diagnosis import probe_store

        return probe_store(self.store, bucket=bucket, rounds=rounds, progress=progress)

    def _model(self, kind: str) -> type[AnyValues]:
        from tuneyard.errors import UsageError
        from tuneyard.values import VALUES

        if kind not in VALUES:
            raise UsageError(f"There are no values of the kind {kind!r}.", hint=f"Use one of {', '.join(VALUES)}.")
        return VALUES[kind]

    def _sources(
        self, files: Sequence[File], set: Sequence[str], values: Mapping[str, Any] | Any | None, name: str | None
    ) -> Sources:
        from tuneyard.runners import Sources

        return Sources(files, set, values, name, self.store)

    def _job_values(
        self, sources: Sources, data: Sequence[File], model: str | None, *, command: Literal["check", "show"]
    ) -> FinetuneValues:
        from tuneyard.errors import UsageError
        from tuneyard.runners import load_finetune_values

        if not (sources.files or sources.sets or sources.values) and not (data and model):
            raise UsageError(
                "Neither arguments nor values name data and a model.",
                hint=f"Name them: tuneyard data {command} FILE --model FOLDER, or tuneyard data {command} -f VALUES",
            )
        return load_finetune_values(sources, below=None if sources.files or sources.values else _NAMED_BY_ARGUMENTS)

    def _open_store(self, fallback: str | None = None) -> Store:
        from tuneyard.errors import UsageError
        from tuneyard.store import configured_store, find_store

        fallback = fallback or self.runner.own_store
        if configured_store(self.store, fallback=fallback) is None:
            raise UsageError(
                "No store is named, and a cluster has none of its own.", hint="Name it with --store, or TUNEYARD_STORE."
            )
        return find_store(self.store, fallback=fallback)

    def _place(self, place: str) -> tuple[Store, str]:
        """Return the store and the key of a place; a name without a slash is a finetuning run's."""
        if "/" in place.strip("/"):
            return self._open_store(), place.strip("/")
        runs = self.runner.list("finetune")
        info = find_run(runs, place, verbs=("finetune",), command="tuneyard verify", options=self.runner.options)
        return self._open_store(info.store), str(info.experiment)

    def _launch(self, plan: Plan, *, wait: bool) -> Run:
        for note in plan.notes:
            logger.info("%s", note)
        run = Run(self.runner.launch(plan.launch).key, self.runner)
        if wait:
            run.wait()
        return run
