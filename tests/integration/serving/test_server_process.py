"""The server as a process: ready only with verified weights, its exit codes, and its end."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import threading
from contextlib import closing
from http.client import HTTPConnection
from pathlib import Path

import pytest

from lab import serving


def ended(server: serving.Server) -> tuple[int, str]:
    """Wait until a server that can't start has ended; return its code and its log."""
    code = server.process.wait(120)
    assert not server.ready_file.exists()
    return code, server.log.read_text()


@pytest.fixture
def copied(stored_models, tmp_path) -> Path:
    return shutil.copytree(stored_models.store, tmp_path / "store")


@pytest.mark.parametrize(
    "name", [f"{serving.BASE}/model.safetensors", f"{serving.TUNED}/adapter_model.safetensors"], ids=["base", "adapter"]
)
def test_tampered_weights_never_become_ready(copied, tmp_path, name):
    path = copied / name
    body = bytearray(path.read_bytes())
    body[len(body) // 2] ^= 1
    path.write_bytes(body)
    code, log = ended(serving.start(serving.values(), copied, tmp_path / "w"))
    assert code == 7
    assert f"error: '{name}' has the SHA-256" in log
    assert "hint:" in log
    assert "Traceback" not in log


def test_missing_model_is_exit_4(copied, tmp_path):
    code, log = ended(serving.start(serving.values("s3://default-bucket/models/none"), copied, tmp_path / "w"))
    assert code == 4
    assert "error: There is no model at 'default-bucket/models/none'" in log


def test_flags_that_need_vllm_are_exit_3_by_name(copied, tmp_path):
    values = serving.values(vllm_engine_args={"tensor_parallel_size": 2, "quantization": "fp8"})
    code, log = ended(serving.start(values, copied, tmp_path / "w"))
    assert code == 3
    assert "vllm_engine_args.tensor_parallel_size, vllm_engine_args.quantization" in log.replace(
        "vllm_engine_args.quantization, vllm_engine_args.tensor_parallel_size",
        "vllm_engine_args.tensor_parallel_size, vllm_engine_args.quantization",
    )


def test_missing_accelerator_is_exit_8(copied, tmp_path):
    import torch

    if torch.cuda.is_available() or torch.backends.mps.is_available():
        pytest.skip("this machine has an accelerator")
    code, log = ended(serving.start(serving.values(gpuResource="nvidia.com/gpu"), copied, tmp_path / "w"))
    assert code == 8
    assert "TUNEYARD_DEVICE=cpu" in log


def test_port_in_use_is_exit_8_before_anything_is_loaded(copied, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        server = serving.start(serving.values(), copied, tmp_path / "w", port=port)
        code, log = ended(server)
    assert code == 8
    assert f"Port {port} of 127.0.0.1" in log
    assert "Verifying" not in log


def test_missing_secret_is_exit_3_and_names_the_variable(copied, tmp_path):
    values = serving.values(env_vars={"HF_TOKEN": {"name": "hub", "key": "token"}})
    code, log = ended(serving.start(values, copied, tmp_path / "w"))
    assert code == 3
    assert "HF_TOKEN" in log


@pytest.mark.parametrize("more", [{}, {"httpRoute": {"enabled": True, "parentRefs": [{"name": "gate"}]}}])
@pytest.mark.parametrize("key", ["", "\n"], ids=["empty", "white"])
def test_empty_key_where_the_values_name_one_is_exit_3(copied, tmp_path, key, more):
    values = serving.values(apiKeySecret={"name": "server", "key": "api-key"}, **more)
    code, log = ended(serving.start(values, copied, tmp_path / "w", key=key))
    assert code == 3
    assert "The server's key is empty, but apiKeySecret names one (Secret 'server', key 'api-key')" in log
    assert "export TUNEYARD_API_KEY=" in log
    assert "Verifying" not in log


def test_open_server_is_logged_as_open_and_finishes_answers_at_sigterm(stored_models, tmp_path):
    server = serving.start(serving.values(f"s3://{serving.FULL}"), stored_models.store, tmp_path / "w", key="")
    try:
        assert server.ready()["models"] == ["full"]
        assert server.ask("/v1/models")[0] == 200
        assert "open to anyone who can reach it" in server.log.read_text()
        body = {"model": "full", "prompt": "A yard", "max_tokens": 600, "temperature": 0, "stream": True}
        body["stream_options"] = {"include_usage": True}
        answers: list[str] = []
        began = threading.Event()

        def ask() -> None:
            host, port = server.url.split("/")[2].split(":")
            with closing(HTTPConnection(host, int(port), timeout=300)) as connection:
                connection.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})
                with closing(connection.getresponse()) as response:
                    answers.append(response.readline().decode())
                    began.set()
                    answers.append(response.read().decode())

        asking = threading.Thread(target=ask)
        asking.start()
        assert began.wait(300)
        server.process.send_signal(signal.SIGTERM)
        asking.join(300)
        assert answers[-1].endswith("data: [DONE]\n\n")
        assert '"completion_tokens":600' in answers[-1]
        assert server.process.wait(300) == 143
        assert not server.ready_file.exists()
    finally:
        server.process.kill()
        server.process.wait()
