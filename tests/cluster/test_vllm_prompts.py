"""A real vLLM renders the token ids of training, for real models' templates."""

from __future__ import annotations

import copy
import json

import pytest

from lab import serving
from lab.chat_families import CONVERSATIONS, FAMILIES, make_family_model, mixed
from lab.chats import DataConf
from lab.cluster.workspaces import STORE, helm, kubectl, workspace
from tuneyard.data import ChatEncoder, Conversation, Message, load_tokenizer
from tuneyard.errors import InvalidDataError

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

SEED = 20_261_126
COUNT = 200
TOKENIZE = """
import http.client, json, sys
connection = http.client.HTTPConnection("127.0.0.1", 8080, timeout=60)
for line in sys.stdin:
    connection.request("POST", "/tokenize", line.encode(), {"Content-Type": "application/json"})
    answer = connection.getresponse()
    text = answer.read().decode()
    print(json.dumps(json.loads(text)["tokens"] if answer.status == 200 else [answer.status, text]))
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    with workspace("tuneyard-prompts", tmp_path_factory.mktemp("prompts")) as workspace_:
        yield workspace_


def questions(encoder: ChatEncoder, conversations: list[Conversation]) -> list[tuple[dict[str, object], list[int]]]:
    """Return a server's request before each answer, and the token ids that precede the answer in training."""
    requests: list[tuple[dict[str, object], list[int]]] = []
    for conversation in conversations:
        try:
            sequences = encoder.encode(conversation)
        except InvalidDataError:
            continue
        trained = [(sequence.input_ids, start) for sequence in sequences for start, _ in sequence.answers]
        answers = [number for number, message in enumerate(conversation.messages) if message.role == "assistant"]
        for number, (ids, start) in zip(answers, trained, strict=True):
            body: dict[str, object] = {"messages": [_sent(message) for message in conversation.messages[:number]]}
            if conversation.tools is not None:
                body["tools"] = list(conversation.tools)
            requests.append(({"model": "tune", "add_generation_prompt": True, **body}, ids[:start]))
    return requests


def _sent(message: Message) -> dict[str, object]:
    """A message as OpenAI's clients send it: the arguments of calls are text."""
    sent = copy.deepcopy(message.as_dict())
    for one in sent.get("tool_calls", ()):
        if not isinstance(one["function"]["arguments"], str):
            one["function"]["arguments"] = json.dumps(one["function"]["arguments"])
    return sent


@pytest.mark.parametrize(
    "name", [name if name == "qwen-3" else pytest.param(name, marks=pytest.mark.soak) for name in FAMILIES]
)
def test_vllm_renders_the_token_ids_that_were_trained(made, tmp_path, name):
    family = FAMILIES[name]
    folder = make_family_model(tmp_path / "model", family)
    key = f"default-bucket/models/{name}"
    serving.put(tmp_path / "store", key, folder, about={"type": "model", "run": name})
    made.upload(tmp_path / "store")
    values = {
        "model": f"s3://{made.place(key)}",
        "bucket_storage": {"host": STORE},
        "storage": {"quantity": "1Gi"},
        "env_vars": {"VLLM_CPU_OMP_THREADS_BIND": "nobind"},
        "vllm_engine_args": {"served_model_name": "tune", "dtype": "float32", "max_model_len": 4096, "max_num_seqs": 2},
    }
    deployment = f"deployment/llm-inference-vllm-{name.replace('.', '-')}"
    rendered = helm("llm-inference-vllm/helm", name.replace(".", "-"), made.namespace, values)
    kubectl("apply", "-n", made.namespace, "-f", "-", given=rendered)
    try:
        kubectl("rollout", "status", "-n", made.namespace, deployment, "--timeout=600s", timeout_seconds=620)
        encoder = ChatEncoder(load_tokenizer(folder, DataConf()))
        conversations = [*CONVERSATIONS.values(), *mixed(COUNT, refused=family.refused, seed=SEED)]
        requests = questions(encoder, conversations)
        lines = "".join(json.dumps(body) + "\n" for body, _ in requests)
        output = kubectl("exec", "-i", "-n", made.namespace, deployment, "--", "python", "-c", TOKENIZE, given=lines)
        served = [json.loads(line) for line in output.splitlines()]
        assert len(served) == len(requests) >= COUNT
        others = [number for number, got in enumerate(served) if got != requests[number][1]]
        if others:
            body, ids = requests[others[0]]
            actual, wanted = served[others[0]], encoder.tokenizer.decode(ids)
            got = encoder.tokenizer.decode(actual) if isinstance(actual[-1], int) else actual
            pytest.fail(f"{len(others)} of {len(requests)} differ: {body}\n{got!r}\ninstead of\n{wanted!r}")
    finally:
        kubectl("delete", "-n", made.namespace, "-f", "-", "--wait=true", given=rendered)
