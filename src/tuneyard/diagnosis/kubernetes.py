"""The prerequisites of a cluster and a namespace: what charts and runs will ask of them, asked beforehand.

Every look reads, with the credentials of the kubeconfig; one short pod writes (`pod_probe`). Values of Secrets are
never kept: only the names of their keys are.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tuneyard.cluster import Document, Reader, Tools
from tuneyard.cluster.amounts import number, written
from tuneyard.cluster.demand import Share
from tuneyard.cluster.quota import cohort_of, queue_shares
from tuneyard.diagnosis.asked import Asked, asked_of
from tuneyard.diagnosis.check import Check, Report, of_error, ok, problem, report, skipped, warning
from tuneyard.diagnosis.local import tool_version
from tuneyard.diagnosis.pod_probe import bucket_from_inside
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

OLDEST = (1, 30)
"""The oldest Kubernetes that takes everything the charts render."""

_KUEUE = "/apis/kueue.x-k8s.io"
_ESO = "external-secrets.io"
_SITE = frozenset({"ca.crt", *SITE_NAMES})
_WRITE = ("get", "list", "watch", "create", "patch", "delete")
_RIGHTS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("batch", "jobs", _WRITE),
    ("apps", "deployments", _WRITE),
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
    """Look at everything that the Kubernetes target needs.

    Args:
        context: The context of the kubeconfig; None for its current one.
        namespace: The namespace; None for the context's.
        files: Values files of the run to look for; without any, only what every run needs is looked at.
        sets: Texts of `--set`.
        bucket: The bucket that the pod writes into.
        quick: Start no pod.
        environ: The environment; the process's own where None.
        progress: Called with the name of each check before it is made.

    Raises:
        InvalidValuesError: The values fit no verb.
        NotFoundError: A values file is not there.
    """
    environ = os.environ if environ is None else environ
    asked = asked_of(files, sets)
    cluster = Reader(context, namespace, environ=environ)
    checks = [_tool(name, environ) for name in ("kubectl", "helm")]
    try:
        version = cluster.document("/version") or {}
    except TuneyardError as error:
        checks.append(of_error("API server", error))
        return report(f"cluster {context or 'of the current context'}", checks)
    checks.append(api_server(version))
    looks: dict[str, Callable[[], list[Check]]] = {
        "namespace": lambda: _namespace(cluster),
        "permissions": lambda: _permissions(cluster),
        "aggregated APIs": lambda: _aggregated(cluster),
        "Kueue": lambda: _kueue(cluster, asked),
        "External Secrets": lambda: _external_secrets(cluster),
        "secret": lambda: _secrets(cluster, asked),
        "CA bundle": lambda: _authorities(cluster, asked),
        "site": lambda: _site(cluster),
        "storage class": lambda: _storage(cluster, asked),
        "accelerators": lambda: _accelerators(cluster, asked),
        "Gateway API": lambda: _gateway(cluster, asked),
    }
    for name, look in looks.items():
        if progress:
            progress(name)
        try:
            checks += look()
        except DeniedError as error:
            # a cluster's own objects are often not for everyone to read; a run does not read them either
            checks.append(warning(name, f"may not be looked at: {error.message}", error.hint))
        except TuneyardError as error:
            checks.append(of_error(name, error))
    tools = Tools(context, cluster.namespace, environ=environ)
    checks.append(_inside(tools, asked, bucket, checks, quick=quick, progress=progress))
    return report(f"namespace {cluster.namespace} of {context or 'the current context'}", checks)


def api_server(version: Document) -> Check:
    """Look at what `/version` says; a server's preStop sleep needs 1.30, and a Deployment with it is refused before."""
    found = f"Kubernetes {version.get('gitVersion')}"
    number = tuple(int(re.sub(r"\D", "", version.get(part) or "0")) for part in ("major", "minor"))
    if number < OLDEST:
        oldest = ".".join(map(str, OLDEST))
        advice = f"Take a cluster of Kubernetes {oldest} or newer; deliver and finetune may work on this one."
        return warning("API server", f"{found}; servers need {oldest} or newer", advice)
    return ok("API server", found)


def _tool(name: str, environ: Mapping[str, str]) -> Check:
    found = shutil.which(name, path=environ.get("PATH"))
    if not found:
        return problem(name, "is not on PATH", f"Install {name}, and put it on PATH.", NotFoundError)
    return tool_version(name, Path(found))


