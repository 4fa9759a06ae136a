"""Whether a run would start on a cluster, and what it would use, before it is launched.

`judge` only reads. `estimate_inside` runs `tuneyard plan` in a short-lived pod of the run's image, with its keys,
certificate authorities and the site's settings, and without accelerators; the values are part of the pod, so nothing
else is written.
"""

from __future__ import annotations

import json
import logging
import secrets
from collections.abc import Callable, Sequence
from typing import Any

from tuneyard.cluster import (
    Capacity,
    Demand,
    Document,
    Finding,
    Reader,
    Termination,
    Tools,
    check_capacity,
    demand_of,
    format_quantity,
    one_off_spec,
    run_one_off_pod,
    worst,
)
from tuneyard.errors import DeniedError, UnavailableError, UsageError, error_of
from tuneyard.estimate import SMALLER, Estimate, Verdict
from tuneyard.estimate import estimate as estimate_here
from tuneyard.interpreter import pod_python
from tuneyard.job import refuse_unsupported
from tuneyard.models import library_is_here
from tuneyard.runners.base import Launch
from tuneyard.store import STORE_VARIABLE, configured_store, find_store
from tuneyard.values import FinetuneValues

logger = logging.getLogger(__name__)

INSIDE_SECONDS = 600
"""How long an estimate in a pod may take; most of it is pulling the image on a node that does not have it yet."""

_MEMORY = "1Gi"
"""What torch uses for a model without weights, with some margin."""
_VALUES = "tuneyard.io/values"
_FILE = "/etc/tuneyard/values/values.json"
_VERDICTS = {
    "yes": "It fits",
    "unknown": "It is unknown whether it fits",
    "not now": "It would wait",
    "never": "It can never run",
}
_LESS = "Request less: finetuningGpus, nodes, resources.requests"
_HINTS = {
    "queue": f"{_LESS}. Or raise the queue's quota.",
    "quota": f"{_LESS}. Or raise the namespace's quota.",
    "nodes": f"{_LESS}. Or check gpuResource, nodeSelector, affinity and tolerations.",
    "memory": f"{SMALLER} Or raise resources.limits.memory.",
}


def estimate(
    launch: Launch, *, store: str | None, inside: bool, options: str, from_pod: Callable[[], Estimate]
) -> Estimate:
    """Estimate a run from here, or in a short-lived pod if requested or if torch is not installed here.

    Args:
        launch: What would be launched.
        store: The store, as this machine reaches it, that the user named.
        inside: Whether a pod is requested.
        options: The options that select the target, for hints.
        from_pod: Returns an estimate from a pod.

    Raises:
        UsageError: If both a pod and a store of this machine are requested, or no store is configured.
        InvalidValuesError: If the values request what is not trained.
        UnavailableError, DeniedError: If this machine does not reach the store.
    """
    values = launch.values
    assert isinstance(values, FinetuneValues)
    refuse_unsupported(values, lambda _: None, here=False)  # before a pod is started
    if inside and store is not None:
        raise UsageError("--store is for this machine, and --inside for the cluster.", hint="Omit one of them.")
    if inside or (store is None and not library_is_here()):
        why = "" if inside else ", since torch is not installed here"
        logger.info("Estimating in a short-lived pod in the cluster%s.", why)
        return from_pod()
    if configured_store(store, fallback=values.bucketStorageHost) is None:
        raise UsageError("No store is configured.", hint="Set it: --set bucketStorageHost=https://…")
    try:
        return estimate_here(values, find_store(store, fallback=values.bucketStorageHost), here=False)
    except (UnavailableError, DeniedError) as error:
        hint = f"Estimate in a pod in the cluster: tuneyard plan{options} --inside, with the same values."
        raise type(error)(error.message, hint=f"{hint} Or from here: {error.hint}", **error.details) from error


def judge(
    reader: Reader, objects: Sequence[Document], estimate: Estimate, *, on_accelerators: bool
) -> tuple[Verdict, tuple[Finding, ...]]:
    """Decide whether a run would start, and list the findings.

    Args:
        reader: The cluster and namespace.
        objects: What a launch would write.
        estimate: What the run would use.
        on_accelerators: Whether the memory is an accelerator's.

    Raises:
        NotFoundError: If the queue does not exist.
        UnavailableError: If the API server does not answer.
    """
    demand = demand_of(_job(objects))
    capacity = check_capacity(reader, demand)
    findings = (*capacity.findings, memory(estimate, demand, capacity, on_accelerators=on_accelerators))
    return verdict_of(findings), findings


