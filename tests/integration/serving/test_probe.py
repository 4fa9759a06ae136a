"""The probe asks the server for a real token, with the key of its environment."""

from __future__ import annotations

import subprocess
import sys
from urllib.parse import urlsplit

from lab.serving import environment


def _probe(server, **env: str) -> subprocess.CompletedProcess[str]:
    port = str(urlsplit(server.url).port)
    command = [sys.executable, "-m", "tuneyard.serving.probe", "--port", port]
    store = server.ready_file.parent
    return subprocess.run(
        command, env={**environment(store, key=""), **env}, capture_output=True, text=True, timeout=300
    )


def test_answering_server_is_ready(server):
    done = _probe(server, TUNEYARD_API_KEY=server.key)
    assert (done.returncode, done.stderr) == (0, "")


def test_probe_without_the_key_is_not_ready(server):
    done = _probe(server)
    assert done.returncode == 1
    assert done.stderr.startswith("not ready: ")


def test_probe_of_a_closed_port_is_not_ready(server):
    command = [sys.executable, "-m", "tuneyard.serving.probe", "--port", "9"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr


def test_probe_imports_no_library():
    heavy = ("torch", "transformers", "httpx2", "pydantic", "obstore", "tuneyard.values", "tuneyard.store")
    script = f"import sys, tuneyard.serving.probe; print(*set({heavy!r}) & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True).stdout.strip() == ""