def _namespace(cluster: Reader) -> list[Check]:
    try:
        found = cluster.find("Namespace", cluster.namespace)
    except DeniedError:  # rights in a namespace seldom include reading the namespace itself
        return [
            skipped("namespace", f"{cluster.namespace} may not be read itself"),
            skipped("pod security", "not readable"),
        ]
    if not found:
        advice = f"kubectl create namespace {cluster.namespace}"
        return [problem("namespace", f"there is no namespace {cluster.namespace}", advice, NotFoundError)]
    if found["status"].get("phase") == "Terminating":
        return [problem("namespace", f"{cluster.namespace} is being deleted", "Take another one.", ConflictError)]
    level = found["metadata"].get("labels", {}).get("pod-security.kubernetes.io/enforce", "")
    says = f"{level} is enforced; the charts keep restricted" if level else "no level is enforced"
    return [ok("namespace", cluster.namespace), ok("pod security", says)]


def _permissions(cluster: Reader) -> list[Check]:
    asked = [(verb, group, resource) for group, resource, verbs in _RIGHTS for verb in verbs]
    denied: dict[str, list[str]] = {}
    for verb, group, resource in asked:
        if not cluster.may(verb, group, resource):
            denied.setdefault(resource, []).append(verb)
    if not denied:
        return [ok("permissions", f"all {len(asked)} that runs use")]
    first = next(iter(denied))
    told = "; ".join(f"{', '.join(verbs)} {resource}" for resource, verbs in denied.items())
    advice = f"kubectl auth can-i {denied[first][0]} {first} -n {cluster.namespace}; ask the administrator for a Role."
    return [problem("permissions", f"not allowed: {told}", advice, DeniedError)]


def _aggregated(cluster: Reader) -> list[Check]:
    broken: list[str] = []
    for service in cluster.documents("/apis/apiregistration.k8s.io/v1/apiservices"):
        if not service["spec"].get("service"):
            continue
        conditions = {one["type"]: one for one in service["status"].get("conditions", [])}
        if conditions.get("Available", {}).get("status") != "True":
            broken.append(service["metadata"]["name"])
    if broken:
        found = f"{', '.join(broken)} does not answer; deleted namespaces hang until it does"
        return [warning("aggregated APIs", found, f"kubectl get apiservice {broken[0]} -o yaml")]
    return [ok("aggregated APIs", "every one answers")]


def _kueue(cluster: Reader, asked: Asked | None) -> list[Check]:
    group = cluster.document(_KUEUE)
    queue = asked.queue if asked else ""
    if not group:
        if not queue:
            return [skipped("Kueue", "not installed; runs without a queue don't need it")]
        advice = "Install Kueue, or leave the queue out: --set queueName="
        return [problem("Kueue", f"not installed, and the values queue in {queue}", advice, NotFoundError)]
    version = group["preferredVersion"]["version"]
    at = f"{_KUEUE}/{version}"
    checks = [ok("Kueue", f"kueue.x-k8s.io/{version}{_kueue_release(cluster)}")]
    if not queue:
        there = [
            one["metadata"]["name"] for one in cluster.documents(f"{at}/namespaces/{cluster.namespace}/localqueues")
        ]
        says = f"the values name no queue; there is {', '.join(there) or 'none'}"
        checks.append(skipped("LocalQueue", says))
    else:
        checks += _queue(cluster, at, queue, asked)
    if asked and asked.priority:
        checks.append(_priority(cluster, at, asked.priority))
    return checks


def _kueue_release(cluster: Reader) -> str:
    try:
        found = cluster.documents("/apis/apps/v1/deployments?labelSelector=control-plane%3Dcontroller-manager")
    except TuneyardError:  # it may run elsewhere, or be hidden: only its version is lost
        return ""
    for deployment in found:
        for container in deployment["spec"]["template"]["spec"]["containers"]:
            image, _, tag = container["image"].rpartition(":")
            if image.endswith("/kueue") and tag.startswith("v"):
                return f", {tag}"
    return ""


def _queue(cluster: Reader, at: str, queue: str, asked: Asked | None) -> list[Check]:
    found = cluster.document(f"{at}/namespaces/{cluster.namespace}/localqueues/{queue}")
    if not found:
        there = [
            one["metadata"]["name"] for one in cluster.documents(f"{at}/namespaces/{cluster.namespace}/localqueues")
        ]
        advice = f"--set queueName={there[0]}" if there else "Make it with workloads/k8s-namespace-setup."
        what = f"there is no LocalQueue {queue} in {cluster.namespace}; there is {', '.join(there) or 'none'}"
        return [problem("LocalQueue", what, advice, NotFoundError)]
    target = found["spec"]["clusterQueue"]
    checks = [ok("LocalQueue", f"{queue}, of ClusterQueue {target}")]
    try:
        whole = cluster.document(f"{at}/clusterqueues/{target}")
    except DeniedError:
        return [*checks, skipped("ClusterQueue", f"{target} may not be read")]
    if not whole:
        advice = f"kubectl get clusterqueues; ask the administrator for {target}."
        return [*checks, problem("ClusterQueue", f"there is no ClusterQueue {target}", advice, NotFoundError)]
    active = {one["type"]: one for one in whole["status"].get("conditions", [])}.get("Active", {})
    if active.get("status") != "True":
        what = f"{target} is not active: {active.get('message', 'no reason given')}"
        return [*checks, problem("ClusterQueue", what, f"kubectl describe clusterqueue {target}", UnavailableError)]
    cohort = cohort_of(whole, cluster.documents(f"{at}/clusterqueues"))
    return [*checks, ok("ClusterQueue", f"{target} is active"), _quota(cohort, asked)]


