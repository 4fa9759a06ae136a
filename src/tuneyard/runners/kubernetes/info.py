"""The state of a cluster's run, derived from its objects: the values it was launched with, its status and its progress.

Nothing is stored anywhere else, so a run that was applied by `helm template | kubectl apply` is a run like any other.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, cast

from tuneyard.cluster import Document, State
from tuneyard.errors import InvalidValuesError
from tuneyard.runners.info import VERBS, RunInfo, RunKey, RunProgress, Verb

INSTANCE, COMPONENT, PART_OF = (f"app.kubernetes.io/{label}" for label in ("instance", "component", "part-of"))
EXPERIMENTS = "default-bucket/experiments"
SERVER_PORT = 8080
"""The port of a server's Service."""

_PROGRESS = re.compile(
    r"step (?P<step>\d+) of (?P<max>\d+)(?:, loss (?P<loss>[-+.\deE]+|nan|inf))?"
    r"(?:, (?P<rate>[.\d]+) (?P<unit>s/step|steps/s))?(?:, (?P<left>[.\d]+) s left)?"
)


def run_labels(key: RunKey) -> dict[str, str]:
    """Return the labels that every object of a run has."""
    return {PART_OF: "tuneyard", COMPONENT: key.verb, INSTANCE: key.name}


def key_of(owner: Document) -> RunKey | None:
    """Return the run that an object belongs to; None if the object is not Tuneyard's."""
    labels: Mapping[str, str] = owner["metadata"].get("labels") or {}
    for verb in VERBS:
        if labels.get(PART_OF) == "tuneyard" and labels.get(COMPONENT) == verb and labels.get(INSTANCE):
            return RunKey(verb, labels[INSTANCE])
    return None


def values_name(owner: Document) -> str:
    """Return the name of the ConfigMap of a Job's or Deployment's values; empty if it has none."""
    for volume in owner["spec"]["template"]["spec"].get("volumes") or []:
        if volume["name"] == "values":
            return str((volume.get("configMap") or {}).get("name") or "")
    return ""


def resolved(verb: Verb, config: Document | None) -> dict[str, Any]:
    """Resolve the values of a run as its process does; empty if their ConfigMap is gone.

    Args:
        verb: The run's verb.
        config: The ConfigMap.
    """
    from tuneyard.values import (
        NOT_SHOWN,
        DeliverValues,
        FinetuneValues,
        InferenceValues,
        canonical_json,
        check_values,
        with_env,
    )

    if config is None:
        return {}
    given = json.loads((config.get("data") or {}).get("values.json") or "{}")
    model = {"deliver": DeliverValues, "finetune": FinetuneValues, "serve": InferenceValues}[verb]
    try:
        values = json.loads(canonical_json(check_values(model, given)))
    except InvalidValuesError:  # of another version: return what can be read
        values = given
    own = env_secrets(config)
    return with_env(values, lambda _, value: NOT_SHOWN if _secret_of(value) in own else value)


def env_secrets(config: Document) -> set[str]:
    """Return the names of the Secrets that the chart made from the texts of environment variables.

    Args:
        config: The ConfigMap of a run's values.
    """
    from tuneyard.values import ENV_KEYS

    own = f"{config['metadata']['name'].rpartition('-values-')[0]}-env-"
    given = json.loads((config.get("data") or {}).get("values.json") or "{}")
    found = [_secret_of(value) for key in ENV_KEYS for value in _texts(given.get(key)).values()]
    return {name for name in found if re.fullmatch(rf"{re.escape(own)}[0-9a-f]{{10}}", name)}


def _secret_of(value: Any) -> str:
    return str(_texts(value).get("name") or "")


def _texts(value: Any) -> dict[str, Any]:
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}


def info_of(owner: Document, state: State, values: Mapping[str, Any], progress: RunProgress | None) -> RunInfo:
    """Build the state of a run.

    Args:
        owner: Its Job or Deployment.
        state: The state of that.
        values: Its resolved values.
        progress: Its progress.
    """
    from tuneyard.values import values_sha256

    key = key_of(owner)
    assert key is not None
    metadata = owner["metadata"]
    serves = key.verb == "serve"
    store = values.get("bucketStorageHost") or (values.get("bucket_storage") or {}).get("host") or ""
    secret = (values.get("apiKeySecret") or {}).get("name") if serves else None
    return RunInfo(
        verb=key.verb,
        name=key.name,
        status=state.phase,
        why=state.why,
        created_at=_moment(metadata.get("creationTimestamp")),
        started_at=_moment(state.started_at),
        finished_at=_moment(state.finished_at),
        attempts=state.attempts,
        exit_code=state.exit_code,
        error=state.error,
        hint=state.hint,
        values_sha256=values_sha256(values) if values else "",
        store=str(store),
        experiment=experiment_of(key, values) if key.verb == "finetune" else None,
        url=f"http://{metadata['name']}.{metadata['namespace']}:{SERVER_PORT}/v1" if serves else None,
        progress=progress,
        event=state.event,
        namespace=str(metadata["namespace"]),
        pods=state.pods,
        api_key_secret=secret or None,
    )


def experiment_of(key: RunKey, values: Mapping[str, Any]) -> str:
    """Return where a finetuning run publishes."""
    return str(values.get("checkpointsRemote") or f"{EXPERIMENTS}/{key.name}")


def read_progress(lines: Iterable[str]) -> RunProgress | None:
    """Return the newest progress in a process's log; None if there is none.

    Args:
        lines: Lines of the log, oldest first; one of them may hold several states of a bar.
    """
    found = [match for line in lines for match in _PROGRESS.finditer(line)]
    newest = found[-1] if found else None
    if newest is None:
        return None
    rate = float(newest["rate"]) if newest["rate"] else None
    if rate and newest["unit"] == "steps/s":
        rate = 1 / rate
    return RunProgress(
        step=int(newest["step"]),
        max_steps=int(newest["max"]),
        loss=float(newest["loss"]) if newest["loss"] else None,
        seconds_per_step=rate,
        seconds_left=float(newest["left"]) if newest["left"] else None,
        phase="training",
    )


def _moment(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None
