"""vLLM behind our entry point. vLLM is not among the dependencies, so this needs a Python that has it and Tuneyard:

TUNEYARD_TEST_VLLM_PYTHON=/path/to/python pytest -m soak tests/integration/serving/test_vllm_server.py
"""

from __future__ import annotations

import os

import pytest

from lab import serving
from tuneyard.chatting.endpoint import connect

PYTHON = os.environ.get("TUNEYARD_TEST_VLLM_PYTHON", "")
QUESTION = {"messages": [{"role": "user", "content": "What is a yard?"}], "max_tokens": 8, "temperature": 0}
pytestmark = [
    pytest.mark.soak,
    pytest.mark.skipif(not PYTHON, reason="TUNEYARD_TEST_VLLM_PYTHON names no Python that has vLLM"),
]


def content_of(server: serving.Server, model: str) -> str:
    status, answer = server.ask("/v1/chat/completions", {**QUESTION, "model": model})
    assert status == 200, answer
    return answer["choices"][0]["message"]["content"]


@pytest.mark.timeout(900)
def test_vllm_answers_as_our_own_server_and_has_no_open_route(tmp_path):
    serving.put_models(tmp_path / "store", tmp_path / "beside", hidden=256)  # vLLM's CPU kernels want heads of 64
    adapters = {"other": serving.OTHER}
    flags = {"max_model_len": 256, "enforce_eager": True, "dtype": "float32", "max_num_seqs": 4}
    values = serving.values(adapters=adapters, vllm_engine_args=flags)
    room = {"VLLM_CPU_KVCACHE_SPACE": "1"}
    theirs = serving.start(values, tmp_path / "store", tmp_path / "vllm", python=PYTHON, **room)
    ours = serving.start(values, tmp_path / "store", tmp_path / "ours")
    try:
        assert theirs.ready(600)["engine"] == "vllm"
        assert ours.ready()["engine"] == "transformers"
        assert theirs.ready()["models"] == ["tuned", "tiny", "other"]
        assert connect(theirs.url, theirs.key).models == ("tuned", "other", "tiny")
        for model in ("tuned", "other"):
            assert content_of(theirs, model) == content_of(ours, model)
        assert content_of(theirs, "tiny") not in (content_of(theirs, "tuned"), content_of(theirs, "other"))
        for path in ("/health", "/metrics", "/version", "/tokenize", "/invocations", "/v1/models", "/docs", "/nowhere"):
            for method in ("GET", "POST"):
                assert theirs.raw(path, b"{}", method, "")[0] == 401, path
                assert theirs.raw(path, b"{}", method, "wrong")[0] == 401, path
        assert theirs.ask("/v1/chat/completions", {**QUESTION, "model": "nobody"})[0] == 404
        assert theirs.stop() == 143
        assert not theirs.ready_file.exists()
    finally:
        for server in (theirs, ours):
            server.process.terminate()
            server.process.wait(60)
