"""A port of this machine that leads to a Service: `kubectl port-forward`, started anew whenever it breaks off.

kubectl leads to one pod and ends with it; a rolling update must not end a conversation.
"""

from __future__ import annotations

import socket
import subprocess
import threading
import time
from types import TracebackType

from tuneyard.cluster.tools import Tools, explained
from tuneyard.errors import TuneyardError, UnavailableError

OPEN_SECONDS = 30.0
_AGAIN_SECONDS = 0.5
_LOOK_SECONDS = 0.05


class PortForward:
    """Leads a free port of this machine to a Service, as long as the `with` block runs.

    Args:
        tools: kubectl, for a context and namespace.
        service: The Service's name.
        port: Its port.

    Attributes:
        local_port: The port of this machine; it stays the same when the connection is made anew.
    """

    def __init__(self, tools: Tools, service: str, port: int) -> None:
        self._tools = tools
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.local_port: int = free.getsockname()[1]
        words = ["port-forward", "--address", "127.0.0.1", f"service/{service}", f"{self.local_port}:{port}"]
        self._command = tools.kubectl_command(*words)
        self._closed = threading.Event()
        self._process: subprocess.Popen[str] | None = None
        self._opened = threading.Event()
        self._said = ""
        self._thread = threading.Thread(target=self._keep, daemon=True)

    def __enter__(self) -> PortForward:
        """Open it, and return when the port answers."""
        self._tools.check("kubectl")
        self._thread.start()
        until = time.monotonic() + OPEN_SECONDS
        while not self._answers():
            if time.monotonic() >= until or not self._thread.is_alive():
                self.close()
                raise self._not_opened()
            time.sleep(_LOOK_SECONDS)
        self._opened.set()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close it."""
        self.close()

    def close(self) -> None:
        """End kubectl; twice is fine."""
        self._closed.set()
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
        self._thread.join()

    def _keep(self) -> None:
        while not self._closed.is_set():
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                encoding="utf-8",
                errors="replace",
                start_new_session=True,  # Ctrl-C ends an answer, not the way to it
            )
            if self._closed.is_set():
                self._process.terminate()
            _, self._said = self._process.communicate()
            if not self._opened.is_set():
                return  # what it can't do the first time it won't do the second
            self._closed.wait(_AGAIN_SECONDS)

    def _not_opened(self) -> TuneyardError:
        if self._said.strip():
            return explained("kubectl", self._said, self._tools.namespace)
        hint = "Try it by hand: " + " ".join(self._command)
        return UnavailableError(f"kubectl port-forward has not opened a port within {OPEN_SECONDS:g} s.", hint=hint)

    def _answers(self) -> bool:
        with socket.socket() as probe:
            probe.settimeout(1)
            return probe.connect_ex(("127.0.0.1", self.local_port)) == 0
