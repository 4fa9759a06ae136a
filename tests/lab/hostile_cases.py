"""The false responses of `hostile_hub`: generated from one seed, each with a name, grouped by what is false."""

from __future__ import annotations

import gzip
import itertools
import json
import random
import zlib
from collections.abc import Callable, Iterator
from typing import Any

from lab.hostile_hub import (
    COMMIT,
    FILES,
    LFS,
    OTHER_COMMIT,
    WEIGHTS,
    Answers,
    Case,
    Pieces,
    Request,
    facts,
    file_reply,
    json_reply,
    reply,
    rows,
)

SEED = 20_261_126
BLANKS = b"8000\r\n" + b" " * 32_768 + b"\r\n"
PLACES = {path: "storage" if path in LFS else "file" for path in FILES}
"""Where each file's bytes come from."""


def all_cases(seed: int = SEED) -> tuple[Case, ...]:
    """Generate every case, the same for a seed."""
    groups = (
        _bit_flips, _other_bytes, _truncations, _too_long, _etags, _revisions, _ranges, _redirects, _names, _listings,
        _endless, _heads, _refusals, _encodings, _protocol,
    )  # fmt: skip
    cases = tuple(case for group in groups for case in group(random.Random(f"{seed} {group.__name__}")))
    names = [case.name for case in cases]
    assert len(set(names)) == len(names), sorted(name for name in names if names.count(name) > 1)
    return cases


def _bytes_of(path: str, make: Callable[[Request], Pieces]) -> Answers:
    """Send false bytes for one file."""
    return lambda request: make(request) if (request.stage, request.path) == (PLACES[path], path) else None


def _body(path: str, body: bytes) -> Answers:
    return _bytes_of(path, lambda request: [file_reply(request, body)])


def _at(stage: str, make: Callable[[Request], Pieces]) -> Answers:
    return lambda request: make(request) if request.stage == stage else None


def _bit_flips(rng: random.Random) -> Iterator[Case]:
    for number in range(40):
        path = rng.choice(list(FILES))
        body = FILES[path]
        at, bit = rng.randrange(len(body)), 1 << rng.randrange(8)
        flipped = body[:at] + bytes([body[at] ^ bit]) + body[at + 1 :]
        yield Case(f"flip {number}: bit {bit:#x} of byte {at} of {path}", _body(path, flipped), codes=(7,))


