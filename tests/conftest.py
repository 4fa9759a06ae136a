"""Fixtures for every test: the S3 servers, what tools are missing, and this folder on the path for what tests share."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

pytest_plugins = ["lab.missing_tools", "lab.s3_servers"]
