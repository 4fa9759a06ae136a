"""Our own server as a process: the port first, then the models, then the door, then the proof that it answers.

It is ready when each of its models has made a token for a request through its own door. SIGTERM closes the door, lets
answers under way end, and ends the process with 143.
"""

from __future__ import annotations

import socket
import sys
import threading
from pathlib import Path
from typing import Protocol

from tuneyard.errors import TuneyardError, UnavailableError
from tuneyard.serving.flags import AppSettings
from tuneyard.serving.placement import Placement
from tuneyard.serving.readiness import local_url, wait_ready, write_ready

_DRAIN_SECONDS = 5.0
_READY_SECONDS = 600.0


def open_port(host: str, port: int) -> socket.socket:
    """Take a port, without listening yet: clients are refused until there is something to answer with.

    Args:
        host: The address.
        port: The port; 0 for any that is free.

    Returns:
        The bound socket.

    Raises:
        UnavailableError: The port is taken, or the address is not this machine's.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((host, port))
    except OSError as error:
        bound.close()
        raise UnavailableError(
            f"Port {port} of {host} can't be had: {error.strerror or error}.",
            hint="Name another with --port; 0 takes any that is free.",
            host=host,
            port=port,
        ) from error
    return bound


def serve_app(
    placement: Placement,
    settings: AppSettings,
    device: str,
    door: socket.socket,
    *,
    key: str,
    ready_file: Path | None,
    finish_seconds: int,
) -> None:
    """Load the models and serve them until a signal comes.

    Args:
        placement: Verified folders and names.
        settings: From the values.
        device: torch's name of the device.
        door: A bound socket.
        key: What clients have to send; empty where anyone may ask.
        ready_file: Written when the models answer, removed when they don't any more.
        finish_seconds: How long answers under way may go on after SIGTERM.

    Raises:
        InvalidDataError: A model can't be loaded.
        InvalidValuesError: The context asked for is more than the model can.
        TuneyardError: The server does not answer itself.
    """
    if settings.passed_over:
        _tell(f"without vLLM these flags mean nothing: {', '.join(settings.passed_over)}")
    import uvicorn
    from transformers.utils import logging

    from tuneyard.serving.app import build_app
    from tuneyard.serving.generation import ModelManager
    from tuneyard.serving.loading import load_models

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    _tell(f"loading {', '.join(placement.served)} on {device}")
    models = ModelManager(load_models(placement, settings, device), seed=settings.seed)
    config = uvicorn.Config(
        build_app(models, key), log_level="warning", access_log=False, timeout_graceful_shutdown=finish_seconds
    )
    server = uvicorn.Server(config)
    host, port = door.getsockname()[:2]
    check = _SelfCheck(server, local_url(host, port), key, placement.served, ready_file)
    check.start()
    try:
        server.run(sockets=[door])
    finally:
        if ready_file:
            ready_file.unlink(missing_ok=True)
        models.drain(_DRAIN_SECONDS)
    if check.failure:
        raise check.failure


class Stoppable(Protocol):
    """What is needed of uvicorn's server to end it."""

    should_exit: bool


class _SelfCheck(threading.Thread):
    """Asks each model of a server that has just started, and says when all have answered."""

    def __init__(self, server: Stoppable, url: str, key: str, models: tuple[str, ...], ready_file: Path | None) -> None:
        super().__init__(name="self-check", daemon=True)
        self.failure: TuneyardError | None = None
        self._server, self._url, self._key = server, url, key
        self._models, self._ready_file = models, ready_file

    def run(self) -> None:
        try:
            for model in self._models:
                wait_ready(self._url, self._key, model, _READY_SECONDS)
        except TuneyardError as error:
            self.failure = error
            self._server.should_exit = True
            return
        if self._ready_file:
            write_ready(self._ready_file, self._url, self._models, "transformers")
            if self._server.should_exit:
                self._ready_file.unlink(missing_ok=True)
        _tell(f"{' and '.join(self._models)} at {self._url}{'' if self._key else ', open to anyone who can reach it'}")


def _tell(sentence: str) -> None:
    print(sentence, file=sys.stderr, flush=True)
