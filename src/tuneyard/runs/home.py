"""Where this machine keeps local state: `TUNEYARD_HOME`, or the platform's place for a user's data.

<home>/store/                    the default store of the local target
<home>/runs/<verb>/<name>/       one run (tuneyard.runs.folder)
<home>/launch.lock               held for the moments in which a run is launched or deleted
<home>/errors/                   tracebacks of errors nobody expected
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path


def home_folder(environment: Mapping[str, str] | None = None) -> Path:
    """Give the folder of local state, absolute; it need not exist yet.

    Args:
        environment: Where `TUNEYARD_HOME` is looked up; `os.environ` by default.
    """
    told = (os.environ if environment is None else environment).get("TUNEYARD_HOME")
    if told:
        return Path(told).expanduser().absolute()
    import platformdirs

    return platformdirs.user_data_path("tuneyard", appauthor=False)