def _other_bytes(rng: random.Random) -> Iterator[Case]:
    for path, body in FILES.items():
        middle = len(body) // 2
        others = {
            "zeros": bytes(len(body)),
            "another order": body[middle:] + body[:middle],
            "noise": rng.randbytes(len(body)),
            "a text of the same size": (b"<!doctype html>" * (len(body) // 15 + 1))[: len(body)],
        }
        for what, other in others.items():
            yield Case(f"{what} for {path}", _body(path, other), codes=(7,), sentence="was not delivered")


def _truncations(rng: random.Random) -> Iterator[Case]:
    for path, body in FILES.items():
        for cut in (0, 1, len(body) // 2, len(body) - 1, rng.randrange(1, len(body))):
            short = body[:cut]

            def closed_early(request: Request, short: bytes = short) -> Pieces:
                rest = short[request.start :]
                size = len(request.body)
                ranged = {"Content-Range": f"bytes {request.start}-{size - 1}/{size}"} if request.start else {}
                status = "206 Partial Content" if request.start else "200 OK"
                return [reply(status, {**ranged, "Content-Length": str(size - request.start)}, rest)]

            def chunked(request: Request, short: bytes = short) -> Pieces:
                head = reply("200 OK", {"Transfer-Encoding": "chunked"})
                return [head, b"%x\r\n%s\r\n0\r\n\r\n" % (len(short), short) if short else b"0\r\n\r\n"]

            yield Case(f"{path} ends after {cut}, as announced", _body(path, short), codes=(7, 8))
            yield Case(f"{path} breaks off after {cut}, always", _bytes_of(path, closed_early), codes=(7, 8))
            yield Case(f"{path} ends after {cut}, in chunks", _bytes_of(path, chunked), codes=(7, 8))


def _too_long(rng: random.Random) -> Iterator[Case]:
    for path, body in FILES.items():
        for more in (b"\0", rng.randbytes(5000)):

            def chunked(request: Request, body: bytes = body + more) -> Pieces:
                return [reply("200 OK", {"Transfer-Encoding": "chunked"}), b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)]

            yield Case(f"{path} with {len(more)} bytes more, as announced", _body(path, body + more), codes=(7,))
            yield Case(f"{path} with {len(more)} bytes more, in chunks", _bytes_of(path, chunked), codes=(7,))


def _etags(rng: random.Random) -> Iterator[Case]:
    wrong = {
        "another hash": rng.randbytes(32).hex(),
        "a short hash": rng.randbytes(20).hex(),
        "a weak tag": "W/not-a-hash",
        "an upper-case hash": rng.randbytes(32).hex().upper(),
        "a text": "latest",
        "control characters": "\x07\x1b[2J",
    }
    for what, etag in wrong.items():

        def linked(request: Request, etag: str = etag) -> Pieces:
            headers = {"Location": f"{request.storage}/storage/{request.path}", "X-Linked-Etag": f'"{etag}"'}
            return [reply("302 Found", headers)]

        def other_bytes(request: Request, etag: str = etag) -> Pieces:
            return [file_reply(request, bytes(reversed(request.body)), ETag=f'"{etag}"')]

        only_weights = _only("file", "model.safetensors", linked)
        yield Case(f"X-Linked-Etag is {what}", only_weights, codes=(7, 8))
        yield Case(f"ETag of other bytes is {what}", _bytes_of("config.json", other_bytes), codes=(7, 8))


def _only(stage: str, path: str, make: Callable[[Request], Pieces]) -> Answers:
    return lambda request: make(request) if (request.stage, request.path) == (stage, path) else None


def _revisions(rng: random.Random) -> Iterator[Case]:
    pinned = {"another commit": OTHER_COMMIT, "a commit of one digit more": COMMIT[:-1] + "8"}
    for what, sha in pinned.items():
        yield Case(
            f"requested a commit, the Hub returns {what}",
            _at("facts", lambda request, sha=sha: [json_reply({**facts(), "sha": sha})]),
            revision=COMMIT, codes=(7,), sentence="returned the commit",
        )  # fmt: skip
    shas: list[Any] = [
        None, 7, True, [], {}, "", "main", COMMIT[:-1], COMMIT + "0", COMMIT.upper(), "../../../etc/passwd",
        "0" * 39 + "/", "0123456789abcdef0123456789abcdef0123456\n", "%2e%2e%2f" * 5, "٠" * 40,
    ]  # fmt: skip
    for sha in shas:
        yield Case(
            f"the commit is {sha!r}",
            _at("facts", lambda request, sha=sha: [json_reply({**facts(), "sha": sha})]),
            codes=(8,), sentence="is not a Hub",
        )  # fmt: skip
    for path in FILES:

        def moved(request: Request) -> Pieces:
            if request.path in LFS:
                headers = {"Location": f"{request.storage}/storage/{request.path}", "X-Repo-Commit": OTHER_COMMIT}
                return [reply("302 Found", headers)]
            return [file_reply(request, **{"X-Repo-Commit": OTHER_COMMIT})]

        yield Case(f"{path} comes from a commit that came later", _only("file", path, moved), codes=(7,))
    later = [{**row, "oid": rng.randbytes(20).hex(), **({"lfs": None} if "lfs" in row else {})} for row in rows()]
    yield Case("the list is of another commit", _at("tree", lambda request: [json_reply(later)]), codes=(7,))
    gone = [{**row, "path": f"{row['path']}.old"} for row in rows()]
    yield Case("the list names files that are gone", _at("tree", lambda request: [json_reply(gone)]), codes=(3, 4))


def _ranges(rng: random.Random) -> Iterator[Case]:
    """Interrupt the first response halfway, then send a false rest."""
    half = len(WEIGHTS) // 2
    total = len(WEIGHTS)
    flipped = WEIGHTS[:half] + bytes([WEIGHTS[half] ^ 1]) + WEIGHTS[half + 1 :]

    def part(first: int, size: int | str, body: bytes, last: int | None = None) -> bytes:
        end = first + len(body) - 1 if last is None else last
        return reply("206 Partial Content", {"Content-Range": f"bytes {first}-{end}/{size}"}, body)

    rest = WEIGHTS[half:]
    lies: dict[str, Callable[[Request], bytes]] = {
        "the whole file of another version": lambda request: reply("200 OK", {}, flipped),
        "the whole file of another size": lambda request: reply("200 OK", {}, WEIGHTS + b"x"),
        "the first half again, called the second": lambda request: part(half, total, WEIGHTS[:half]),
        "a part from the start": lambda request: part(0, total, WEIGHTS[:half]),
        "a part one byte early": lambda request: part(half - 1, total, WEIGHTS[half - 1 :]),
        "a part one byte late": lambda request: part(half + 1, total, WEIGHTS[half + 1 :]),
        "a part of a larger file": lambda request: part(half, total * 2, rest),
        "a part of an unknown size, flipped": lambda request: part(half, "*", flipped[half:]),
        "a part longer than is left": lambda request: part(half, total, rest + b"more", total - 1),
        "a part that is no part": lambda request: reply("206 Partial Content", {}, rest),
        "several parts": lambda request: reply(
            "206 Partial Content", {"Content-Type": "multipart/byteranges; boundary=x"}, b"--x\r\n\r\n" + rest
        ),
        "that there is no such range": lambda request: reply(
            "416 Range Not Satisfiable", {"Content-Range": "bytes */9"}
        ),
        "a range in odd digits": lambda request: reply("206 Partial Content", {"Content-Range": "bytes ²-³/¹"}, rest),
        "a range of 9999 digits": lambda request: reply(
            "206 Partial Content", {"Content-Range": f"bytes {half}-9/{'9' * 9999}"}, bytes(len(rest))
        ),
        "nothing at all": lambda request: b"",
        "zeros": lambda request: part(half, total, bytes(len(rest))),
    }
    for what, lie in lies.items():

        def answer(request: Request, lie: Callable[[Request], bytes] = lie) -> Pieces:
            if request.number == 0:
                return [reply("200 OK", {"Content-Length": str(total)}, WEIGHTS[:half])]
            return [lie(request)]

        yield Case(
            f"requested the second half, the Hub sends {what}", _bytes_of("model.safetensors", answer), codes=(7, 8)
        )


INWARD = (
    "http://127.0.0.1", "http://127.0.0.1:6443", "http://127.1", "http://127.255.255.254", "http://2130706433",
    "http://0x7f000001", "http://0x7f.0x0.0x0.0x1", "http://0177.0.0.1", "http://017700000001", "http://0.0.0.0",
    "http://0", "http://[::1]", "http://[::]", "http://[::ffff:127.0.0.1]", "http://[::ffff:7f00:1]",
    "http://[0:0:0:0:0:ffff:169.254.169.254]", "http://[::7f00:1]", "http://[64:ff9b::7f00:1]",
    "http://[64:ff9b::a9fe:a9fe]", "http://[2002:7f00:1::]", "http://[2002:a9fe:a9fe::1]", "http://[fe80::1]",
    "http://[fd00:ec2::254]", "http://[fc00::1]", "http://[ff02::1]", "http://169.254.169.254",
    "http://169.254.169.254:80", "http://2852039166", "http://0xa9fea9fe", "http://169.254.43518",
    "http://0251.0376.0251.0376", "http://169.254.170.2", "http://100.100.100.200", "http://168.63.129.16",
    "http://192.0.0.192", "http://10.0.0.1", "http://10.96.0.1:443", "http://172.16.0.1", "http://172.31.255.255",
    "http://192.168.1.1", "http://100.64.0.1", "http://198.18.0.1", "http://224.0.0.1", "http://255.255.255.255",
    "http://metadata.google.internal", "http://metadata.google.internal.", "http://kubernetes.default.svc",
    "http://intranet.example", "http://both.example", "http://LOOP.example", "http://127。0。0。1",
    "http://①②⑦.⓪.⓪.①", "http://localhost.", "http://user:secret@127.0.0.1", "http://hub.example@169.254.169.254",
)  # fmt: skip
"""Spellings of internal addresses: loopback, private, link-local and metadata addresses, and names that lead there."""

_NO_ADDRESS = {"http://0177.0.0.1", "http://0251.0376.0251.0376", "http://①②⑦.⓪.⓪.①"}
"""Spellings that httpx does not parse as an address, so that nothing is requested."""

NAMES = {
    "metadata.google.internal": ("169.254.169.254",),
    "metadata.google.internal.": ("169.254.169.254",),
    "kubernetes.default.svc": ("10.96.0.1",),
    "intranet.example": ("192.168.7.7",),
    "both.example": ("93.184.216.34", "127.0.0.1"),
    "loop.example": ("127.0.0.1",),
    "localhost.": ("127.0.0.1",),
    "localhost": ("93.184.216.34",),  # the Hub itself, which a case may call public
}


def _redirects(rng: random.Random) -> Iterator[Case]:
    stages = itertools.cycle(("file", "facts", "tree"))
    for where, stage in zip(INWARD, stages, strict=False):

        def answer(request: Request, where: str = where) -> Pieces:
            location = f"{where}/latest/meta-data/iam".encode().decode("latin-1")
            return [reply("307 Temporary Redirect", {"Location": location})]

        known = {} if where in _NO_ADDRESS else {"codes": (5,), "sentence": "was not followed"}
        yield Case(f"the {stage} is redirected to {where}", _at(stage, answer), public=True, **{"codes": (8,), **known})
    for where, code in (
        ("file:///etc/passwd", 5),
        ("ftp://127.0.0.1/x", 5),
        ("gopher://x/", 5),
        ("data:,x", 8),
        ("javascript:1", 8),
        ("http://", 8),
        ("//", 8),
        ("", 8),
    ):

        def odd(request: Request, where: str = where) -> Pieces:
            return [reply("302 Found", {"Location": where})]

        yield Case(f"a file is redirected to {where!r}", _at("file", odd), codes=(code,))

    def around(request: Request) -> Pieces:
        return [
            reply("302 Found", {"Location": f"{request.url}/org/tiny/resolve/{COMMIT}/{request.path}?{request.number}"})
        ]

    yield Case("files are redirected in circles", _at("file", around), codes=(8,), sentence="redirected more than")


def _names(rng: random.Random) -> Iterator[Case]:
    names = [
        "../evil.json", "../../../../tmp/evil", "a/../../evil.json", "/etc/cron.d/evil", "//evil", "a//b", "./config",
        "a/./b", "a/", "/", "", ".", "..", "a\\..\\b", "C:\\evil", "a\0b", "new\nline", "bell\a", "esc\x1b[2J",
        "csi\x9b2J", "del\x7f", "right\u202eto left", "line\u2028end", "half\ud800", "x" * 256,
        "/".join("y" * 200 for _ in range(6)), "model.safetensors/below", "config.json", " /x/..", "..%2fevil/..",
    ]  # fmt: skip
    for name in names:
        odd = {**rows()[0], "path": name}
        yield Case(f"a file is named {name[:40]!r}", _at("tree", lambda request, odd=odd: [json_reply([*rows(), odd])]))
    for name in (None, 7, True, ["a"], {"a": 1}):
        odd = {**rows()[0], "path": name}
        listed = _at("tree", lambda request, odd=odd: [json_reply([*rows(), odd])])
        yield Case(f"a file is named {name!r}, no text", listed, codes=(8,), sentence="is not a Hub")


def _listings(rng: random.Random) -> Iterator[Case]:
    weights = rows()[1]
    sizes: list[Any] = [-1, -(2**63), 2**63, 10**30, 1.5, "65536", None, True, [], {}]
    for size in sizes:
        odd = {**weights, "lfs": {**weights["lfs"], "size": size}}
        yield _list(f"a size is {size!r}", [rows()[0], odd])
    for text in ("NaN", "Infinity", "-Infinity", "1e999", "9" * 5000):
        body = json.dumps([{**rows()[0], "size": 77777}]).replace("77777", text).encode()
        yield Case(f"a size is {text[:20]}, no JSON number", _at("tree", lambda request, body=body: [json_reply(body)]))
    sha256 = weights["lfs"]["oid"]
    hashes: list[Any] = ["", "sha256:", sha256[:-1], sha256.upper(), sha256 + "0", "x" * 64, None, 7, [], "٠" * 64]
    for one in hashes:
        yield _list(f"a SHA-256 is {one!r}", [rows()[0], {**weights, "lfs": {**weights["lfs"], "oid": one}}])
    for one in ("", "0" * 39, "z" * 40, None, 7, {}):
        yield _list(f"a git blob is {one!r}"[:60], [{**rows()[0], "oid": one}, weights])
    for lfs in ([], "", "text", 7, True, {}, {"size": 5}, {"oid": sha256}):
        yield _list(f"lfs is {lfs!r}"[:60], [rows()[0], {**weights, "lfs": lfs}])
    yield _list("an empty list", [])
    yield _list("a file is listed twice with two hashes", [*rows(), {**rows()[0], "oid": "0" * 40}])
    documents: list[Any] = [
        None, 7, "text", {}, {"error": "x"}, [None], [7], ["config.json"], [[]], [{}], [{"type": "file"}],
        [{"type": "file", "path": "a"}], [{"type": "virus", "path": "a", "size": 1, "oid": "0" * 40}],
    ]  # fmt: skip
    for document in documents:
        yield _list(f"the list is {document!r}"[:70], document)
    bodies = {
        "nested 100,000 deep": b"[" * 100_000,
        "objects nested 100,000 deep": b'{"a":' * 100_000,
        "HTML": b"<!doctype html><title>Log in</title>",
        "empty": b"",
        "a null byte": b"\0",
        "UTF-16 without its end": b"\xff\xfe[",
        "cut": json.dumps(rows()).encode()[:-9],
        "two documents": b"[] []",
    }
    for stage in ("facts", "tree"):
        for what, body in bodies.items():
            made = _at(stage, lambda request, body=body: [json_reply(body)])
            yield Case(f"{stage} is {what}", made, codes=(8,), sentence="is not a Hub")


def _list(name: str, document: Any) -> Case:
    return Case(name, _at("tree", lambda request: [json_reply(document)]))


def _endless(rng: random.Random) -> Iterator[Case]:
    block = rng.randbytes(32_768)
    chunk = b"%x\r\n%s\r\n" % (len(block), block)

    def forever(head: bytes, piece: bytes) -> Pieces:
        return itertools.chain([head], itertools.repeat(piece))

    streamed = reply("200 OK", {"Transfer-Encoding": "chunked"})
    for stage in ("facts", "tree"):
        yield Case(f"{stage} never ends", _at(stage, lambda request: forever(streamed, chunk)), codes=(8,))
        yield Case(f"{stage} is blanks without end", _at(stage, lambda request: forever(streamed, BLANKS)), codes=(8,))
    for path in FILES:
        yield Case(f"{path} never ends", _bytes_of(path, lambda request: forever(streamed, chunk)), codes=(7,))
    for status in ("404 Not Found", "500 Internal Server Error", "403 Forbidden", "429 Too Many Requests"):
        head = reply(status, {"Transfer-Encoding": "chunked"})
        for stage in ("facts", "file"):
            made = _at(stage, lambda request, head=head: forever(head, chunk))
            yield Case(f"{stage} is refused with {status[:3]}, whose body never ends", made, codes=(4, 5, 8))
    sent_on = reply("302 Found", {"Location": "/elsewhere", "Transfer-Encoding": "chunked"})
    yield Case("a redirect's body never ends", _at("file", lambda request: forever(sent_on, chunk)), codes=(7,))

    def next_page(request: Request) -> Pieces:
        number = len(request.query)
        row = {**rows()[0], "path": f"file-{number}.json"}
        link = f'<{request.url}/api/models/org/tiny/tree/{COMMIT}?cursor={"x" * number}>; rel="next"'
        return [json_reply([row], Link=link)]

    yield Case("the list has pages without end", _at("tree", next_page), codes=(8,), sentence="endless pages")
    same = [json_reply(rows(), Link='<https://hub.example/api?cursor=1>; rel="next"')]
    yield Case("the next page is the same one", _at("tree", lambda request: same), codes=(8,))
    many = b"[" + b",".join(json.dumps({**rows()[0], "path": f"f{n}"}).encode() for n in range(3000)) + b"]"
    yield Case("more files than a model can have", _at("tree", lambda request: [json_reply(many)]), codes=(8,))
    vast = [{**row, "size": 2**42} for row in rows()[:1]]

    def fills_the_disk(request: Request) -> Pieces | None:
        if request.stage == "tree":
            return [json_reply(vast)]
        return forever(streamed, chunk) if request.stage == "file" else None

    yield Case("a file of 4 TiB that comes", fills_the_disk, codes=(8,), sentence="room")

    def one_byte(request: Request) -> Pieces:
        size = len(request.body)
        piece = request.body[request.start : request.start + 1]
        where = {
            "Content-Range": f"bytes {request.start}-{size - 1}/{size}",
            "Content-Length": str(size - request.start),
        }
        return [reply("206 Partial Content", where, piece)]

    yield Case("a file comes byte by byte, each over its own connection", _bytes_of("model.safetensors", one_byte))


def _heads(rng: random.Random) -> Iterator[Case]:
    start = b"HTTP/1.1 200 OK\r\n"
    bombs: dict[str, Callable[[], Pieces]] = {
        "100,000 headers": lambda: [start, b"".join(b"X-%d: y\r\n" % n for n in range(100_000)), b"\r\n"],
        "a header of 10 MB": lambda: [start, b"X-Long: ", b"y" * 10_000_000, b"\r\n\r\n"],
        "a header without end": lambda: itertools.chain([start, b"X-Long: "], itertools.repeat(b"y" * 4096)),
        "headers without end": lambda: itertools.chain([start], (b"X-%d: y\r\n" % n for n in itertools.count())),
        "a name of 1 MB": lambda: [start, b"y" * 1_000_000, b": 1\r\n\r\n"],
        "a status line without end": lambda: itertools.chain([b"HTTP/1.1 200 "], itertools.repeat(b"O" * 4096)),
        "1xx answers without end": lambda: itertools.repeat(b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" * 9),
        "500 cookies": lambda: [start, *(b"Set-Cookie: c%d=%s\r\n" % (n, b"v" * 150) for n in range(500)), b"\r\n"],
        "a header folded 1,000 times": lambda: [start, b"X: a\r\n", b" b\r\n" * 1000, b"Content-Length: 2\r\n\r\n{}"],
    }
    for stage in ("facts", "storage"):
        for what, bomb in bombs.items():
            yield Case(f"{stage}: {what}", _at(stage, lambda request, bomb=bomb: bomb()), codes=(7, 8))


def _refusals(rng: random.Random) -> Iterator[Case]:
    waits = ["0", "1", "", "-1", "²", "1e9", "inf", "nan", "9" * 30, "9" * 5000, "Wed, 21 Oct 2199 07:28:00 GMT", "5;5"]
    for wait in waits:
        for stage in ("facts", "file"):
            answer = _at(stage, lambda request, wait=wait: [reply("429 Too Many Requests", {"Retry-After": wait})])
            limited = "limits the rate of requests"
            yield Case(
                f"{stage}: 429 with Retry-After {wait[:30]!r} of {len(wait)}", answer, codes=(8,), sentence=limited
            )
    statuses = {
        "gated": ("403 Forbidden", {"X-Error-Code": "GatedRepo"}, 5, "is gated"),
        "missing": ("404 Not Found", {"X-Error-Code": "RepoNotFound"}, 4, "There is no model"),
        "no such revision": ("404 Not Found", {"X-Error-Code": "RevisionNotFound"}, 4, "has no revision"),
        "disabled": ("403 Forbidden", {"X-Error-Message": "Access to this resource is disabled."}, 5, "denies access"),
        "a wrong token": ("401 U", {"X-Error-Message": "Invalid credentials in Authorization header"}, 5, "the token"),
        "an entry that is not there": ("404 Not Found", {"X-Error-Code": "EntryNotFound"}, 4, "does not exist on"),
        "an unknown code": ("404 Not Found", {"X-Error-Code": "\x1b[31mEvil"}, 4, "There is no model"),
    }  # fmt: skip
    for what, (status, headers, code, sentence) in statuses.items():
        for stage in ("facts", "file"):
            answer = _at(stage, lambda request, status=status, headers=headers: [reply(status, headers, b"{}")])
            yield Case(f"{stage} is refused: {what}", answer, codes=(code,), sentence=sentence)
    for status in (
        "204 No Content",
        "300 Choices",
        "304 Not Modified",
        "418 Teapot",
        "451 Legal",
        "500 E",
        "503 E",
        "599 E",
    ):
        for stage in ("facts", "storage"):
            answer = _at(stage, lambda request, status=status: [reply(status, {})])
            yield Case(f"{stage} is answered with {status}", answer, codes=(7, 8))


def _encodings(rng: random.Random) -> Iterator[Case]:
    squeezed = zlib.compressobj(9, zlib.DEFLATED, 31)
    bomb = b"".join(squeezed.compress(bytes(1_000_000)) for _ in range(1000)) + squeezed.flush()
    for stage in ("facts", "tree", "storage"):
        for encoding in ("gzip", "deflate", "br", "zstd", "x-evil", "gzip, gzip"):
            packed = bomb if encoding.startswith("gzip") else rng.randbytes(500)
            answer = _at(stage, lambda request, e=encoding, b=packed: [reply("200 OK", {"Content-Encoding": e}, b)])
            yield Case(f"{stage} in {encoding}, which was not requested", answer, codes=(7, 8))
    right = gzip.compress(WEIGHTS)
    answer = _at("storage", lambda request: [reply("200 OK", {}, right)])
    yield Case("the weights packed, without saying so", answer, codes=(7,))


def _protocol(rng: random.Random) -> Iterator[Case]:
    size = len(WEIGHTS)
    raw = {
        "nothing": b"",
        "noise": rng.randbytes(4000),
        "HTTP/0.9": WEIGHTS,
        "an HTTP/2 preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "a TLS hello": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + rng.randbytes(500),
        "two lengths": reply("200 OK", {"Content-Length": "5", "content-length": str(size)}, WEIGHTS),
        "a negative length": reply("200 OK", {"Content-Length": "-5"}, WEIGHTS),
        "a length in words": reply("200 OK", {"Content-Length": "many"}, WEIGHTS),
        "a length in odd digits": reply("200 OK", {"Content-Length": "²"}, WEIGHTS),
        "a length of 5,000 digits": reply("200 OK", {"Content-Length": "9" * 5000}, WEIGHTS),
        "a length and chunks": reply("200 OK", {"Content-Length": "5", "Transfer-Encoding": "chunked"}, b"0\r\n\r\n"),
        "a chunk of no size": reply("200 OK", {"Transfer-Encoding": "chunked"}, b"\r\nabc\r\n"),
        "a chunk of negative size": reply("200 OK", {"Transfer-Encoding": "chunked"}, b"-5\r\nabc\r\n"),
        "a chunk of vast size": reply("200 OK", {"Transfer-Encoding": "chunked"}, b"f" * 40 + b"\r\nabc"),
        "an unknown transfer": reply("200 OK", {"Transfer-Encoding": "evil"}, WEIGHTS),
        "a status of four digits": b"HTTP/1.1 2000 OK\r\n\r\n",
        "a null in a header": b"HTTP/1.1 200 OK\r\nX: a\0b\r\nContent-Length: 2\r\n\r\n{}",
        "an upgrade": b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: evil\r\nConnection: Upgrade\r\n\r\n" + WEIGHTS,
    }
    for stage in ("facts", "storage"):
        for what, answer in raw.items():
            made = _at(stage, lambda request, answer=answer: [answer])
            # a lenient client reads the correct bytes from one of them, which is allowed
            yield Case(f"{stage} is answered with {what}", made, codes=(7, 8))
