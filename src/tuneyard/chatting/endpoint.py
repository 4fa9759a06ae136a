"""Where served models answer: the URL, the key and the names. Knows how to ask a server what it serves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import urlsplit

from tuneyard.chatting.refusals import refusals
from tuneyard.errors import NotFoundError, UsageError

if TYPE_CHECKING:
    from openai import OpenAI

LOOPBACK = ("127.0.0.1", "localhost", "::1")
CONNECT_SECONDS = 5.0
ANSWER_SECONDS = 600.0
"""How long the next piece of an answer may take: a CPU reads a long conversation for minutes before its first word."""


class Served(Protocol):
    """What is known of a server that was launched: `runs.RunInfo` is one."""

    @property
    def url(self) -> str | None:
        """Its endpoint."""
        ...

    @property
    def api_key_file(self) -> str | None:
        """The file its key lies in; None where it has none."""
        ...


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A server of models.

    Attributes:
        url: With or without `/v1` at its end.
        key: What it is asked with; empty where it wants none.
        models: The names that answer, finetuned ones first.
        bases: For each finetuned adapter among them, the name of the model it stands on.
        target: What a command adds to reach the server's target (` --on kubernetes`), for hints; empty here.
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
            server: What is known of it, for example `tuneyard.find(NAME).info()`.

        Returns:
            The endpoint with the names that answer there.

        Raises:
            UsageError: It is no server.
            UnavailableError: It does not answer.
            DeniedError: It refuses the key.
        """
        if not server.url:
            raise UsageError("This run is no server, so it can't be talked with.", hint="See them: tuneyard runs")
        path = server.api_key_file
        return connect(server.url, Path(path).read_text(encoding="utf-8").strip() if path else "")

    def chosen(self, models: Sequence[str] | None, *, compare: bool) -> tuple[str, ...]:
        """Say which models are meant: those named, the first, or base and tuned to compare.

        Args:
            models: Names; None or empty where none were named.
            compare: Whether two are to be compared.

        Returns:
            One name, or two where models are compared: the base first.

        Raises:
            NotFoundError: A name is not served here, or there are no two to compare.
        """
        names = tuple(models or ())
        for name in names:
            if self.models and name not in self.models:
                raise unknown_model(self, name)
        if not compare:
            if names or self.models:
                return (names or self.models)[:1]
            hint = f"See its log: tuneyard logs NAME{self.target}"
            raise NotFoundError(f"The server at {self.url} serves no model.", hint=hint)
        if len(names) >= 2:
            return names[:2]
        tuned = names[0] if names else next((name for name in self.models if name in self.bases), None)
        if tuned is not None and tuned in self.bases:
            return self.bases[tuned], tuned
        raise NotFoundError(
            f"The server at {self.url} has no base and tuned model to compare; it serves {', '.join(self.models)}.",
            hint="Serve a run's adapter (its checkpoint-final of a LoRA finetuning): its base is served beside it.",
            models=list(self.models),
        )


def connect(url: str, key: str = "", *, target: str = "") -> Endpoint:
    """Ask a server which models it serves.

    Args:
        url: With or without `/v1` at its end.
        key: What it is asked with; empty where it wants none.
        target: As for `Endpoint`.

    Returns:
        The endpoint, finetuned models first.

    Raises:
        UnavailableError: It does not answer.
        DeniedError: It refuses the key.
    """
    endpoint = Endpoint(url, key)
    with open_client(endpoint) as client, refusals(url, target=target):
        cards = [card.model_dump() for card in client.models.list().data]
    bases = {str(card["id"]): str(card["parent"]) for card in cards if card.get("parent")}
    names = [str(card["id"]) for card in cards]
    return Endpoint(url, key, tuple(sorted(names, key=lambda name: name not in bases)), bases, target)


def open_client(endpoint: Endpoint) -> OpenAI:
    """Open a client of the endpoint; close it, or use it in a `with`.

    Args:
        endpoint: Where to.
    """
    import openai

    url = endpoint.url.rstrip("/")
    timeout: Any = openai.Timeout(ANSWER_SECONDS, connect=CONNECT_SECONDS)
    # A proxy of the environment is for other machines: it could not reach this one's loopback address.
    direct = (urlsplit(url).hostname or "") in LOOPBACK
    return openai.OpenAI(
        base_url=url if url.endswith("/v1") else f"{url}/v1",
        api_key=endpoint.key or "none",
        timeout=timeout,
        max_retries=1,
        http_client=openai.DefaultHttpxClient(trust_env=not direct, timeout=timeout),
    )


def unknown_model(endpoint: Endpoint, name: str) -> NotFoundError:
    """Build the error for a name that is not served."""
    return NotFoundError(
        f"The server at {endpoint.url} serves no model {name!r}; it serves {', '.join(endpoint.models)}.",
        hint=f"Ask for {endpoint.models[0]}." if endpoint.models else "",
        model=name,
        models=list(endpoint.models),
    )
