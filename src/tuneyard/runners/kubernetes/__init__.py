"""The runner of a cluster's namespace: Helm renders, kubectl writes, lightkube reads; it keeps no state of its own."""

from tuneyard.runners.kubernetes.runner import KubernetesRunner

__all__ = ["KubernetesRunner"]
