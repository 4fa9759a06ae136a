"""Read objects from the API server as plain documents, through lightkube.

"Unreachable" and "denied" raise errors of their own, so that neither is taken for "not found".
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cached_property
from typing import TYPE_CHECKING, Any

from tuneyard.cluster.tools import PERMISSIONS_HINT, namespace_missing
from tuneyard.errors import ConflictError, DeniedError, NotFoundError, TuneyardError, UnavailableError

if TYPE_CHECKING:
    import httpx2
    from lightkube import Client

Document = dict[str, Any]
"""An API object as JSON."""

_KUEUE = ("v1beta2", "v1beta1")
_CLUSTER_SCOPED = ("Node", "Namespace")
_READ_TIMEOUT_SECONDS = 30.0


class Reader:
    """Reads one namespace of a cluster.

    Args:
        context: The kubeconfig's context; None for its current one.
        namespace: The namespace; None for the context's.
        environ: The environment to read `KUBECONFIG` from; this process's by default.
    """

    def __init__(
        self, context: str | None = None, namespace: str | None = None, *, environ: Mapping[str, str] | None = None
    ) -> None:
        self._context, self._namespace = context, namespace
        self._kubeconfig = (os.environ if environ is None else environ).get("KUBECONFIG")
        self._own = threading.local()
        self._opened: list[Client | httpx2.Client] = []
        weakref.finalize(self, _close, self._opened)

    def connect(self) -> None:
        """Import lightkube and read the kubeconfig, before several threads do so at once."""
        from lightkube.core import exceptions
        from lightkube.resources import apps_v1, batch_v1, core_v1

        del exceptions, apps_v1, batch_v1, core_v1
        _ = self._client

    @cached_property
    def namespace(self) -> str:
        """The namespace to read from."""
        return self._namespace or self._config.namespace or "default"

    def get(self, kind: str, name: str) -> Document:
        """Read one object.

        Args:
            kind: `Job`, `Deployment`, `Pod`, `ConfigMap`, `Secret`, `Node`, `Namespace`.
            name: Its name.

        Raises:
            NotFoundError: If it does not exist.
        """
        with _errors(f"{kind} {name}"):
            resource = _resource(kind)
            if kind in _CLUSTER_SCOPED:
                return self._client.get(resource, name).to_dict()
            return self._client.get(resource, name, namespace=self.namespace).to_dict()

    def find(self, kind: str, name: str) -> Document | None:
        """Read one object; None where it does not exist."""
        try:
            return self.get(kind, name)
        except NotFoundError:
            return None

    def list(self, kind: str, labels: Mapping[str, Any] | None = None, **fields: str) -> list[Document]:
        """Read the objects of a kind: those of the namespace, or of the cluster for a cluster-scoped kind.

        Args:
            kind: As in `get`, or `Event`.
            labels: A label selector.
            fields: A field selector, with `__` for a dot.
        """
        selected: Any = {key.replace("__", "."): value for key, value in fields.items()} or None
        where: dict[str, Any] = {} if kind in _CLUSTER_SCOPED else {"namespace": self.namespace}
        with _errors(f"the {kind}s of the {'cluster' if not where else f'namespace {self.namespace}'}"):
            found = self._client.list(
                _resource(kind), **where, labels=dict(labels) if labels else None, fields=selected
            )
            return [one.to_dict() for one in found]

    def document(self, path: str) -> Document | None:
        """Read the document at a path of the API, of any group and namespace; None where there is none.

        Raises:
            NotFoundError: If there is no kubeconfig, or it lacks the context.
            DeniedError: If the credentials lack permission.
            UnavailableError: If the API server does not respond.
        """
        raw = self._raw  # outside of `try`: a missing kubeconfig is not a missing path
        try:
            with _errors(path):
                return raw.get(path).raise_for_status().json()
        except NotFoundError:
            return None

    def documents(self, path: str) -> list[Document]:
        """Read the items of the list at a path of the API; an empty list where there is none."""
        return (self.document(path) or {}).get("items", [])

    def may(self, verb: str, group: str, resource: str) -> bool:
        """Check a permission of these credentials in the namespace.

        Args:
            verb: `get`, `create` and so on.
            group: The API group; empty for the core group.
            resource: In the plural; may name a subresource: `pods/log`.
        """
        from lightkube.models.authorization_v1 import ResourceAttributes, SelfSubjectAccessReviewSpec
        from lightkube.resources.authorization_v1 import SelfSubjectAccessReview

        name, _, part = resource.partition("/")
        attributes = ResourceAttributes(
            namespace=self.namespace, verb=verb, group=group, resource=name, subresource=part or None
        )
        with _errors("access reviews"):
            spec = SelfSubjectAccessReviewSpec(resourceAttributes=attributes)
            review = self._client.create(SelfSubjectAccessReview(spec))
        return bool(review.status and review.status.allowed)

    def workloads(self) -> list[Document]:
        """Read the namespace's Workloads of Kueue; none where Kueue is not installed, or reading them is denied."""
        try:
            return self.kueue("Workload")
        except (NotFoundError, DeniedError):
            return []

    def kueue(self, kind: str) -> list[Document]:
        """Read the objects of one of Kueue's kinds, of the namespace or of the cluster.

        Args:
            kind: `Workload` or `LocalQueue`, of the namespace; `ClusterQueue`, `ResourceFlavor` or `Cohort`.

        Raises:
            NotFoundError: If the kind is not installed.
        """
        from lightkube import generic_resource as generic

        of_namespace = kind in ("Workload", "LocalQueue")
        make = generic.create_namespaced_resource if of_namespace else generic.create_global_resource
        where: dict[str, Any] = {"namespace": self.namespace} if of_namespace else {}
        for version in _KUEUE:
            resource = make("kueue.x-k8s.io", version, kind, f"{kind.lower()}s")
            with suppress(NotFoundError), _errors(f"Kueue's {kind}s"):
                return [dict(one) for one in self._client.list(resource, **where)]
        raise NotFoundError(
            f"The cluster has no Kueue {kind}s.", hint="Install Kueue, or set no queue: --set queueName="
        )

    def events(self, uid: str) -> list[Document]:
        """Read the events of an object, oldest first; none where reading them is denied."""
        try:
            found = self.list("Event", involvedObject__uid=uid)
        except DeniedError:
            return []
        return sorted(found, key=event_time)

    def check_namespace(self) -> None:
        """Check that the namespace exists; assume so where reading it is denied.

        Raises:
            NotFoundError: If it does not exist.
        """
        try:
            self.get("Namespace", self.namespace)
        except DeniedError:
            return
        except NotFoundError:
            raise namespace_missing(self.namespace) from None

    def log(
        self,
        pod: str,
        container: str,
        *,
        follow: bool = False,
        tail_lines: int | None = None,
    ) -> Iterator[str]:
        """Iterate over the lines of a container's log, without line ends.

        Raises:
            NotFoundError: If the pod or its log no longer exists.
            UnavailableError: If the container has not started.
        """
        with _errors(f"the log of {pod}"):
            lines = self._client.log(
                pod,
                namespace=self.namespace,
                container=container,
                follow=follow,
                tail_lines=tail_lines,
                newlines=False,
            )
            yield from lines

    @cached_property
    def _config(self) -> Any:
        from lightkube import KubeConfig
        from lightkube.core.exceptions import ConfigError

        try:
            found = KubeConfig.from_file(self._kubeconfig) if self._kubeconfig else KubeConfig.from_env()
            config = found.get(context_name=self._context)
        except (ConfigError, OSError) as error:
            where = self._kubeconfig or "~/.kube/config"
            lacking = f"context {self._context!r}" if self._context else "a usable context"
            raise NotFoundError(
                f"The kubeconfig '{where}' lacks {lacking}: {error}", hint="kubectl config get-contexts"
            ) from error
        if config is None:
            raise NotFoundError("No kubeconfig found.", hint="Set KUBECONFIG to the kubeconfig of your cluster.")
        return config

    @property
    def _client(self) -> Client:
        # One per thread: concurrent handshakes on one TLS context crash the process (Python 3.11).
        if not hasattr(self._own, "client"):
            self._own.client = self._open()
            self._opened.append(self._own.client)
        return self._own.client

    @cached_property
    def _raw(self) -> httpx2.Client:
        from lightkube.config.client_adapter import Client, ConnectionParams

        with _credentials():
            raw = Client(self._config, ConnectionParams(timeout=_timeout()))
        self._opened.append(raw)
        return raw

    def _open(self) -> Client:
        from lightkube import Client

        with _credentials():
            return Client(config=self._config, namespace=self.namespace, timeout=_timeout(), lazy=False)


