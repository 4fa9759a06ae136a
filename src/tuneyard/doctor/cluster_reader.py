"""What the API server of a cluster says: documents by their path, through kubectl and its credentials.

A path that is not there gives None. Unreachable and denied are errors, so that they are never taken for missing.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Mapping, Sequence
from typing import Any

from tuneyard.cluster import Tools
from tuneyard.errors import DeniedError, NotFoundError, TuneyardError, UnavailableError

_SECONDS = 60
_REQUEST_SECONDS = 10

Document = dict[str, Any]


class ClusterReader:
    """Reads a cluster.

    Args:
        context: The context of the kubeconfig; None for its current one.
        environ: Where `KUBECONFIG` and `PATH` are read from.
    """

    def __init__(self, context: str | None, environ: Mapping[str, str] | None = None) -> None:
        self._context = context
        self._start = ["kubectl", *(["--context", context] if context else [])]
        self._environ = dict(os.environ if environ is None else environ)

    def get(self, path: str) -> Document | None:
        """Read the document at a path of the API, or None where nothing is there.

        Raises:
            DeniedError: Reading it is forbidden.
            UnavailableError: The API server does not answer.
        """
        try:
            return json.loads(self.kubectl("get", "--raw", path))
        except NotFoundError:
            return None

    def items(self, path: str) -> list[Document]:
        """Read the items of a list; none where there is no such list."""
        return (self.get(path) or {}).get("items", [])

    def namespace(self) -> str:
        """Give the namespace of the kubeconfig's context."""
        view = self.kubectl("config", "view", "--minify", "-o", "jsonpath={..namespace}")
        return view.strip() or "default"

    def kubectl(self, *words: str, given: str = "", seconds: int = _SECONDS) -> str:
        """Run kubectl and give what it prints.

        Args:
            words: Its arguments.
            given: Its standard input.
            seconds: How long it may take.
        """
        command = [*self._start, f"--request-timeout={_REQUEST_SECONDS}s", *words]
        try:
            ran = subprocess.run(
                command, input=given, capture_output=True, text=True, timeout=seconds, check=False, env=self._environ
            )
        except FileNotFoundError as error:
            raise NotFoundError(
                "kubectl is not on PATH.", hint="Install kubectl: https://kubernetes.io/docs"
            ) from error
        except subprocess.TimeoutExpired as error:
            raise UnavailableError("The cluster does not answer in time.", hint="kubectl cluster-info") from error
        if ran.returncode:
            raise _explained(ran.stderr)
        return ran.stdout

    def tools(self, namespace: str) -> Tools:
        """Give helm and kubectl for one of its namespaces."""
        return Tools(self._context, namespace, environ=self._environ)

    def allowed(self, namespace: str, asked: Sequence[tuple[str, str, str]]) -> list[bool]:
        """Ask whether these credentials may do things in a namespace.

        Args:
            namespace: The namespace.
            asked: Verb, API group and resource of each; a resource may be `pods/log`.
        """
        reviews = [_review(namespace, *one) for one in asked]
        given = json.dumps({"apiVersion": "v1", "kind": "List", "items": reviews})
        answered = _documents(self.kubectl("create", "-f", "-", "-o", "json", given=given))
        return [one["status"]["allowed"] for one in answered]


def _documents(text: str) -> list[Document]:
    """Read JSON documents that stand one after another."""
    found: list[Document] = []
    decoder, place = json.JSONDecoder(), 0
    while text[place:].strip():
        place += len(text[place:]) - len(text[place:].lstrip())
        document, place = decoder.raw_decode(text, place)
        found.append(document)
    return found


def _review(namespace: str, verb: str, group: str, resource: str) -> Document:
    name, _, part = resource.partition("/")
    attributes = {"namespace": namespace, "verb": verb, "group": group, "resource": name, "subresource": part}
    return {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": attributes},
    }


def _explained(said: str) -> TuneyardError:
    line = next((line for line in reversed(said.strip().splitlines()) if line), "kubectl said nothing")
    if re.search(r"\(NotFound\)|could not find the requested resource|not found$", said.strip()):
        return NotFoundError(line)
    if "Forbidden" in said or "forbidden" in said:
        return DeniedError(f"The cluster denies it: {line}", hint="Ask the cluster's administrator for the right.")
    if "Unauthorized" in said or "must be logged in" in said:
        return DeniedError("The cluster does not accept the credentials.", hint="kubectl config view --minify")
    if re.search(r'context "?.*"? does not exist|no configuration has been provided|no such file', said):
        return NotFoundError(line, hint="kubectl config get-contexts")
    if "certificate" in said:
        return UnavailableError(f"The API server's certificate is not trusted: {line}", hint="kubectl cluster-info")
    if re.search(r"connection|dial tcp|timeout|no route|Unable to connect|ServiceUnavailable", said):
        return UnavailableError(f"The API server can't be reached: {line}", hint="kubectl cluster-info")
    return TuneyardError(f"kubectl failed: {line}")
