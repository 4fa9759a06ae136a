"""Our own server under many clients at once, good and bad: right status codes, no crash, nothing left behind."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import Counter

import psutil
import pytest

from lab import serving

QUESTION = {"messages": [{"role": "user", "content": "What is a yard?"}], "temperature": 0}
SEED = 6
SECONDS = 240
"""Only ends a broken test; nothing here asserts a duration."""


class Client:
    """One request over a connection of its own.

    Args:
        server: The server.
        random_: The generator that decides when a client disconnects.
    """

    def __init__(self, server: serving.Server, random_: random.Random) -> None:
        self.host, port = server.url.split("/")[2].split(":")
        self.port, self.key, self.random = int(port), server.key, random_

    async def ask(self) -> int:
        status, body = await self.whole({**QUESTION, "model": self.random.choice(["tuned", "other", "tiny"])})
        assert json.loads(body)["choices"][0]["message"]["role"] == "assistant"
        return status

    async def stream_read_slowly(self) -> int:
        status, body = await self.whole({**QUESTION, "model": "tuned", "stream": True}, pause=0.05)
        assert body.rstrip().endswith(b"data: [DONE]"), body[-200:]
        return status

    async def disconnect_during_the_response(self) -> int:
        more = {"model": "other", "stream": True, "max_tokens": 400}
        reader, writer = await self.send(json.dumps({**QUESTION, **more}).encode())
        status = int((await reader.readline()).split()[1])
        await reader.read(self.random.choice([1, 100, 600]))
        writer.transport.abort()
        return status

    async def disconnect_during_the_request(self) -> int:
        _, writer = await self.send(b'{"model": "tuned", "messages": [', length=5000)
        await asyncio.sleep(self.random.random())
        writer.transport.abort()
        return 0

    async def break_json(self) -> int:
        return (await self.whole(b'{"model": "tuned", "messages": [{]'))[0]

    async def send_a_megabyte(self) -> int:
        return (await self.whole({"model": "tuned", "messages": [{"role": "user", "content": "yard " * 200_000}]}))[0]

    async def request_an_unknown_model(self) -> int:
        return (await self.whole({**QUESTION, "model": "nobody"}))[0]

    async def send_without_the_key(self) -> int:
        return (await self.whole({**QUESTION, "model": "tuned"}, key=""))[0]

    async def send(
        self, body: bytes, *, length: int | None = None, key: str | None = None
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection(self.host, self.port)
        head = ["POST /v1/chat/completions HTTP/1.1", "Host: test", "Connection: close"]
        head += ["Content-Type: application/json", f"Content-Length: {len(body) if length is None else length}"]
        head += [f"Authorization: Bearer {self.key if key is None else key}"]
        writer.write("\r\n".join([*head, "", ""]).encode() + body)
        await writer.drain()
        return reader, writer

    async def whole(self, body: object, *, pause: float = 0.0, key: str | None = None) -> tuple[int, bytes]:
        if not isinstance(body, bytes):
            body = json.dumps({"max_tokens": 4, **body}).encode()  # pyright: ignore[reportGeneralTypeIssues]
        reader, writer = await self.send(body, key=key)
        status = int((await reader.readline()).split()[1])
        head = await reader.readuntil(b"\r\n\r\n")
        text = b""
        while piece := await reader.read(64 if pause else 65536):
            text += piece
            await asyncio.sleep(pause)
        writer.close()
        return status, _unchunked(text) if b"chunked" in head.lower() else text


def _unchunked(text: bytes) -> bytes:
    whole = b""
    while text:
        size, _, text = text.partition(b"\r\n")
        count = int(size, 16)
        whole, text = whole + text[:count], text[count + 2 :]
    return whole


WANTED = {
    "ask": {200},
    "stream_read_slowly": {200},
    "disconnect_during_the_response": {200},
    "disconnect_during_the_request": {0},
    "break_json": {400},
    "send_a_megabyte": {400, 413},
    "request_an_unknown_model": {404},
    "send_without_the_key": {401},
}


async def clients(server: serving.Server, count: int, seed: int) -> Counter[tuple[str, int]]:
    """Run so many clients at once, and count the statuses that they got."""
    random_ = random.Random(seed)
    kinds = [random_.choice(list(WANTED)) for _ in range(count)]
    requests = [getattr(Client(server, random_), kind)() for kind in kinds]
    statuses = await asyncio.wait_for(asyncio.gather(*requests), SECONDS)
    return Counter(zip(kinds, statuses, strict=True))


def settled(process: psutil.Process, look: str, most: int) -> int:
    """Wait until at most so many are left, and return their number."""
    until = time.monotonic() + 300
    while (count := getattr(process, look)()) > most and time.monotonic() < until:
        time.sleep(0.2)
    return count


@pytest.mark.timeout(900)
@pytest.mark.parametrize("count", [60, pytest.param(1000, marks=pytest.mark.soak)])
def test_many_concurrent_clients_get_the_same_answers_and_leak_nothing(stored_models, tmp_path, count):
    adapters = {"other": serving.OTHER}
    running = serving.start(serving.values(adapters=adapters), stored_models.store, tmp_path)
    try:
        running.ready()
        process = psutil.Process(running.process.pid)
        alone = asyncio.run(Client(running, random.Random(0)).whole({**QUESTION, "model": "tuned"}))
        asyncio.run(clients(running, count, SEED))  # warms up every cache
        before = settled(process, "num_fds", 0 if count < 0 else 64), process.memory_info().rss
        answered = asyncio.run(clients(running, count, SEED + 1))
        assert {kind for kind, _ in answered} == set(WANTED)
        assert {(kind, status) for kind, status in answered if status not in WANTED[kind]} == set()
        assert settled(process, "num_fds", before[0]) <= before[0]
        assert process.memory_info().rss - before[1] < 64 << 20
        after = asyncio.run(Client(running, random.Random(0)).whole({**QUESTION, "model": "tuned"}))
        assert json.loads(after[1])["choices"] == json.loads(alone[1])["choices"]
        assert "Traceback" not in running.log.read_text()
        assert running.stop() == 143
    finally:
        running.process.kill()
        running.process.wait()
