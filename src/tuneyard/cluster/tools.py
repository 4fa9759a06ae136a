"""helm and kubectl as this machine has them: run, and their refusals told as errors of ours.

kubectl does every write, so that what Tuneyard does to a cluster can be done, and read, by hand.
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
OLDEST: Mapping[str, tuple[int, int]] = {"kubectl": (1, 27), "helm": (3, 14)}
"""What renders the charts and applies server-side as it is done here."""

INSTALL: Mapping[str, str] = {
    "kubectl": "Install kubectl 1.27 or newer: https://kubernetes.io/docs/tasks/tools/",
    "helm": "Install Helm 3.14 or newer: https://helm.sh/docs/intro/install/",
}
_VERSION_COMMANDS = {"kubectl": ["version", "--client", "-o", "json"], "helm": ["version", "--short"]}
_SECONDS = 120


class Tools:
    """Runs helm and kubectl for one context and namespace.

    Args:
        context: The kubeconfig's context; None for its current one.
        namespace: The namespace that is written to.
        environ: Where `PATH` and `KUBECONFIG` are read from; this process's environment by default.
    """

    def __init__(self, context: str | None, namespace: str, *, environ: Mapping[str, str] | None = None) -> None:
        self.context, self.namespace = context, namespace
        self._environ = dict(os.environ if environ is None else environ)
        self._checked: set[str] = set()

    def check(self, *programs: str) -> None:
        """Look whether programs are there and new enough; once each.

        Raises:
            UnavailableError: If one is missing or too old, with what to install.
        """
        for program in programs:
            if program in self._checked:
                continue
            told = self._run([program, *_VERSION_COMMANDS[program]])
            found = re.search(r"v(\d+)\.(\d+)", told)
            if found is None or (int(found[1]), int(found[2])) < OLDEST[program]:
                version = found[0] if found else repr(told.strip()[:40])
                raise UnavailableError(f"{program} on this machine is too old: {version}.", hint=INSTALL[program])
            self._checked.add(program)

    def helm(self, *words: str, given: str = "") -> str:
        """Run helm and give what it prints."""
        self.check("helm")
        return self._run(["helm", *words], given=given)

    def kubectl_command(self, *words: str) -> list[str]:
        """Give a kubectl command line for this context and namespace."""
        context = ["--context", self.context] if self.context else []
        return ["kubectl", *context, "--namespace", self.namespace, *words]

    def kubectl(self, *words: str, given: str = "") -> str:
        """Run kubectl in the namespace and give what it prints.

        Raises:
            NotFoundError: If the namespace, a kind or an object is not there.
            DeniedError: If the credentials are not accepted, or may not do it.
            ConflictError: If what is there can't be changed so.
            UnavailableError: If the API server, or kubectl itself, is not there.
        """
        return self._run(self.kubectl_command(*words), given=given)

    def apply(self, objects: Iterable[Mapping[str, Any]]) -> None:
        """Apply objects server-side, in their order.

        What another field manager has set otherwise is taken over: these objects are the run's own.
        """
        items = list(objects)
        if items:
            words = ["apply", "--server-side", "--force-conflicts", "--field-manager", FIELD_MANAGER, "-f", "-"]
            self.kubectl(*words, given=json.dumps({"apiVersion": "v1", "kind": "List", "items": items}))

    def patch(self, kind: str, name: str, change: Mapping[str, Any], *, subresource: str = "") -> None:
        """Change a few fields of an object; null removes one."""
        words = ["patch", kind, name, "--type", "merge", "--field-manager", FIELD_MANAGER, "-p", json.dumps(change)]
        self.kubectl(*words, *(["--subresource", subresource] if subresource else []))

    def delete_exactly(self, path: str, uid: str) -> None:
        """Begin to delete the object at an API path, its dependents first, where it is still the one with this uid."""
        options = {
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "propagationPolicy": "Foreground",
            "preconditions": {"uid": uid},
        }
        try:
            self.kubectl("delete", "--raw", path, "-f", "-", given=json.dumps(options))
        except (NotFoundError, ConflictError):
            return  # gone already, or another one by now: what the caller looks at next

    def delete_labelled(self, kinds: Sequence[str], labels: Mapping[str, str]) -> None:
        """Delete every object of some kinds with these labels, and wait until it is gone."""
        selector = ",".join(f"{key}={value}" for key, value in labels.items())
        self.kubectl("delete", ",".join(kinds), "--selector", selector, "--cascade=foreground", "--wait")

    def _run(self, command: list[str], *, given: str = "") -> str:
        program = command[0]
        try:
            ran = subprocess.run(
                command,
                input=given,
                capture_output=True,
                encoding="utf-8",
                errors="surrogateescape",
                check=False,
                timeout=_SECONDS,
                env=self._environ,
            )
        except FileNotFoundError as error:
            raise UnavailableError(f"{program} is not on this machine's PATH.", hint=INSTALL[program]) from error
        except subprocess.TimeoutExpired as error:
            said = f"{program} has not ended within {_SECONDS} s."
            raise UnavailableError(said, hint="See whether the cluster answers: kubectl get --raw /readyz") from error
        if ran.returncode:
            raise explained(program, ran.stderr, self.namespace)
        return ran.stdout


def explained(program: str, said: str, namespace: str = "") -> TuneyardError:
    """Turn what helm or kubectl said before it failed into an error of ours.

    Args:
        program: Which of the two.
        said: Its standard error.
        namespace: The namespace it was to work in.
    """
    lines = [line.strip() for line in said.splitlines() if line.strip() and not line.startswith("Warning:")]
    line = lines[-1].removeprefix("Error:").strip() if lines else "it said nothing"
    if missing := re.search(r'namespaces "([^"]+)" not found', said):
        return no_namespace(missing[1])
    if re.search(r"\(NotFound\)|could not find the requested resource|doesn't have a resource type", said):
        return NotFoundError(f"The cluster has no such thing: {line}", hint="tuneyard doctor --on kubernetes")
    if re.search(r"[Ff]orbidden", said):
        if "exceeded quota" in said:
            hint = f"kubectl describe quota{f' -n {namespace}' if namespace else ''}"
            return UnavailableError(f"The namespace's quota is used up: {line}", hint=hint)
        return DeniedError(f"The cluster denies it: {line}", hint=ASK_FOR_RIGHTS)
    if re.search(r"Unauthorized|must be logged in|provide credentials", said):
        return DeniedError(f"The cluster does not accept the credentials: {line}", hint="kubectl auth whoami")
    if re.search(r"context .*does not exist|no context exists|context was not found", said):
        return NotFoundError(f"The kubeconfig has no such context: {line}", hint="kubectl config get-contexts")
    if re.search(r"\(Conflict\)|\(AlreadyExists\)|immutable|the UID in the precondition", said):
        return ConflictError(f"What is in the cluster can't be changed so: {line}")
    if re.search(r"certificate|x509", said):
        return UnavailableError(f"The API server's certificate is not trusted: {line}", hint="kubectl cluster-info")
    if re.search(r"refused|dial tcp|[Tt]imeout|no route|Unable to connect|ServiceUnavailable|TooManyRequests", said):
        return UnavailableError(f"The API server can't be reached: {line}", hint="kubectl cluster-info")
    return TuneyardError(f"{program} failed: {line}")


ASK_FOR_RIGHTS = "Ask the cluster's administrator for the role that tuneyard doctor --on kubernetes looks for."


def no_namespace(name: str) -> NotFoundError:
    """Build the error for a namespace that is not there."""
    return NotFoundError(
        f"The cluster has no namespace {name!r}.",
        hint=f"Make it: kubectl create namespace {name}   or name another: --namespace NAME",
        namespace=name,
    )
