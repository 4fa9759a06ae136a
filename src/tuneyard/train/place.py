"""The position of this process's node in its run, read from the environment. How nodes meet is in `meeting`."""

from __future__ import annotations

import ipaddress
import os
from dataclasses import dataclass
from typing import TypeVar

from tuneyard.errors import InvalidValuesError, Problem, UsageError

PORT = 29500

Number = TypeVar("Number", int, float)


@dataclass(frozen=True)
class Place:
    """The position of one node among the nodes of its run.

    Attributes:
        nodes: The number of nodes.
        node: The index of this node, from 0.
        address: The host name or IP address of node 0.
        port: The port that node 0 listens on for the other nodes.
        own_address: The one IP address of this machine that the other nodes connect to; empty where it is unknown.
    """

    nodes: int = 1
    node: int = 0
    address: str = "127.0.0.1"
    port: int = PORT
    own_address: str = ""

    @staticmethod
    def of(nodes: int) -> Place:
        """Read the place from the environment.

        Args:
            nodes: The number of nodes in the values.

        Raises:
            InvalidValuesError: The environment has another number of nodes than the values.
            UsageError: An environment variable is malformed, or the place is incomplete.
        """
        available = number_of("TUNEYARD_NODES", 1, int)
        if nodes != available:
            problem = Problem("nodes", "differs from TUNEYARD_NODES", str(nodes), str(available))
            raise InvalidValuesError(
                f"The values need {nodes} node(s), but TUNEYARD_NODES is {available}.",
                hint="Use --set nodes=1 for one machine, or --on kubernetes to start as many nodes as the values need.",
                problems=[problem],
            )
        if nodes == 1:
            return Place()
        node = number_of("JOB_COMPLETION_INDEX", -1, int)
        service = os.environ.get("TUNEYARD_NODE_SERVICE", "")
        address = os.environ.get("TUNEYARD_MASTER_ADDR") or (f"{service}-0.{service}" if service else "")
        if not 0 <= node < nodes or not address:
            raise UsageError(
                f"JOB_COMPLETION_INDEX is '{node}' and the address of node 0 is '{address}', "
                f"which is not a position among {nodes} nodes.",
                hint=f"Set JOB_COMPLETION_INDEX to 0 to {nodes - 1} and TUNEYARD_MASTER_ADDR to the address of node 0.",
            )
        # A node's own host name may resolve to the loopback interface, so only an IP address fixes where to listen.
        own = os.environ.get("TUNEYARD_NODE_ADDRESS") or (address if node == 0 and _is_address(address) else "")
        return Place(nodes, node, address, number_of("TUNEYARD_MASTER_PORT", PORT, int), own)


def number_of(name: str, default: Number, kind: type[Number]) -> Number:
    """Read a number from an environment variable.

    Args:
        name: The variable.
        default: Its value where it is not set, or empty.
        kind: The number's type.

    Raises:
        UsageError: It is no such number.
    """
    text = os.environ.get(name) or str(default)
    try:
        return kind(text)
    except ValueError as error:
        wanted = "an integer" if kind is int else "a number of seconds"
        raise UsageError(f"{name} is '{text}', which is not a number.", hint=f"Set {name} to {wanted}.") from error


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
