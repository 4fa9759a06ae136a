"""The client that a command's options select."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tuneyard.client import Client


def client(on: str, context: str | None = None, namespace: str | None = None, store: str | None = None) -> Client:
    """Make the client of a command.

    Args:
        on: The target's name.
        context: The kubeconfig's context, for a cluster.
        namespace: The namespace, for a cluster.
        store: The store's URL or folder.

    Raises:
        UsageError: If a context or a namespace is given for this machine.
    """
    from tuneyard.client import Client
    from tuneyard.runners import target_of

    return Client(target_of(on, context=context, namespace=namespace), store=store)
