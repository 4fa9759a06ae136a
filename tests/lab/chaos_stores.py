"""The stores that trials run on: a folder, and both real S3 servers."""

from __future__ import annotations

import pytest

STORES = ["folder", *(pytest.param(name, marks=pytest.mark.s3) for name in ("minio", "versitygw"))]
