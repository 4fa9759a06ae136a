"""Check the prerequisites of a cluster and a namespace: everything that the charts and runs depend on.

Every check reads, with the credentials of the kubeconfig; only one pod writes (`pod_probe`). Of Secrets, the names of
their keys are kept, never the values.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tuneyard.cluster import Document, Reader, Share, Tools, cohort_of, format_quantity, format_resource, queue_shares
from tuneyard.diagnosis.check import Check, Report, from_error, ok, problem, report, skipped, warning
from tuneyard.diagnosis.local import tool_version
from tuneyard.diagnosis.pod_probe import probe_bucket
from tuneyard.diagnosis.requirements import Requirements, read_requirements
from tuneyard.diagnosis.store_probe import BUCKET
from tuneyard.errors import (
    AcceleratorMissingError,
    ConflictError,
    DeniedError,
    InvalidValuesError,
    NotFoundError,
    TuneyardError,
    UnavailableError,
)
from tuneyard.values import NamespaceValues
from tuneyard.whereabouts import SITE_NAMES

Progress = Callable[[str], None]

MINIMUM_VERSION = (1, 30)
"""The oldest Kubernetes version that accepts everything the charts render."""

_KUEUE = "/apis/kueue.x-k8s.io"
_ESO = "external-secrets.io"
_SITE_KEYS = frozenset({"ca.crt", *SITE_NAMES})
_ALL_VERBS = ("get", "list", "watch", "create", "patch", "delete")
_SMALLER = {"finetune": "finetuningGpus=1", "serve": "gpus=1", "deliver": "resources.requests.memory=1Gi"}
_PERMISSIONS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("batch", "jobs", _ALL_VERBS),
    ("apps", "deployments", _ALL_VERBS),
    ("", "services", ("get", "list", "create", "patch", "delete")),
    ("", "configmaps", ("get", "list", "create", "patch", "delete")),
    ("networking.k8s.io", "networkpolicies", ("get", "create", "patch", "delete")),
    ("", "pods", ("get", "list", "watch", "create", "delete")),
    ("", "pods/log", ("get",)),
    ("", "pods/attach", ("create",)),
    ("", "pods/portforward", ("create",)),
    ("", "events", ("list",)),
    ("", "secrets", ("get", "create", "patch", "delete")),
    ("kueue.x-k8s.io", "localqueues", ("get", "list")),
    ("kueue.x-k8s.io", "workloads", ("get", "list")),
)


def check_kubernetes(
    *,
    context: str | None = None,
    namespace: str | None = None,
    files: Sequence[Path] = (),
    sets: Sequence[str] = (),
    bucket: str = BUCKET,
    quick: bool = False,
    environ: Mapping[str, str] | None = None,
    progress: Progress | None = None,
) -> Report:
    """Check the prerequisites of the Kubernetes target.

    Args:
        context: The kubeconfig's context; None for the current one.
        namespace: The namespace; None for the context's.
        files: Values files of a run; without any, only what every run needs is checked.
        sets: Texts of `--set`.
        bucket: The bucket that the pod writes to.
        quick: Start no pod.
        environ: The environment; this process's where None.
        progress: Called with the name of each group of checks before it starts.

    Raises:
        InvalidValuesError: The values fit no verb.
        NotFoundError: A values file does not exist.
    """
    environ = os.environ if environ is None else environ
    requirements = read_requirements(files, sets)
    cluster = Reader(context, namespace, environ=environ)
    checks = [_tool(name, environ) for name in ("kubectl", "helm")]
    try:
        version = cluster.document("/version") or {}
    except TuneyardError as error:
        checks.append(from_error("API server", error))
        return report(f"cluster of {_shown_context(context)}", checks)
    checks.append(api_server(version))
    groups: dict[str, Callable[[], list[Check]]] = {
        "namespace": lambda: _namespace(cluster),
        "permissions": lambda: _permissions(cluster),
        "aggregated APIs": lambda: _aggregated(cluster),
        "Kueue": lambda: _kueue(cluster, requirements),
        "External Secrets": lambda: _external_secrets(cluster),
        "secret": lambda: _secrets(cluster, requirements),
        "CA bundle": lambda: _ca_bundle(cluster, requirements),
        "site": lambda: _site(cluster),
        "storage class": lambda: _storage(cluster, requirements),
        "accelerators": lambda: _accelerators(cluster, requirements),
        "Gateway API": lambda: _gateway(cluster, requirements),
    }
    for name, run in groups.items():
        if progress:
            progress(name)
        try:
            checks += run()
        except DeniedError as error:
            # cluster-scoped objects are often not readable for everyone; runs don't read them either
            checks.append(warning(name, f"not checked: {error.message.rstrip('.')}", error.hint))
        except TuneyardError as error:
            checks.append(from_error(name, error))
    tools = Tools(context, cluster.namespace, environ=environ)
    checks.append(_bucket(tools, requirements, bucket, checks, quick=quick, progress=progress))
    return report(f"namespace '{cluster.namespace}' of {_shown_context(context)}", checks)


def _shown_context(context: str | None) -> str:
    return f"context '{context}'" if context else "the current context"


def api_server(version: Document) -> Check:
    """Check the API server's version: older ones reject the `preStop.sleep` of a server's Deployment.

    Args:
        version: The response of `/version`.
    """
    found = f"Kubernetes {version.get('gitVersion')}"
    parsed = tuple(int(re.sub(r"\D", "", version.get(part) or "0")) for part in ("major", "minor"))
    if parsed < MINIMUM_VERSION:
        minimum = ".".join(map(str, MINIMUM_VERSION))
        advice = f"Use a cluster with Kubernetes {minimum} or newer; deliver and finetune may work on this one."
        return warning("API server", f"{found}; serve requires {minimum} or newer", advice)
    return ok("API server", found)


def _tool(name: str, environ: Mapping[str, str]) -> Check:
    if not shutil.which(name, path=environ.get("PATH")):
        return problem(name, "not found on PATH", f"Install {name}, and add it to PATH.", NotFoundError)
    return tool_version(name, environ)


def _namespace(cluster: Reader) -> list[Check]:
    try:
        found = cluster.find("Namespace", cluster.namespace)
    except DeniedError:  # permissions in a namespace seldom include reading the namespace itself
        return [
            skipped("namespace", f"no permission to read namespace '{cluster.namespace}'"),
            skipped("pod security", "no permission to read it"),
        ]
    if not found:
        advice = f"kubectl create namespace {cluster.namespace}"
        return [problem("namespace", f"namespace '{cluster.namespace}' does not exist", advice, NotFoundError)]
    if found["status"].get("phase") == "Terminating":
        return [
            problem(
                "namespace",
                f"namespace '{cluster.namespace}' is being deleted",
                "Use another namespace.",
                ConflictError,
            )
        ]
    level = found["metadata"].get("labels", {}).get("pod-security.kubernetes.io/enforce", "")
    enforced = f"'{level}' is enforced; the charts comply with 'restricted'" if level else "no level is enforced"
    return [ok("namespace", cluster.namespace), ok("pod security", enforced)]


def _permissions(cluster: Reader) -> list[Check]:
    required = [(verb, group, resource) for group, resource, verbs in _PERMISSIONS for verb in verbs]
    denied: dict[str, list[str]] = {}
    for verb, group, resource in required:
        if not cluster.may(verb, group, resource):
            denied.setdefault(resource, []).append(verb)
    if not denied:
        return [ok("permissions", f"all {len(required)} that runs need")]
    first = next(iter(denied))
    missing = "; ".join(f"{', '.join(verbs)} {resource}" for resource, verbs in denied.items())
    check = f"kubectl auth can-i {denied[first][0]} {first} -n {cluster.namespace}"
    advice = f"Ask the cluster's administrator for a Role that grants them; check with {check}."
    return [problem("permissions", f"missing: {missing}", advice, DeniedError)]


def _aggregated(cluster: Reader) -> list[Check]:
    unavailable: list[str] = []
    for service in cluster.documents("/apis/apiregistration.k8s.io/v1/apiservices"):
        if not service["spec"].get("service"):
            continue
        conditions = {one["type"]: one for one in service["status"].get("conditions", [])}
        if conditions.get("Available", {}).get("status") != "True":
            unavailable.append(service["metadata"]["name"])
    if unavailable:
        found = f"unavailable: {', '.join(unavailable)}; until then no namespace can be deleted"
        return [warning("aggregated APIs", found, f"kubectl get apiservice {unavailable[0]} -o yaml")]
    return [ok("aggregated APIs", "all available")]


def _kueue(cluster: Reader, requirements: Requirements | None) -> list[Check]:
    group = cluster.document(_KUEUE)
    queue = requirements.queue if requirements else ""
    if not group:
        if not queue:
            return [skipped("Kueue", "not installed; required by runs with a queue only")]
        advice = "Install Kueue, or set no queue: --set queueName="
        return [problem("Kueue", f"not installed, but the values set the queue '{queue}'", advice, NotFoundError)]
    version = group["preferredVersion"]["version"]
    at = f"{_KUEUE}/{version}"
    checks = [ok("Kueue", f"kueue.x-k8s.io/{version}{_kueue_release(cluster)}")]
    if not queue:
        available = _names(cluster.documents(f"{at}/namespaces/{cluster.namespace}/localqueues"))
        checks.append(skipped("LocalQueue", f"the values set no queue; available: {_listed(available)}"))
    else:
        checks += _queue(cluster, at, queue, requirements)
    if requirements and requirements.priority:
        checks.append(_priority(cluster, at, requirements.priority))
    return checks


def _kueue_release(cluster: Reader) -> str:
    try:
        found = cluster.documents("/apis/apps/v1/deployments?labelSelector=control-plane%3Dcontroller-manager")
    except TuneyardError:  # not readable, or not in this cluster: then its release is not shown
        return ""
    for deployment in found:
        for container in deployment["spec"]["template"]["spec"]["containers"]:
            image, _, tag = container["image"].rpartition(":")
            if image.endswith("/kueue") and tag.startswith("v"):
                return f", {tag}"
    return ""


def _queue(cluster: Reader, at: str, queue: str, requirements: Requirements | None) -> list[Check]:
    found = cluster.document(f"{at}/namespaces/{cluster.namespace}/localqueues/{queue}")
    if not found:
        available = _names(cluster.documents(f"{at}/namespaces/{cluster.namespace}/localqueues"))
        advice = f"--set queueName={available[0]}" if available else "Create it with workloads/k8s-namespace-setup."
        what = (
            f"LocalQueue '{queue}' does not exist in namespace '{cluster.namespace}'; available: {_listed(available)}"
        )
        return [problem("LocalQueue", what, advice, NotFoundError)]
    target = found["spec"]["clusterQueue"]
    checks = [ok("LocalQueue", f"'{queue}', of ClusterQueue '{target}'")]
    try:
        cluster_queue = cluster.document(f"{at}/clusterqueues/{target}")
    except DeniedError:
        return [*checks, skipped("ClusterQueue", f"no permission to read ClusterQueue '{target}'")]
    if not cluster_queue:
        advice = f"Ask the cluster's administrator to create ClusterQueue {target}."
        return [*checks, problem("ClusterQueue", f"ClusterQueue '{target}' does not exist", advice, NotFoundError)]
    active = {one["type"]: one for one in cluster_queue["status"].get("conditions", [])}.get("Active", {})
    if active.get("status") != "True":
        what = f"'{target}' is not active: {active.get('message', 'no reason given')}"
        return [*checks, problem("ClusterQueue", what, f"kubectl describe clusterqueue {target}", UnavailableError)]
    cohort = cohort_of(cluster_queue, cluster.documents(f"{at}/clusterqueues"))
    return [*checks, ok("ClusterQueue", f"'{target}' is active"), _quota(cohort, requirements)]


def _quota(cohort: Sequence[Document], requirements: Requirements | None) -> Check:
    shares, _ = queue_shares(cohort, requirements.resources if requirements else {})
    exceeded = [str(share) for share in shares if share.fits == "never"]
    if requirements and exceeded:
        advice = f"Request less, such as --set {_SMALLER[requirements.verb]}, or have the ClusterQueue's quota raised."
        return problem("quota", "; ".join(exceeded), advice, InvalidValuesError)
    return ok("quota", ", ".join(map(_of_quota, shares)) or "the values request no resources")


def _of_quota(share: Share) -> str:
    assert share.total is not None, "a resource that is not covered is a problem"
    return f"{format_quantity(share.resource, share.requested)} of {format_resource(share.resource, share.total)}"


def _priority(cluster: Reader, at: str, name: str) -> Check:
    if cluster.document(f"{at}/workloadpriorityclasses/{name}"):
        return ok("priority class", name)
    available = _names(cluster.documents(f"{at}/workloadpriorityclasses"))
    what = f"WorkloadPriorityClass '{name}' does not exist; available: {_listed(available)}"
    return problem("priority class", what, "Use another priority class, or none: --set priorityClass=")


def _external_secrets(cluster: Reader) -> list[Check]:
    group = cluster.document(f"/apis/{_ESO}")
    if not group:
        return [skipped("External Secrets", "not installed; optional, since a plain Secret is enough")]
    versions = [one["version"] for one in group["versions"]]
    checks: list[Check] = []
    configured = NamespaceValues().external_secret.api_version.rpartition("/")[2]
    served = f"serves {', '.join(versions)}"
    if configured in versions:
        checks.append(ok("External Secrets", f"{served}; the chart uses {configured}"))
    else:
        advice = f"--set external_secret.api_version={_ESO}/{versions[0]} with the chart k8s-namespace-setup"
        checks.append(warning("External Secrets", f"{served}; the chart uses {configured}", advice))
    at = f"/apis/{_ESO}/{group['preferredVersion']['version']}/namespaces/{cluster.namespace}"
    for kind, ready in (("SecretStore", "ready"), ("ExternalSecret", "synced")):
        found = cluster.documents(f"{at}/{kind.lower()}s")
        not_ready = [(one["metadata"]["name"], reason) for one in found if (reason := _not_ready(one))]
        for name, reason in not_ready:
            advice = f"kubectl describe {kind.lower()} {name} -n {cluster.namespace}"
            checks.append(problem(kind, f"'{name}' is not {ready}: {reason}", advice, NotFoundError))
        if found and not not_ready:
            checks.append(ok(kind, f"{ready}: {', '.join(_names(found))}"))
    return checks


def _not_ready(found: Document) -> str:
    ready = {one["type"]: one for one in found.get("status", {}).get("conditions", [])}.get("Ready")
    if ready is None:
        return "no status yet"
    return "" if ready["status"] == "True" else ready.get("message", "no reason given")


def _secrets(cluster: Reader, requirements: Requirements | None) -> list[Check]:
    if not requirements:
        return [skipped("secret", "no values given")]
    return [
        *(_secret(cluster, name, keys) for name, keys in requirements.secrets.items()),
        *(_secret(cluster, name, [".dockerconfigjson"]) for name in requirements.pull_secrets),
    ]


def _secret(cluster: Reader, name: str, keys: Sequence[str]) -> Check:
    found = cluster.find("Secret", name)
    if not found:
        literals = " ".join(f"--from-literal={key}=VALUE" for key in keys)
        advice = f"kubectl create secret generic {name} -n {cluster.namespace} {literals}"
        return problem(
            "secret", f"Secret '{name}' does not exist in namespace '{cluster.namespace}'", advice, NotFoundError
        )
    present = sorted(found.get("data") or {})
    if missing := [key for key in keys if key not in present]:
        what = f"Secret '{name}' lacks {', '.join(missing)}; present: {_listed(present)}"
        return problem("secret", what, f"kubectl edit secret {name} -n {cluster.namespace}")
    return ok("secret", f"Secret '{name}' has {', '.join(keys)}")


def _ca_bundle(cluster: Reader, requirements: Requirements | None) -> list[Check]:
    name, key = requirements.ca if requirements else ("", "")
    if not name:
        return [skipped("CA bundle", "the values set none")]
    found = cluster.find("ConfigMap", name)
    advice = f"kubectl create configmap {name} -n {cluster.namespace} --from-file={key}=ca.pem"
    if not found:
        return [
            problem(
                "CA bundle",
                f"ConfigMap '{name}' does not exist in namespace '{cluster.namespace}'",
                advice,
                NotFoundError,
            )
        ]
    text = (found.get("data") or {}).get(key, "")
    if "BEGIN CERTIFICATE" not in text:
        return [problem("CA bundle", f"ConfigMap '{name}' has no certificate under '{key}'", advice, NotFoundError)]
    return [ok("CA bundle", f"ConfigMap '{name}', key '{key}'")]


def _site(cluster: Reader) -> list[Check]:
    found = cluster.find("ConfigMap", "tuneyard-site")
    if not found:
        return [skipped("site", "no ConfigMap 'tuneyard-site'; it is optional")]
    keys = sorted(found.get("data") or {})
    if unused := [key for key in keys if key not in _SITE_KEYS]:
        advice = f"Remove them; allowed are {', '.join(sorted(_SITE_KEYS))}."
        return [warning("site", f"ConfigMap 'tuneyard-site' has unused keys: {', '.join(unused)}", advice)]
    return [ok("site", f"ConfigMap 'tuneyard-site' sets {_listed(keys)}")]


def _storage(cluster: Reader, requirements: Requirements | None) -> list[Check]:
    classes = cluster.documents("/apis/storage.k8s.io/v1/storageclasses")
    available = _names(classes)
    if requirements and requirements.storage_class:
        name = requirements.storage_class
        if name in available:
            return [ok("storage class", name)]
        key = "storage.storageClassName" if requirements.verb == "serve" else "storageClass"
        what = f"storage class '{name}' does not exist; available: {_listed(available)}"
        advice = f"--set {key}={available[0] if available else ''}"
        return [problem("storage class", what, advice, NotFoundError)]
    mark = "storageclass.kubernetes.io/is-default-class"
    default = _names(one for one in classes if _annotation(one, mark) == "true")
    if not default:
        return [warning("storage class", "no default storage class", "Name one: --set storageClass=NAME")]
    return [ok("storage class", f"{', '.join(available)}; default '{default[0]}'")]


def _annotation(found: Document, name: str) -> str:
    return found["metadata"].get("annotations", {}).get(name, "")


def _accelerators(cluster: Reader, requirements: Requirements | None) -> list[Check]:
    total: dict[str, int] = {}
    largest: dict[str, int] = {}
    for node in cluster.documents("/api/v1/nodes"):
        for name, amount in node["status"].get("allocatable", {}).items():
            if "/" in name and not name.startswith("hugepages-") and amount.isdecimal():
                total[name] = total.get(name, 0) + int(amount)
                largest[name] = max(largest.get(name, 0), int(amount))
    available = _listed(f"{amount} {name}" for name, amount in sorted(total.items()))
    if not requirements or not requirements.gpu_resource:
        return [ok("accelerators", available) if total else skipped("accelerators", "none; none are requested")]
    requested = requirements.gpu_resource
    if not total.get(requested):
        advice = f"--set gpuResource={next(iter(total))}" if total else "Run on the CPU: --set gpuResource="
        what = f"no node has {requested}; available: {available}"
        return [problem("accelerators", what, advice, AcceleratorMissingError)]
    return [ok("accelerators", f"{available}; at most {largest[requested]} {requested} on one node")]


def _gateway(cluster: Reader, requirements: Requirements | None) -> list[Check]:
    if not requirements or not requirements.http_route:
        return [skipped("Gateway API", "the values enable no httpRoute")]
    if cluster.document("/apis/gateway.networking.k8s.io"):
        return [ok("Gateway API", "installed")]
    advice = "Install the Gateway API, or disable the route: --set httpRoute.enabled=false"
    return [problem("Gateway API", "not installed, but the values enable an httpRoute", advice, NotFoundError)]


def _bucket(
    tools: Tools,
    requirements: Requirements | None,
    bucket: str,
    checks: Sequence[Check],
    *,
    quick: bool,
    progress: Progress | None,
) -> Check:
    name = "bucket from inside"
    blocking: dict[str, Any] = {
        check.name: check
        for check in checks
        if check.outcome == "problem" and check.name in {"namespace", "secret", "CA bundle"}
    }
    if quick or not requirements or blocking:
        no_values = "no values given" if not requirements else ""
        return skipped(name, "--quick" if quick else no_values or f"requires {' and '.join(blocking)}")
    if progress:
        progress(name)
    return probe_bucket(tools, requirements, bucket)


def _names(found: Iterable[Document]) -> list[str]:
    return [one["metadata"]["name"] for one in found]


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names) or "none"
