"""The server conforms to its own document: schemathesis sends what it allows and what it does not."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.checks import CHECKS

from lab import serving
from tuneyard.serving.app import build_app
from tuneyard.serving.generation import ModelManager

KEY = {"Authorization": f"Bearer {serving.KEY}"}
# A valid request may still be refused: by its template, length or keyword.
NOT_PROMISED = {"positive_data_acceptance"}
OPERATIONS = [
    ("POST", "/v1/chat/completions"),
    ("POST", "/v1/completions"),
    ("GET", "/v1/models"),
    ("GET", "/v1/models/{model}"),
    ("GET", "/health"),
]


@pytest.fixture(scope="session")
def document(server: serving.Server) -> Any:
    return schemathesis.openapi.from_url(f"{server.url.removesuffix('/v1')}/openapi.json", headers=KEY)


def test_document_has_every_route(document: Any) -> None:
    named = {(found.ok().method.upper(), found.ok().path) for found in document.get_all_operations()}
    assert named == set(OPERATIONS)
    routes = {route.path for route in build_app(ModelManager(()), serving.KEY).routes}
    # FastAPI's notation for a parameter that may contain a slash
    assert {path.replace("{model}", "{model:path}") for _, path in OPERATIONS} | {"/openapi.json"} == routes


def shorten(body: dict[str, Any]) -> None:
    """Limit the answer to one token where a limit is valid: a whole context takes seconds."""
    longest = {name: body.get(name) for name in ("max_tokens", "max_completion_tokens")}
    if all(length is None or (type(length) is int and length >= 1) for length in longest.values()):
        body.update({name: 1 for name, length in longest.items() if length is not None})
        body["max_tokens"] = 1


@pytest.mark.parametrize("examples", [40, pytest.param(1000, marks=pytest.mark.soak)])
@pytest.mark.parametrize("mode", GenerationMode)
@pytest.mark.parametrize(("method", "path"), OPERATIONS)
def test_every_response_is_documented(
    document: Any, method: str, path: str, mode: GenerationMode, examples: int
) -> None:
    operation = document[path][method]
    checks = [CHECKS.get_one(name) for name in CHECKS.get_all_names() if name not in NOT_PROMISED]
    documented = {int(status) for status in operation.definition.raw["responses"] if status.isdigit()}
    statuses: Counter[int] = Counter()

    @settings(max_examples=examples, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(case=operation.as_strategy(generation_mode=mode), short=st.booleans())
    def ask(case: Any, short: bool) -> None:
        if isinstance(case.body, dict):
            if isinstance(case.body.get("model"), str) and short:
                case.body["model"] = "tuned"
            shorten(case.body)
        answer = case.call(headers=KEY, timeout=300)
        statuses[answer.status_code] += 1
        assert answer.status_code in documented  # `default` stands for what breaks inside
        case.validate_response(answer, checks=checks)

    ask()
    print(method, path, mode, statuses)
    assert mode is GenerationMode.NEGATIVE or statuses[200]
