"""An endpoint of served models: its URL, its key and the models' names, listed from the server."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import urlsplit

from tuneyard.chatting.errors import translate_errors
from tuneyard.errors import NotFoundError, UsageError

if TYPE_CHECKING:
    from openai import OpenAI

LOOPBACK = ("127.0.0.1", "localhost", "::1")
_CONNECT_SECONDS = 5.0
_READ_SECONDS = 600.0
"""The timeout of the next piece of an answer: a CPU processes a long conversation for minutes before the first."""


class Served(Protocol):
    """The state of a launched server: `runners.RunInfo` is one."""

    @property
    def url(self) -> str | None:
        """Its endpoint."""
        ...

    @property
    def api_key_file(self) -> str | None:
        """The file that holds its key; None where it has none."""
        ...


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A server of models.

    Attributes:
        url: The URL, with or without `/v1` at its end.
        key: The API key; empty for an open server.
        models: The models' names, finetuned ones first.
        bases: The name of the base model of each finetuned adapter among them.
        target: The options that select the server's target in hints (` --on kubernetes`); empty for this machine.
    """

    url: str
    key: str = field(default="", repr=False)
    models: tuple[str, ...] = ()
    bases: Mapping[str, str] = field(default_factory=dict[str, str])
    target: str = ""

    @classmethod
    def of(cls, server: Served) -> Endpoint:
        """Connect to a server that was launched on this machine.

        Args:
            server: Its state, such as `tuneyard.find(NAME).info()`.

        Returns:
            The endpoint with the names of its models.

        Raises:
            UsageError: The run is not a server.
            UnavailableError: The server does not answer.
            DeniedError: The server refuses the key.
        """
        if not server.url:
            raise UsageError("This run is not a server.", hint="List the servers: tuneyard runs")
        path = server.api_key_file
        return connect(server.url, Path(path).read_text(encoding="utf-8").strip() if path else "")

    def chosen(self, models: Sequence[str] | None, *, compare: bool) -> tuple[str, ...]:
        """Select the models: the given ones, the first, or base and tuned model to compare.

        Args:
            models: Names; None or empty for the default.
            compare: Whether to compare two models.

        Returns:
            One name, or two to compare: the base model first.

        Raises:
            NotFoundError: The server has no model of a name, or no two to compare.
        """
        names = tuple(models or ())
        for name in names:
            if self.models and name not in self.models:
                raise unknown_model(self, name)
        if not compare:
            if names or self.models:
                return (names or self.models)[:1]
            hint = f"See its log: tuneyard logs NAME{self.target}"
            raise NotFoundError(f"The server at '{self.url}' serves no model.", hint=hint)
        if len(names) >= 2:
            return names[:2]
        tuned = names[0] if names else next((name for name in self.models if name in self.bases), None)
        if tuned is not None and tuned in self.bases:
            return self.bases[tuned], tuned
        raise NotFoundError(
            f"The server at '{self.url}' has no base and tuned model to compare; it serves {', '.join(self.models)}.",
            hint="Serve the checkpoint-final of a LoRA finetuning: the base model is served beside the adapter.",
            models=list(self.models),
        )


def connect(url: str, key: str = "", *, target: str = "") -> Endpoint:
    """Connect to a server and list its models.

    Args:
        url: The URL, with or without `/v1` at its end.
        key: The API key; empty for an open server.
        target: As for `Endpoint`.

    Returns:
        The endpoint, finetuned models first.

    Raises:
        UnavailableError: The server does not answer.
        DeniedError: The server refuses the key.
    """
    endpoint = Endpoint(url, key)
    with open_client(endpoint) as client, translate_errors(url, target=target):
        cards = [card.model_dump() for card in client.models.list().data]
    bases = {str(card["id"]): str(card["parent"]) for card in cards if card.get("parent")}
    names = [str(card["id"]) for card in cards]
    return Endpoint(url, key, tuple(sorted(names, key=lambda name: name not in bases)), bases, target)


def open_client(endpoint: Endpoint) -> OpenAI:
    """Open a client of an endpoint; close it, or use it in a `with` block.

    Args:
        endpoint: The server.
    """
    import openai

    url = endpoint.url.rstrip("/")
    timeout: Any = openai.Timeout(_READ_SECONDS, connect=_CONNECT_SECONDS)
    # A proxy of the environment can't reach this machine's loopback address.
    direct = (urlsplit(url).hostname or "") in LOOPBACK
    return openai.OpenAI(
        base_url=url if url.endswith("/v1") else f"{url}/v1",
        api_key=endpoint.key or "none",
        timeout=timeout,
        max_retries=1,
        http_client=openai.DefaultHttpxClient(trust_env=not direct, timeout=timeout),
    )


def unknown_model(endpoint: Endpoint, name: str) -> NotFoundError:
    """Build the error for a name that the server does not have."""
    return NotFoundError(
        f"The server at '{endpoint.url}' serves no model {name!r}; it serves {', '.join(endpoint.models)}.",
        hint=f"List the servers: tuneyard runs{endpoint.target}",
        model=name,
        models=list(endpoint.models),
    )
