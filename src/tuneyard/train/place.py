"""Where a process stands among the nodes of its run, as its environment says. Not how they meet (`meeting`)."""

from __future__ import annotations

import ipaddress
import os
from dataclasses import dataclass

from tuneyard.errors import InvalidValuesError, Problem, UsageError

PORT = 29500


@dataclass(frozen=True)
class Place:
    """Where a node stands among the others.

    Attributes:
        nodes: How many there are.
        node: Which one this is, from 0.
        address: Where node 0 is reached.
        port: Where node 0 listens for the others.
        own_address: The one address of this machine that the others reach it at; empty where that isn't known.
    """

    nodes: int = 1
    node: int = 0
    address: str = "127.0.0.1"
    port: int = PORT
    own_address: str = ""

    @staticmethod
    def of(nodes: int) -> Place:
        """Read it from the environment.

        Args:
            nodes: How many nodes the values ask for.

        Raises:
            InvalidValuesError: Where another number of nodes is there.
            UsageError: Where the environment's words are off.
        """
        told = _number("TUNEYARD_NODES", 1)
        if nodes != told:
            problem = Problem("nodes", "differs from the nodes that are there (TUNEYARD_NODES)", str(nodes), str(told))
            raise InvalidValuesError(
                f"the values ask for {nodes} node(s), and {told} are there",
                hint="--set nodes=1 trains on one machine; --on kubernetes starts as many nodes as the values request",
                problems=[problem],
            )
        if nodes == 1:
            return Place()
        node = _number("JOB_COMPLETION_INDEX", -1)
        service = os.environ.get("TUNEYARD_NODE_SERVICE", "")
        address = os.environ.get("TUNEYARD_MASTER_ADDR") or (f"{service}-0.{service}" if service else "")
        if not 0 <= node < nodes or not address:
            raise UsageError(
                f"JOB_COMPLETION_INDEX is {node} and node 0's address {address!r}: no place among {nodes} nodes",
                hint="set JOB_COMPLETION_INDEX from 0 on, and TUNEYARD_MASTER_ADDR to where node 0 is reached",
            )
        # A name may lead to the loopback interface on the machine that has it: only an address says where to listen.
        own = os.environ.get("TUNEYARD_NODE_ADDRESS") or (address if node == 0 and _is_address(address) else "")
        return Place(nodes, node, address, _number("TUNEYARD_MASTER_PORT", PORT), own)


def _number(name: str, default: int) -> int:
    text = os.environ.get(name) or str(default)
    try:
        return int(text)
    except ValueError as error:
        raise UsageError(f"{name} is {text!r}, which is no number", hint=f"set {name} to a whole number") from error


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
