"""`tuneyard version`."""

from __future__ import annotations

from tuneyard.cli import options as o


def version(json: o.Json = False) -> None:
    """Print the version."""
    import platform

    import tuneyard
    from tuneyard.cli._output import Output

    version = tuneyard.__version__
    Output(json).data({"version": version, "python": platform.python_version()}, f"tuneyard {version}")
