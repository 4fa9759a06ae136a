"""Free ports on this machine for the servers that are started here."""

from __future__ import annotations

import socket
from collections.abc import Collection

from tuneyard.errors import UnavailableError

FIRST_PORT = 8080
_TRIES = 100


def is_free(host: str, port: int) -> bool:
    """Return whether a server could listen there now."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        # As servers do: a port that only old, closed connections still hold is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def choose_port(host: str, wanted: int | None, *, first: int = FIRST_PORT, taken: Collection[int] = ()) -> int:
    """Return the wanted port, or the first free one from `first`.

    Args:
        host: The address to listen on.
        wanted: The port; None chooses any.
        first: The first to try.
        taken: Ports reserved by servers that don't listen yet.

    Raises:
        UnavailableError: If the wanted port, or each port tried, is in use.
    """
    if wanted is not None:
        if wanted not in taken and is_free(host, wanted):
            return wanted
        raise UnavailableError(
            f"Port {wanted} of {host} is in use by another program.",
            hint="Use another --port, or omit it to get a free one.",
            port=wanted,
        )
    for port in range(first, first + _TRIES):
        if port not in taken and is_free(host, port):
            return port
    raise UnavailableError(
        f"No port from {first} to {first + _TRIES - 1} of {host} is free.", hint="Choose one with --port."
    )
