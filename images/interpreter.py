"""Make the packages and the source importable in an image, also with `python -I`, and provide a `python` command."""

import os
import shutil
import site
import sys
from pathlib import Path

folder = Path(site.getsitepackages()[0])
folder.mkdir(parents=True, exist_ok=True)
(folder / "tuneyard.pth").write_text("/opt/source\n/opt/packages\n", encoding="utf-8")
if not shutil.which("python"):
    Path("/usr/local/bin/python").symlink_to(os.path.realpath(sys.executable))
