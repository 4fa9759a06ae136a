"""Programs that tests need: one skip reason per program, and one line about them at the end of the session.

A pytest plugin. A skipped test has not passed, and pages of skip reasons hide that; `make test` ends with this line.
"""

from __future__ import annotations

import re
import shutil
from collections import Counter
from collections.abc import Iterable

import pytest

DOWNLOADED = "run 'make tools'"
TOOLS = {
    "helm": DOWNLOADED,
    "minio": DOWNLOADED,
    "versitygw": DOWNLOADED,
    "cc": "install a C compiler, such as the package build-essential",
}
"""The programs, and how to get each; CONTRIBUTING.md has the same."""

_REASON = re.compile(r"needs (\S+) on PATH")


def reason(tool: str) -> str:
    """Return the skip reason of a test that needs a program."""
    assert tool in TOOLS
    return f"needs {tool} on PATH"


def needs(tool: str) -> pytest.MarkDecorator:
    """Return the mark of a test that needs a program."""
    return pytest.mark.skipif(shutil.which(tool) is None, reason=reason(tool))


def summary(reasons: Iterable[str], ran: int) -> str:
    """Summarize in one line which tests were skipped, and how to get the programs that they need.

    Args:
        reasons: The skip reason of each skipped test.
        ran: The number of tests that ran.
    """
    reasons = list(reasons)
    lacking = Counter(found[1] for text in reasons if (found := _REASON.search(text)))
    others = len(reasons) - lacking.total()
    rest = f" Skipped for other reasons, listed above: {others}." if others else ""
    if not lacking:
        return f"Tests run: {ran}, all that this machine can run.{rest}"
    tools = ", ".join(f"{tool} {number}" for tool, number in lacking.most_common())
    how = "; ".join(dict.fromkeys(TOOLS[tool] for tool in TOOLS if lacking[tool]))
    return f"Tests run: {ran}. Skipped for lack of a program: {lacking.total()} ({tools}). To run them, {how}.{rest}"


@pytest.hookimpl(trylast=True)
def pytest_unconfigure(config: pytest.Config) -> None:
    """Print the line last of all, in the process that has the terminal."""
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    if reporter is None or hasattr(config, "workerinput") or not reporter.stats.get("skipped"):
        return
    reasons = [str(report.longrepr[2]) for report in reporter.stats["skipped"]]
    ran = sum(len(reporter.stats.get(outcome, ())) for outcome in ("passed", "failed", "xfailed", "xpassed"))
    reporter.write_line(summary(reasons, ran))
