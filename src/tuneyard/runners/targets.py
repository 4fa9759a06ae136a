"""From a target to its runner; the one place that knows which targets there are."""

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


def runner_for(target: Target, *, context: str | None = None, namespace: str | None = None) -> Runner:
    """Give the runner of a target.

    Args:
        target: The target.
        context: The kubeconfig's context, for `"kubernetes"`.
        namespace: The namespace, for `"kubernetes"`.

    Raises:
        UsageError: If there is no such target, or a context or namespace is told for this machine.
    """
    if target == "local":
        if given := [f"--{name}" for name, value in (("context", context), ("namespace", namespace)) if value]:
            raise UsageError(
                f"{' and '.join(given)} means nothing on this machine.",
                hint="Say --on kubernetes as well, or leave it out.",
            )
        return LocalRunner()
    if target == "kubernetes":
        target = Kubernetes(context, namespace)
    if not isinstance(target, Kubernetes):  # pyright: ignore[reportUnnecessaryIsInstance]  (programs may give anything)
        raise UsageError(f"There is no target {target!r}.", hint="Say --on local or --on kubernetes.")
    from tuneyard.runners.kubernetes import KubernetesRunner

    return KubernetesRunner(target.context, target.namespace)
