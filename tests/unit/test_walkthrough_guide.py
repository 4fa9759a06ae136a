"""The guide to the walkthrough: its commands are the specification's, and bash can read them."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SPECIFICATION = ROOT.parent / "shared" / "walkthrough.md"


def blocks(path: Path) -> list[str]:
    return re.findall(r"^```bash\n(.*?)^```$", path.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


GUIDE = blocks(ROOT / "docs/guides/walkthrough.md")


def test_every_block_is_bash():
    assert len(GUIDE) == 10
    for block in GUIDE:
        subprocess.run(["bash", "-n"], input=block, text=True, check=True)


@pytest.mark.skipif(not SPECIFICATION.is_file(), reason="the specification is not at hand")
def test_no_command_differs_from_the_specification():
    assert blocks(SPECIFICATION) == GUIDE


def test_every_values_file_that_is_named_is_there():
    for block in GUIDE:
        for path in re.findall(r"workloads/\S+", block):
            assert (ROOT / path).exists(), path
