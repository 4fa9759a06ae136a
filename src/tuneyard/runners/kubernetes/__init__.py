"""The runner of a namespace of a cluster: Helm renders, kubectl writes, lightkube reads; no state of its own."""

from tuneyard.runners.kubernetes.runner import KubernetesRunner

__all__ = ["KubernetesRunner"]
