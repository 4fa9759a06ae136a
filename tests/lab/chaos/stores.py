"""The stores that trials run on: a local folder and both S3 servers, or the one store that the environment names.

`TUNEYARD_TRIALS_STORE` names a store of the user's, with its credentials in `AWS_*`; `TUNEYARD_TRIALS_BUCKET` the
bucket to write into, where it is not 'default-bucket'. `make soak STORE=… BUCKET=…` sets both.
"""

from __future__ import annotations

import os
from typing import Any

import pytest

from lab.s3_servers import BUCKET

GIVEN = os.environ.get("TUNEYARD_TRIALS_STORE", "")
GIVEN_BUCKET = os.environ.get("TUNEYARD_TRIALS_BUCKET") or BUCKET
_GIVEN = [pytest.param(GIVEN, id="given")]
MINIO, VERSITYGW = (pytest.param(name, marks=pytest.mark.s3) for name in ("minio", "versitygw"))


def stores(*ours: Any) -> list[Any]:
    """Return the parameters of a test that runs on some of our stores: those, or the given store instead."""
    return _GIVEN if GIVEN else list(ours)


FOLDER = stores("folder")
ANY = stores("folder", MINIO, VERSITYGW)
SERVERS = stores(MINIO, VERSITYGW)