def memory(estimate: Estimate, demand: Demand, capacity: Capacity, *, on_accelerators: bool) -> Finding:
    """Compare the estimated memory with an accelerator's, or on the CPU with what a pod may use.

    Args:
        estimate: What the run would use.
        demand: What its Job requests.
        capacity: What the cluster has.
        on_accelerators: Whether the memory is an accelerator's.
    """
    if on_accelerators:
        needed, whole, holder = float(estimate.memory.total), capacity.accelerator_bytes, "an accelerator"
    else:
        needed, whole, holder = float(estimate.memory_of_all) / demand.pods, capacity.memory_bytes, "a pod"
    needs = f"{holder} needs an estimated {format_quantity('memory', needed)}"
    if whole is None:
        return Finding("memory", "unknown", f"{needs}; how much is available is unknown")
    fits = "yes" if needed <= whole else "never"
    return Finding("memory", fits, f"{needs}; at most {format_quantity('memory', whole)} is available")


def verdict_of(findings: Sequence[Finding]) -> Verdict:
    """Combine findings into a verdict: the worst one decides. Unknown memory does not count.

    Args:
        findings: The findings.
    """
    counted = [one for one in findings if (one.place, one.fits) != ("memory", "unknown")]
    fits = worst(one.fits for one in counted)
    deciding = [one for one in counted if one.fits == fits]
    why = f": {'; '.join(one.sentence for one in deciding)}"
    if fits == "yes":
        queued = any(one.place == "queue" for one in deciding)
        why = " and would be admitted now" if queued else " and starts as soon as a node has room"
    hint = " ".join(dict.fromkeys(_HINTS[one.place] for one in deciding)) if fits == "never" else ""
    if fits == "not now":
        hint = "Launch it anyway: it starts once there is room."
    return Verdict(fits, f"{_VERDICTS[fits]}{why}.", hint)


def estimate_inside(tools: Tools, objects: Sequence[Document], values: bytes, store: str) -> Estimate:
    """Estimate a run in a short-lived pod, which is always removed.

    Args:
        tools: kubectl for the namespace.
        objects: What a launch would write.
        values: The resolved values as canonical JSON.
        store: The store's URL as pods reach it.

    Raises:
        TuneyardError: The error that `tuneyard plan` raises there, by its exit code.
        NotFoundError: If the image, or a Secret or ConfigMap that it needs, does not exist.
        UnavailableError: If the pod has not ended in time, or its image is of another version.
        UsageError: If no store is configured.
    """
    pod = _job(objects)["spec"]["template"]["spec"]
    spec = one_off_spec(pod, "plan", pod_python("tuneyard", "plan", "--values", _FILE, "--json"), memory=_MEMORY)
    (container,) = spec["containers"]
    if not any(one["name"] == STORE_VARIABLE for one in container["env"]):
        if not store:
            raise UsageError("No store is configured.", hint="Set it: --set bucketStorageHost=https://…")
        container["env"].append({"name": STORE_VARIABLE, "value": store})
    # The values are part of the pod: a killed command would leave a ConfigMap behind.
    item = {"path": "values.json", "fieldRef": {"fieldPath": f"metadata.annotations['{_VALUES}']"}}
    values_volume = {"name": "values", "downwardAPI": {"items": [item]}}
    spec["volumes"] = [values_volume if one["name"] == "values" else one for one in spec["volumes"]]
    name = f"tuneyard-plan-{secrets.token_hex(4)}"
    log, end = run_one_off_pod(
        tools, name, spec, timeout_seconds=INSIDE_SECONDS, annotations={_VALUES: _without_env(values)}
    )
    return parse_estimate(log, end, container["image"])


def _without_env(values: bytes) -> str:
    """Omit the environment: an annotation is public, and an estimate does not need it."""
    return json.dumps({**json.loads(values), "env": {}})


def parse_estimate(log: str, end: Termination, image: str) -> Estimate:
    """Parse the output of `tuneyard plan` in a pod.

    Args:
        log: The pod's log: a JSON document, and lines for people.
        end: How the pod ended; it prints a document even for a run that never fits.
        image: Its image.

    Raises:
        TuneyardError: The error that it printed instead, by its exit code.
        UnavailableError: If it printed nothing that this version can read.
    """
    if document := _document(log):
        try:
            return Estimate.of(document["estimate"])
        except (KeyError, TypeError) as error:
            raise _other_version(image) from error
    _, found, rest = log.partition("error: ")
    if found:
        message, _, hint = rest.partition("\nhint: ")
        raise error_of(end.exit_code)(message.strip(), hint=hint.strip())
    if end.error:
        hint = end.hint or "Check that finetuningImage is one of Tuneyard's images."
        raise UnavailableError(f"The estimate in the cluster failed: {end.error}", hint=hint)
    raise _other_version(image)


def _job(objects: Sequence[Document]) -> Document:
    return next(one for one in objects if one["kind"] == "Job")


def _document(log: str) -> dict[str, Any] | None:
    """Return the JSON document among the lines for people."""
    lines = log.splitlines(keepends=True)
    if "{\n" not in lines:
        return None
    try:
        return json.JSONDecoder().raw_decode("".join(lines[lines.index("{\n") :]))[0]
    except ValueError:
        return None


def _other_version(image: str) -> UnavailableError:
    return UnavailableError(
        f"The image '{image}' prints estimates in a format that this version can't read.",
        hint="Use an image of this version: --set finetuningImage=…",
    )
