"""`python -m tuneyard.train.process`: one of several training processes, started by the supervisor."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def main(path: Path, workdir: Path) -> int:
    """Train as one of several processes.

    Args:
        path: The resolved values, as a JSON file.
        workdir: The folder of this node's run.

    Returns:
        The exit code.
    """
    from tuneyard.train.supervisor import die_with_supervisor

    die_with_supervisor()  # before the imports, which take seconds

    from tuneyard.interpreter import faster_imports

    with faster_imports():
        from tuneyard.job import open_values_store
        from tuneyard.process import run_main
        from tuneyard.train.exchange import refuse_code
        from tuneyard.train.signals import StopRequest
        from tuneyard.train.worker import work
        from tuneyard.values import FinetuneValues, read_values

    def train() -> int:
        refuse_code()
        stop = StopRequest().install()
        values = read_values(FinetuneValues, path)
        return work(values, open_values_store(values), workdir, stop)

    return run_main(train, workdir=workdir)


if __name__ == "__main__":
    code = main(Path(sys.argv[1]), Path(sys.argv[3]))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # everything is saved, and a thread of the communication library can abort a regular exit
