"""`tuneyard version`."""

from __future__ import annotations

from tuneyard.cli import options as o


def version(json: o.Json = False) -> None:
    """Print the version."""
    import platform
    from importlib import metadata

    from tuneyard.cli._output import Output

    installed = metadata.version("tuneyard")
    Output(json).data({"version": installed, "python": platform.python_version()}, f"tuneyard {installed}")
