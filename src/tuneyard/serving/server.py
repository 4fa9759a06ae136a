"""Our own server as a process: bind the port, load the models, listen, and check that every model answers.

It is ready once each model has generated a token for a request over HTTP. SIGTERM stops listening, lets running answers
end, and exits with 143.
"""

from __future__ import annotations

import logging
import socket
import threading
from pathlib import Path
from typing import Protocol

from tuneyard.errors import TuneyardError, UnavailableError
from tuneyard.interpreter import faster_imports
from tuneyard.serving.flags import AppSettings
from tuneyard.serving.placement import Placement
from tuneyard.serving.readiness import local_url, wait_ready, write_ready

logger = logging.getLogger(__name__)

_DRAIN_SECONDS = 5.0
_READY_SECONDS = 600.0


def open_port(host: str, port: int) -> socket.socket:
    """Bind a port without listening yet: connections are refused until the models are loaded.

    Args:
        host: The address.
        port: The port; 0 for any free one.

    Returns:
        The bound socket.

    Raises:
        UnavailableError: The port is in use, or the address is not this machine's.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((host, port))
    except OSError as error:
        bound.close()
        raise UnavailableError(
            f"Port {port} of {host} is not available: {error.strerror or error}.",
            hint="Choose another with --port; 0 takes any free one.",
            host=host,
            port=port,
        ) from error
    return bound


def serve_app(
    placement: Placement,
    settings: AppSettings,
    device: str,
    listener: socket.socket,
    *,
    key: str,
    ready_file: Path | None,
    finish_seconds: int,
) -> None:
    """Load the models and serve them until a signal.

    Args:
        placement: Verified folders and names.
        settings: From the values.
        device: torch's name of the device.
        listener: A bound socket.
        key: What clients have to send; empty for an open server.
        ready_file: Written once the models answer, removed when the server ends.
        finish_seconds: How long running answers may continue after SIGTERM.

    Raises:
        InvalidDataError: A model can't be loaded.
        InvalidValuesError: `max_model_len` exceeds the model's context.
        TuneyardError: A model does not answer its first request.
    """
    if settings.ignored:
        logger.info("Flags without effect where vLLM is not installed: %s.", ", ".join(settings.ignored))
    with faster_imports():
        import uvicorn
        from transformers.utils import logging as transformers_logging

        from tuneyard.serving.app import build_app
        from tuneyard.serving.generation import ModelManager
        from tuneyard.serving.loading import load_models

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    logger.info("Loading %s on %s.", ", ".join(placement.served), device)
    models = ModelManager(load_models(placement, settings, device), seed=settings.seed)
    config = uvicorn.Config(
        build_app(models, key), log_level="warning", access_log=False, timeout_graceful_shutdown=finish_seconds
    )
    server = uvicorn.Server(config)
    host, port = listener.getsockname()[:2]
    check = _SelfCheck(server, local_url(host, port), key, placement.served, ready_file)
    check.start()
    try:
        server.run(sockets=[listener])
    finally:
        if ready_file:
            ready_file.unlink(missing_ok=True)
        models.drain(_DRAIN_SECONDS)
    if check.failure:
        raise check.failure


class Stoppable(Protocol):
    """The part of uvicorn's server that ends it."""

    should_exit: bool


class _SelfCheck(threading.Thread):
    """Sends a request to each model of a server that is starting, and reports it ready once all have answered."""

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
        access = "" if self._key else ", open to anyone who can reach it"
        logger.info("Serving %s at %s%s.", " and ".join(self._models), self._url, access)