def _timeout() -> httpx2.Timeout:
    import httpx2

    return httpx2.Timeout(_READ_TIMEOUT_SECONDS, connect=10.0)


@contextmanager
def _credentials() -> Generator[None]:
    from lightkube.core.exceptions import ConfigError

    try:
        yield
    except (ConfigError, OSError) as error:
        raise DeniedError(f"The kubeconfig's credentials are unusable: {error}", hint="kubectl auth whoami") from error


def _close(clients: list[Client | httpx2.Client]) -> None:
    for client in clients:
        client.close()


def event_time(event: Document) -> str:
    """Return when an event was last observed, as sortable text."""
    series = event.get("series") or {}
    return str(series.get("lastObservedTime") or event.get("lastTimestamp") or event.get("eventTime") or "")


def _resource(kind: str) -> Any:
    from lightkube.resources import apps_v1, batch_v1, core_v1

    for group in (core_v1, batch_v1, apps_v1):
        if found := getattr(group, kind, None):
            return found
    raise AssertionError(f"unknown kind {kind}")


@contextmanager
def _errors(what: str) -> Generator[None]:
    import httpx2
    from lightkube.core.exceptions import ApiError

    try:
        yield
    except ApiError as error:
        raise _error_from(
            error.status.code or error.response.status_code, error.status.message or str(error), what
        ) from error
    except httpx2.HTTPStatusError as error:  # a response without an API object, such as a proxy's
        raise _error_from(error.response.status_code, str(error), what) from error
    except httpx2.HTTPError as error:
        raise UnavailableError(
            f"The API server is unreachable: {error or type(error).__name__}.", hint="kubectl cluster-info"
        ) from error


def _error_from(code: int, message: str, what: str) -> TuneyardError:
    if code == 404:
        return NotFoundError(f"The cluster has no {what}: {message}", hint="tuneyard runs --on kubernetes")
    if code == 401:
        return DeniedError(f"The cluster rejected the credentials: {message}", hint="kubectl auth whoami")
    if code == 403:
        return DeniedError(f"The cluster denied reading {what}: {message}", hint=PERMISSIONS_HINT)
    if code == 409:
        return ConflictError(f"The cluster reported a conflict for {what}: {message}")
    return UnavailableError(f"The API server responded with {code} for {what}: {message}", hint="kubectl cluster-info")