def _quota(cohort: Sequence[Document], asked: Asked | None) -> Check:
    shares, _ = queue_shares(cohort, asked.resources if asked else {})
    bad = [str(share) for share in shares if share.fits == "never"]
    if bad:
        advice = "Ask for less, such as --set finetuningGpus=1, or have the ClusterQueue's quota raised."
        return problem("quota", "; ".join(bad), advice, InvalidValuesError)
    told = ", ".join(f"{number(share.resource, share.asked)} of {_whole(share)}" for share in shares)
    return ok("quota", told or "the values ask for none")


def _whole(share: Share) -> str:
    assert share.whole is not None, "what is not covered is a problem"
    return written(share.resource, share.whole)


def _priority(cluster: Reader, at: str, name: str) -> Check:
    if cluster.document(f"{at}/workloadpriorityclasses/{name}"):
        return ok("priority class", name)
    there = ", ".join(one["metadata"]["name"] for one in cluster.documents(f"{at}/workloadpriorityclasses"))
    what = f"there is no WorkloadPriorityClass {name}; there is {there or 'none'}"
    return problem("priority class", what, "Correct priorityClass, or leave it out: --set priorityClass=")


def _external_secrets(cluster: Reader) -> list[Check]:
    group = cluster.document(f"/apis/{_ESO}")
    if not group:
        return [skipped("External Secrets", "not installed; a plain Secret does as well")]
    versions = [one["version"] for one in group["versions"]]
    checks: list[Check] = []
    wanted = NamespaceValues().external_secret.api_version.rpartition("/")[2]
    served = f"serves {', '.join(versions)}"
    if wanted in versions:
        checks.append(ok("External Secrets", f"{served}; the chart asks for {wanted}"))
    else:
        advice = f"--set external_secret.api_version={_ESO}/{versions[0]}"
        checks.append(warning("External Secrets", f"{served}; the chart asks for {wanted}", advice))
    at = f"/apis/{_ESO}/{group['preferredVersion']['version']}/namespaces/{cluster.namespace}"
    for kind, ready in (("SecretStore", "ready"), ("ExternalSecret", "synced")):
        found = cluster.documents(f"{at}/{kind.lower()}s")
        late = [(one["metadata"]["name"], why) for one in found if (why := _not_ready(one))]
        for name, why in late:
            advice = f"kubectl describe {kind.lower()} {name} -n {cluster.namespace}"
            checks.append(problem(kind, f"{name} is not {ready}: {why}", advice, NotFoundError))
        if found and not late:
            checks.append(ok(kind, f"{', '.join(one['metadata']['name'] for one in found)} is {ready}"))
    return checks


def _not_ready(found: Document) -> str:
    ready = {one["type"]: one for one in found.get("status", {}).get("conditions", [])}.get("Ready")
    if ready is None:
        return "it has no status yet"
    return "" if ready["status"] == "True" else ready.get("message", "no reason given")


def _secrets(cluster: Reader, asked: Asked | None) -> list[Check]:
    if not asked:
        return [skipped("secret", "no values were given")]
    return [
        *(_secret(cluster, name, keys) for name, keys in asked.secrets.items()),
        *(_secret(cluster, name, [".dockerconfigjson"]) for name in asked.pull_secrets),
    ]


def _secret(cluster: Reader, name: str, keys: Sequence[str]) -> Check:
    found = cluster.find("Secret", name)
    if not found:
        literals = " ".join(f"--from-literal={key}=VALUE" for key in keys)
        advice = f"kubectl create secret generic {name} -n {cluster.namespace} {literals}"
        return problem("secret", f"there is no Secret {name} in {cluster.namespace}", advice, NotFoundError)
    there = set(found.get("data") or {})
    if missing := [key for key in keys if key not in there]:
        what = f"{name} lacks {', '.join(missing)}; it has {', '.join(sorted(there)) or 'no key'}"
        return problem(
            "secret", what, f"kubectl edit secret {name} -n {cluster.namespace}, or name its keys in the values."
        )
    return ok("secret", f"{name} has {', '.join(keys)}")


