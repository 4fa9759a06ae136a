"""Where a Hub may redirect a request to: never deeper into a network than the Hub itself is.

A Hub on the internet redirects downloads to its storage; a redirect to this machine, into the private network or to a
cloud's metadata service is refused. A Hub that the user configured on a private address may redirect within it. Names
are resolved before a request is sent, and the address of the connection is checked before anything is sent over it.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable, Sequence
from enum import IntEnum
from urllib.parse import urlsplit
from urllib.request import getproxies

import httpx2

from tuneyard.errors import DeniedError
from tuneyard.whereabouts import setting

Addresses = Callable[[str], Sequence[str]]
"""Resolves a name; raises OSError if it has no address."""

_METADATA = tuple(
    ipaddress.ip_network(text)
    for text in ("169.254.0.0/16", "fd00:ec2::/32", "100.100.100.200/32", "168.63.129.16/32", "192.0.0.0/24")
)
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


class Reach(IntEnum):
    """How deep in a network an address is."""

    PUBLIC = 0
    PRIVATE = 1
    LOOPBACK = 2
    NEVER = 3
    """A metadata service, a link-local address, or one that no server can have."""


def reach_of(address: str) -> Reach:
    """Return how deep in a network an IP address is, whatever form it is written in.

    Args:
        address: An IPv4 or IPv6 address; a zone after `%` is ignored.
    """
    ip = ipaddress.ip_address(address.partition("%")[0])
    inner = _inner(ip)
    if inner is not None:
        return max(reach_of(str(inner)), Reach.PUBLIC)
    if any(ip in network for network in _METADATA if network.version == ip.version):
        return Reach.NEVER
    if ip.is_loopback:
        return Reach.LOOPBACK
    if ip.is_link_local or ip.is_multicast or ip.is_unspecified:
        return Reach.NEVER
    if ip.is_reserved and not ip.is_global:
        return Reach.NEVER
    return Reach.PUBLIC if ip.is_global else Reach.PRIVATE


def look_up(host: str) -> Sequence[str]:
    """Return every address of a name, from the system's resolver."""
    found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return [str(entry[4][0]) for entry in found]


class Redirects:
    """The check of one Hub's redirects.

    Args:
        endpoint: The Hub's address, which the user configured.
        addresses: Resolves names.
    """

    def __init__(self, endpoint: str, *, addresses: Addresses = look_up) -> None:
        parts = urlsplit(endpoint)
        self._endpoint, self._scheme, self._host = endpoint, parts.scheme, (parts.hostname or "").lower()
        self._addresses = addresses
        self._own: Reach | None = None

    def is_own(self, url: httpx2.URL) -> bool:
        """Whether an address is the Hub's own host."""
        return url.host.lower() == self._host

    def check(self, url: httpx2.URL) -> None:
        """Check where a redirect leads, before the request is sent.

        Raises:
            DeniedError: This Hub may not redirect there.
        """
        if url.scheme not in ("http", "https") or not url.host:
            raise self._refused(url, "which is not a web address")
        if url.scheme == "http" and self._scheme == "https" and self._own_reach() is Reach.PUBLIC:
            raise self._refused(url, "without encryption")
        if url.userinfo:
            raise self._refused(url, "with a name and a password in it")
        if self.is_own(url):
            return
        try:
            found = self._addresses(url.raw_host.decode("ascii").strip("[]"))
        except (OSError, UnicodeError):
            if getproxies():  # the proxy resolves it
                return
            raise self._refused(url, "whose name has no address") from None
        for address in found:
            self._check_reach(url, address)

    def check_reached(self, url: httpx2.URL, address: str) -> None:
        """Check the address of a connection, before anything is sent over it.

        Raises:
            DeniedError: The name has resolved to another address than before.
        """
        if not self.is_own(url) and not getproxies():
            self._check_reach(url, address)

    def _check_reach(self, url: httpx2.URL, address: str) -> None:
        if reach_of(address) > self._own_reach():
            raise self._refused(url, f"which is {address}, not an address that this Hub may redirect to")

    def _own_reach(self) -> Reach:
        if self._own is None:
            try:
                found = [reach_of(address) for address in self._addresses(self._host)]
            except OSError:
                found = []
            # A Hub that is configured on a link-local address is allowed, other link-local addresses are not.
            self._own = min(max(found, default=Reach.PUBLIC), Reach.LOOPBACK)
        return self._own

    def _refused(self, url: httpx2.URL, why: str) -> DeniedError:
        where = f"{url.scheme}://{url.host}" + (f":{url.port}" if url.port else "")
        return DeniedError(
            f"'{self._endpoint}' redirects to {where!r}, {why}; the redirect was not followed.",
            hint=f"Check {setting('HF_ENDPOINT')} and the proxy in between. "
            f"To use a mirror in a private network, set {setting('HF_ENDPOINT')} to it.",
            endpoint=self._endpoint,
            target=where,
        )


def _inner(ip: ipaddress.IPv4Address | ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    """The IPv4 address that an IPv6 address embeds, if any."""
    if isinstance(ip, ipaddress.IPv4Address):
        return None
    if ip in _NAT64 or (int(ip) >> 32 == 0 and int(ip) > 1):  # `::a.b.c.d` too, which is no longer in use
        return ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
    teredo = ip.teredo
    return ip.ipv4_mapped or ip.sixtofour or (teredo[1] if teredo else None)
