"""Forward a local port to a Service: `kubectl port-forward`, restarted whenever it exits.

kubectl forwards to a single pod and exits with it; a rolling update must not end a conversation.
"""

from __future__ import annotations

import socket
import subprocess
import threading
import time
from types import TracebackType

from tuneyard.cluster.tools import Tools, error_from
from tuneyard.errors import TuneyardError, UnavailableError

OPEN_TIMEOUT_SECONDS = 30.0
_RESTART_SECONDS = 0.5
_POLL_SECONDS = 0.05


class PortForward:
    """Forwards a free local port to a Service for the duration of the `with` block.

    Args:
        tools: kubectl, for a context and namespace.
        service: The Service's name.
        port: Its port.

    Attributes:
        local_port: The local port; it stays the same across restarts of kubectl.
    """

    def __init__(self, tools: Tools, service: str, port: int) -> None:
        self._tools = tools
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.local_port: int = probe.getsockname()[1]
        args = ["port-forward", "--address", "127.0.0.1", f"service/{service}", f"{self.local_port}:{port}"]
        self._command = tools.kubectl_command(*args)
        self._closed = threading.Event()
        self._process: subprocess.Popen[str] | None = None
        self._opened = threading.Event()
        self._stderr = ""
        self._thread = threading.Thread(target=self._keep_open, daemon=True)

    def __enter__(self) -> PortForward:
        """Start kubectl, and return once the port accepts connections."""
        self._tools.check("kubectl")
        self._thread.start()
        deadline = time.monotonic() + OPEN_TIMEOUT_SECONDS
        while not self._is_open():
            if time.monotonic() >= deadline or not self._thread.is_alive():
                self.close()
                raise self._open_error()
            time.sleep(_POLL_SECONDS)
        self._opened.set()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop kubectl."""
        self.close()

    def close(self) -> None:
        """Stop kubectl. Idempotent."""
        self._closed.set()
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
        self._thread.join()

    def _keep_open(self) -> None:
        while not self._closed.is_set():
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                encoding="utf-8",
                errors="replace",
                start_new_session=True,  # Ctrl-C ends a response, not the connection
            )
            if self._closed.is_set():
                self._process.terminate()
            _, self._stderr = self._process.communicate()
            if not self._opened.is_set():
                return  # a failed first start would only fail again
            self._closed.wait(_RESTART_SECONDS)

    def _open_error(self) -> TuneyardError:
        if self._stderr.strip():
            return error_from("kubectl", self._stderr, self._tools.namespace)
        hint = "Run it by hand: " + " ".join(self._command)
        return UnavailableError(
            f"kubectl port-forward did not open a port within {OPEN_TIMEOUT_SECONDS:g} s.", hint=hint
        )

    def _is_open(self) -> bool:
        with socket.socket() as probe:
            probe.settimeout(1)
            return probe.connect_ex(("127.0.0.1", self.local_port)) == 0
