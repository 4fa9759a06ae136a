"""Run the helm and kubectl of this machine, and map their failures to Tuneyard's errors.

kubectl makes every write, so that users can do, and read, by hand whatever Tuneyard does to a cluster.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tuneyard.errors import ConflictError, DeniedError, NotFoundError, TuneyardError, UnavailableError

FIELD_MANAGER = "tuneyard"
MINIMUM_VERSIONS: Mapping[str, tuple[int, int]] = {"kubectl": (1, 27), "helm": (3, 14)}
"""The oldest versions that render the charts, and apply server-side."""

INSTALL: Mapping[str, str] = {
    "kubectl": "Install kubectl 1.27 or newer: https://kubernetes.io/docs/tasks/tools/",
    "helm": "Install Helm 3.14 or newer: https://helm.sh/docs/intro/install/",
}
_VERSION_COMMANDS = {"kubectl": ["version", "--client", "-o", "json"], "helm": ["version", "--short"]}
_TIMEOUT_SECONDS = 120


class Tools:
    """Runs helm and kubectl for one context and namespace.

    Args:
        context: The kubeconfig's context; None for its current one.
        namespace: The namespace to write to.
        environ: The environment to read `PATH` and `KUBECONFIG` from; this process's by default.
    """

    def __init__(self, context: str | None, namespace: str, *, environ: Mapping[str, str] | None = None) -> None:
        self.context, self.namespace = context, namespace
        self._environ = dict(os.environ if environ is None else environ)
        self._checked: set[str] = set()

    def check(self, *programs: str) -> None:
        """Check that programs are installed and recent enough, once each.

        Raises:
            UnavailableError: If one is missing or too old.
        """
        for program in programs:
            if program not in self._checked:
                self.version(program)
                self._checked.add(program)

    def version(self, program: str) -> str:
        """Return the version of helm or kubectl.

        Raises:
            UnavailableError: If it is missing, can't be run, or is too old.
        """
        printed = self._run([program, *_VERSION_COMMANDS[program]])
        found = re.search(r"v(\d+)\.(\d+)[\w.+-]*", printed)
        if found is None or (int(found[1]), int(found[2])) < MINIMUM_VERSIONS[program]:
            version = found[0] if found else printed.strip()[:40]
            raise UnavailableError(f"The version '{version}' of {program} is not supported.", hint=INSTALL[program])
        return found[0]

    def helm(self, *args: str, stdin: str = "") -> str:
        """Run helm and return its standard output."""
        self.check("helm")
        return self._run(["helm", *args], stdin=stdin)

    def kubectl_command(self, *args: str) -> list[str]:
        """Return a kubectl command line for this context and namespace."""
        context = ["--context", self.context] if self.context else []
        return ["kubectl", *context, "--namespace", self.namespace, *args]

    def kubectl(self, *args: str, stdin: str = "") -> str:
        """Run kubectl in the namespace and return its standard output.

        Raises:
            NotFoundError: If the namespace, a kind or an object does not exist.
            DeniedError: If the credentials are rejected, or lack permission.
            ConflictError: If an object can't be changed in this way.
            UnavailableError: If the API server is unreachable, or kubectl is missing.
        """
        return self._run(self.kubectl_command(*args), stdin=stdin)

    def apply(self, objects: Iterable[Mapping[str, Any]]) -> None:
        """Apply objects server-side, in order.

        Fields of other field managers are overwritten: the run owns these objects.
        """
        items = list(objects)
        if items:
            args = ["apply", "--server-side", "--force-conflicts", "--field-manager", FIELD_MANAGER, "-f", "-"]
            self.kubectl(*args, stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": items}))

    def patch(self, kind: str, name: str, change: Mapping[str, Any], *, subresource: str = "") -> None:
        """Merge-patch an object; null removes a field."""
        args = ["patch", kind, name, "--type", "merge", "--field-manager", FIELD_MANAGER, "-p", json.dumps(change)]
        self.kubectl(*args, *(["--subresource", subresource] if subresource else []))

    def delete_exactly(self, path: str, uid: str) -> None:
        """Start a foreground deletion of the object at an API path, unless it has another uid by now."""
        options = {
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "propagationPolicy": "Foreground",
            "preconditions": {"uid": uid},
        }
        try:
            self.kubectl("delete", "--raw", path, "-f", "-", stdin=json.dumps(options))
        except (NotFoundError, ConflictError):
            return  # deleted or replaced meanwhile; the caller checks

    def delete_labelled(self, kinds: Sequence[str], labels: Mapping[str, str]) -> None:
        """Delete every object of these kinds and labels, and wait for the deletion."""
        selector = ",".join(f"{key}={value}" for key, value in labels.items())
        self.kubectl("delete", ",".join(kinds), "--selector", selector, "--cascade=foreground", "--wait")

    def _run(self, command: list[str], *, stdin: str = "") -> str:
        program = command[0]
        try:
            ran = subprocess.run(
                command,
                input=stdin,
                capture_output=True,
                encoding="utf-8",
                errors="surrogateescape",
                check=False,
                timeout=_TIMEOUT_SECONDS,
                env=self._environ,
            )
        except FileNotFoundError as error:
            raise UnavailableError(f"{program} is not on PATH.", hint=INSTALL[program]) from error
        except OSError as error:
            reason = error.strerror or type(error).__name__
            raise UnavailableError(f"{program} can't be run: {reason}.", hint=INSTALL[program]) from error
        except subprocess.TimeoutExpired as error:
            message = f"{program} timed out after {_TIMEOUT_SECONDS} s."
            raise UnavailableError(
                message, hint="Check that the cluster responds: kubectl get --raw /readyz"
            ) from error
        if ran.returncode:
            raise error_from(program, ran.stderr, self.namespace)
        return ran.stdout


def error_from(program: str, stderr: str, namespace: str = "") -> TuneyardError:
    """Map a failure of helm or kubectl to one of Tuneyard's errors.

    Args:
        program: `helm` or `kubectl`.
        stderr: Its standard error.
        namespace: The namespace it ran in.
    """
    lines = [line.strip() for line in stderr.splitlines() if line.strip() and not line.startswith("Warning:")]
    line = lines[-1].removeprefix("Error:").strip() if lines else "no error message"
    if missing := re.search(r'namespaces "([^"]+)" not found', stderr):
        return namespace_missing(missing[1])
    if re.search(r"\(NotFound\)|could not find the requested resource|doesn't have a resource type", stderr):
        return NotFoundError(f"Not found in the cluster: {line}", hint="tuneyard doctor --on kubernetes")
    if re.search(r"[Ff]orbidden", stderr):
        if "exceeded quota" in stderr:
            hint = f"kubectl describe quota{f' -n {namespace}' if namespace else ''}"
            return UnavailableError(f"The namespace's quota is exhausted: {line}", hint=hint)
        return DeniedError(f"The cluster denied the request: {line}", hint=PERMISSIONS_HINT)
    if re.search(r"Unauthorized|must be logged in|provide credentials", stderr):
        return DeniedError(f"The cluster rejected the credentials: {line}", hint="kubectl auth whoami")
    if re.search(r"context .*does not exist|no context exists|context was not found", stderr):
        return NotFoundError(f"The kubeconfig lacks the context: {line}", hint="kubectl config get-contexts")
    if re.search(r"\(Conflict\)|\(AlreadyExists\)|immutable|the UID in the precondition", stderr):
        return ConflictError(f"The cluster rejected the change: {line}")
    if re.search(r"certificate|x509", stderr):
        return UnavailableError(f"The API server's certificate is not trusted: {line}", hint="kubectl cluster-info")
    if re.search(r"refused|dial tcp|[Tt]imeout|no route|Unable to connect|ServiceUnavailable|TooManyRequests", stderr):
        return UnavailableError(f"The API server is unreachable: {line}", hint="kubectl cluster-info")
    return TuneyardError(f"{program} failed: {line}")


PERMISSIONS_HINT = "List the missing permissions: tuneyard doctor --on kubernetes"


def namespace_missing(name: str) -> NotFoundError:
    """Create the error for a namespace that does not exist."""
    return NotFoundError(
        f"The namespace {name!r} does not exist.",
        hint=f"Create it: kubectl create namespace {name}, or use another: --namespace NAME",
        namespace=name,
    )
