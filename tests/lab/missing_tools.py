"""Programs that tests need: one reason for every test that lacks one, and one line about them when all is over.

A pytest plugin. A skipped test is no passed test, and pages of reasons hide that; `make test` ends with this line.
"""

from __future__ import annotations

import re
import shutil
from collections import Counter
from collections.abc import Iterable

import pytest

TOOLS = {
    "helm": "helm 4 renders the charts",
    "minio": "an S3 server",
    "versitygw": "another S3 server",
    "cc": "a C compiler",
}
"""The programs, and what each is for; CONTRIBUTING.md says where they come from."""

_REASON = re.compile(r"needs (\S+) on PATH")


def reason(tool: str) -> str:
    """Say why a test is skipped that needs a program."""
    assert tool in TOOLS
    return f"needs {tool} on PATH"


def needs(tool: str) -> pytest.MarkDecorator:
    """Mark a test that needs a program."""
    return pytest.mark.skipif(shutil.which(tool) is None, reason=reason(tool))


def summary(reasons: Iterable[str], ran: int) -> str:
    """Say in one line which tests were skipped for want of a program.

    Args:
        reasons: Why each skipped test was skipped.
        ran: How many tests were run.
    """
    reasons = list(reasons)
    lacking = Counter(found[1] for text in reasons if (found := _REASON.search(text)))
    others = len(reasons) - lacking.total()
    rest = f" Not for this machine: {others}, for the reasons above." if others else ""
    if not lacking:
        return f"Tests run: {ran}, all that this machine can run.{rest}"
    tools = ", ".join(f"{tool} {number}" for tool, number in lacking.most_common())
    return (
        f"Tests run: {ran}. Not run, since they need programs that are not on PATH: {lacking.total()} ({tools}); "
        f"see Tests in CONTRIBUTING.md.{rest}"
    )


@pytest.hookimpl(trylast=True)
def pytest_unconfigure(config: pytest.Config) -> None:
    """Print the line last of all, in the process that has the terminal."""
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    if reporter is None or hasattr(config, "workerinput") or not reporter.stats.get("skipped"):
        return
    reasons = [str(report.longrepr[2]) for report in reporter.stats["skipped"]]
    ran = sum(len(reporter.stats.get(outcome, ())) for outcome in ("passed", "failed", "xfailed", "xpassed"))
    reporter.write_line(summary(reasons, ran))
