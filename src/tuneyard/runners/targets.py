"""From a target to its runner; the one place that lists the targets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tuneyard.errors import UsageError
from tuneyard.runners.base import Runner
from tuneyard.runners.local import LocalRunner


@dataclass(frozen=True, slots=True)
class Kubernetes:
    """A namespace of a cluster, as a target.

    Attributes:
        context: The kubeconfig's context; None for its current one.
        namespace: The namespace; None for the context's own.
    """

    context: str | None = None
    namespace: str | None = None


Target = Literal["local", "kubernetes"] | Kubernetes
"""`"local"` is this machine, `"kubernetes"` the kubeconfig's current context and namespace."""


def target_of(name: str, *, context: str | None = None, namespace: str | None = None) -> Target:
    """Return the target that a command line selects.

    Args:
        name: `local` or `kubernetes`.
        context: The kubeconfig's context, for `kubernetes`.
        namespace: The namespace, for `kubernetes`.

    Raises:
        UsageError: If there is no such target, or a context or namespace is given for this machine.
    """
    if name == "kubernetes":
        return Kubernetes(context, namespace)
    if name != "local":
        raise UsageError(f"There is no target {name!r}.", hint="Use --on local or --on kubernetes.")
    if given := [f"--{option}" for option, value in (("context", context), ("namespace", namespace)) if value]:
        raise UsageError(
            f"{' and '.join(given)} can't be used on this machine.", hint="Add --on kubernetes, or omit the option."
        )
    return "local"


def runner_for(target: Target) -> Runner:
    """Return the runner of a target.

    Args:
        target: The target.

    Raises:
        UsageError: If there is no such target.
    """
    cluster = cluster_of(target)
    if cluster is None:
        return LocalRunner()
    from tuneyard.runners.kubernetes import KubernetesRunner

    return KubernetesRunner(cluster.context, cluster.namespace)


def cluster_of(target: Target) -> Kubernetes | None:
    """Return the namespace that a target is; None for this machine.

    Args:
        target: The target.

    Raises:
        UsageError: If there is no such target.
    """
    place = target if isinstance(target, Kubernetes) else target_of(target)
    return place if isinstance(place, Kubernetes) else None
