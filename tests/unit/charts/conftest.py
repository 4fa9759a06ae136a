"""Chart tests need Helm: without it they are skipped, or fail if TUNEYARD_REQUIRE_HELM is 1."""

from __future__ import annotations

import pytest

from lab.charts import helm_or_skip


@pytest.fixture(autouse=True)
def _helm() -> None:
    helm_or_skip()