def _authorities(cluster: Reader, asked: Asked | None) -> list[Check]:
    name, key = asked.ca if asked else ("", "")
    if not name:
        return [skipped("CA bundle", "the values name none")]
    found = cluster.find("ConfigMap", name)
    advice = f"kubectl create configmap {name} -n {cluster.namespace} --from-file={key}=ca.pem"
    if not found:
        return [problem("CA bundle", f"there is no ConfigMap {name} in {cluster.namespace}", advice, NotFoundError)]
    text = (found.get("data") or {}).get(key, "")
    if "BEGIN CERTIFICATE" not in text:
        return [problem("CA bundle", f"{name} has no certificate under {key}", advice, NotFoundError)]
    return [ok("CA bundle", f"{name}, key {key}")]


def _site(cluster: Reader) -> list[Check]:
    found = cluster.find("ConfigMap", "tuneyard-site")
    if not found:
        return [skipped("site", "there is no ConfigMap tuneyard-site; none is needed where nothing is special")]
    keys = sorted(found.get("data") or {})
    if other := [key for key in keys if key not in _SITE]:
        advice = f"Allowed: {', '.join(sorted(_SITE))}"
        return [warning("site", f"tuneyard-site has keys that nothing reads: {', '.join(other)}", advice)]
    return [ok("site", f"tuneyard-site sets {', '.join(keys) or 'nothing'}")]


def _storage(cluster: Reader, asked: Asked | None) -> list[Check]:
    classes = cluster.documents("/apis/storage.k8s.io/v1/storageclasses")
    names = [one["metadata"]["name"] for one in classes]
    if asked and asked.storage_class:
        if asked.storage_class in names:
            return [ok("storage class", asked.storage_class)]
        what = f"there is no storage class {asked.storage_class}; there is {', '.join(names) or 'none'}"
        advice = f"--set storageClass={names[0]}" if names else "--set storageClass= for a volume of the node"
        return [problem("storage class", what, advice, NotFoundError)]
    mark = "storageclass.kubernetes.io/is-default-class"
    default = [one["metadata"]["name"] for one in classes if _annotation(one, mark) == "true"]
    if not default:
        return [warning("storage class", "there is no default one", "Name one: --set storageClass=NAME")]
    return [ok("storage class", f"{', '.join(names)}; default {default[0]}")]


def _annotation(found: Document, name: str) -> str:
    return found["metadata"].get("annotations", {}).get(name, "")


def _accelerators(cluster: Reader, asked: Asked | None) -> list[Check]:
    there: dict[str, int] = {}
    largest: dict[str, int] = {}
    for node in cluster.documents("/api/v1/nodes"):
        for name, amount in node["status"].get("allocatable", {}).items():
            if "/" in name and not name.startswith("hugepages-") and amount.isdecimal():
                there[name] = there.get(name, 0) + int(amount)
                largest[name] = max(largest.get(name, 0), int(amount))
    told = ", ".join(f"{amount} {name}" for name, amount in sorted(there.items())) or "none"
    if not asked or not asked.gpu_resource:
        return [ok("accelerators", told) if there else skipped("accelerators", "none, and none are asked for")]
    if not there.get(asked.gpu_resource):
        advice = f"--set gpuResource={next(iter(there))}" if there else "--set gpuResource= for the CPU"
        what = f"no node has {asked.gpu_resource}; there is {told}"
        return [problem("accelerators", what, advice, AcceleratorMissingError)]
    return [ok("accelerators", f"{told}; at most {largest[asked.gpu_resource]} {asked.gpu_resource} on one node")]


def _gateway(cluster: Reader, asked: Asked | None) -> list[Check]:
    if not asked or not asked.http_route:
        return [skipped("Gateway API", "the values ask for no httpRoute")]
    if cluster.document("/apis/gateway.networking.k8s.io"):
        return [ok("Gateway API", "installed")]
    advice = "Install the Gateway API, or --set httpRoute.enabled=false"
    return [problem("Gateway API", "not installed, and the values ask for an httpRoute", advice, NotFoundError)]


def _inside(
    tools: Tools,
    asked: Asked | None,
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
    if quick or not asked or blocking:
        why = "--quick" if quick else "no values were given" if not asked else f"for want of {' and '.join(blocking)}"
        return skipped(name, why)
    if progress:
        progress(name)
    return bucket_from_inside(tools, asked, bucket)
