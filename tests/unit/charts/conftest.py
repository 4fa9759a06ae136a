"""Charts are rendered by Helm: without it their tests are skipped, or fail where TUNEYARD_REQUIRE_HELM is 1."""

from __future__ import annotations

import pytest

from lab.charts import helm_or_skip


@pytest.fixture(autouse=True)
def _helm() -> None:
    helm_or_skip()
