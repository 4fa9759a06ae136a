"""Where a Hub may redirect requests to."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence

import httpx2
import pytest
from huggingface_hub.utils import close_session

from lab.hostile_cases import INWARD, NAMES
from lab.hostile_hub import Case, HostileHub, Pieces, Request, hostile_hub, reply
from tuneyard.errors import DeniedError
from tuneyard.hub import Hub, RetryPolicy
from tuneyard.hub.redirects import Reach, Redirects, look_up, reach_of

PUBLIC = "93.184.216.34"


@pytest.fixture
def hostile() -> Iterator[HostileHub]:
    with hostile_hub() as running:
        yield running
        close_session()
        gc.collect()


def looked_up(own: str) -> Redirects:
    """A Hub at this address, which knows the cases' names and addresses in any spelling."""

    def addresses(host: str) -> Sequence[str]:
        known = {**NAMES, "hub.example": (own,), "cdn.example": (PUBLIC,), "minio.svc": ("10.2.3.4",)}
        return known[host.lower()] if host.lower() in known else look_up(host)

    return Redirects("http://hub.example", addresses=addresses)


def allowed(own: str, url: str) -> bool:
    try:
        looked_up(own).check(httpx2.URL(url))
    except (DeniedError, httpx2.InvalidURL):  # httpx itself knows no octal digits
        return False
    return True


@pytest.mark.parametrize("url", [url for url in INWARD if "。" not in url and "①" not in url])
def test_a_public_hub_may_not_redirect_into_a_private_network(url: str) -> None:
    assert not allowed(PUBLIC, f"{url}/x")


@pytest.mark.parametrize(
    ("own", "leads"),
    [
        (PUBLIC, {"cdn.example": True, "minio.svc": False, "127.0.0.1": False, "169.254.169.254": False}),
        ("10.0.0.9", {"cdn.example": True, "minio.svc": True, "127.0.0.1": False, "169.254.169.254": False}),
        ("fd12::9", {"cdn.example": True, "minio.svc": True, "[::1]": False, "[fd00:ec2::254]": False}),
        ("127.0.0.1", {"cdn.example": True, "minio.svc": True, "127.0.0.1": True, "169.254.169.254": False}),
        ("169.254.7.7", {"cdn.example": True, "minio.svc": True, "169.254.169.254": False}),
    ],
)
def test_a_hub_may_not_redirect_deeper_than_itself(own: str, leads: dict[str, bool]) -> None:
    assert {host: allowed(own, f"http://{host}:9000/x") for host in leads} == leads


@pytest.mark.parametrize("own", [PUBLIC, "10.0.0.9", "127.0.0.1"])
def test_its_own_host_is_always_allowed_and_odd_addresses_never(own: str) -> None:
    assert allowed(own, "http://hub.example:8001/x")
    for url in ("file:///etc/passwd", "ftp://cdn.example/x", "http://user:pw@cdn.example/x", "http:///x"):
        assert not allowed(own, url)


def test_a_hub_with_tls_may_not_redirect_without() -> None:
    redirects = Redirects("https://hub.example", addresses=lambda host: (PUBLIC,))
    redirects.check(httpx2.URL("https://cdn.example/x"))
    with pytest.raises(DeniedError, match="without encryption"):
        redirects.check(httpx2.URL("http://cdn.example/x"))


@pytest.mark.parametrize(
    ("address", "reach"),
    [
        (PUBLIC, Reach.PUBLIC),
        ("2606:2800:220:1::1", Reach.PUBLIC),
        ("::ffff:10.0.0.1", Reach.PRIVATE),
        ("100.64.0.1", Reach.PRIVATE),
        ("127.8.8.8", Reach.LOOPBACK),
        ("64:ff9b::7f00:1", Reach.LOOPBACK),
        ("fe80::1%eth0", Reach.NEVER),
        ("168.63.129.16", Reach.NEVER),
    ],
)
def test_every_form_of_an_address_is_classified(address: str, reach: Reach) -> None:
    assert reach_of(address) is reach


def test_a_name_that_resolves_differently_later_is_refused_before_anything_is_sent(hostile: HostileHub) -> None:
    def answer(request: Request) -> Pieces | None:
        return [reply("302 Found", {"Location": f"http://localhost:{hostile.port}/secret"})]

    hostile.use(Case("rebinding", answer))
    # the endpoint is 127.0.0.1 and treated as public; `localhost` resolves to a public address first
    hub = Hub(
        endpoint=f"http://127.0.0.1:{hostile.port}",
        token="hf_canary",
        retry_policy=RetryPolicy(attempts=1),
        addresses=lambda host: (PUBLIC,),
    )
    with pytest.raises(DeniedError, match=r"which is 127\.0\.0\.1"):
        hub.resolve("org/tiny", "")
    assert len(hostile.requests) == 1


def test_the_token_is_sent_to_the_hub_only(hostile: HostileHub) -> None:
    with hostile_hub() as other:
        other.use(Case("listener", lambda request: None))

        def answer(request: Request) -> Pieces | None:
            if request.stage == "facts":
                return None
            return [reply("302 Found", {"Location": f"http://127.0.0.1:{other.port}/api/models/org/tiny/tree/x"})]

        hostile.use(Case("redirects", answer))
        Hub(endpoint=hostile.url, token="hf_canary", retry_policy=RetryPolicy(attempts=1)).resolve("org/tiny", "")
        assert {request.authorization for request in hostile.requests} == {"Bearer hf_canary"}
        assert [request.authorization for request in other.requests] == [""]


@pytest.mark.parametrize("link", [".evil.example/x", "@evil.example/x", "http://evil.example/y", "//evil.example/z"])
def test_the_next_page_is_always_the_hubs_own(hostile: HostileHub, link: str) -> None:
    def answer(request: Request) -> Pieces | None:
        if request.stage != "tree":
            return None
        return [reply("200 OK", {} if request.number else {"Link": f'<{link}?cursor=7>; rel="next"'}, b"[]")]

    hostile.use(Case("pages elsewhere", answer))
    Hub(endpoint=hostile.url, token="hf_canary", retry_policy=RetryPolicy(attempts=1)).resolve("org/tiny", "")
    assert [request.query for request in hostile.requests if request.stage == "tree"][1:] == ["cursor=7"]
