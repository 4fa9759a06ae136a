"""Fail the build of an image if its torch does not support the accelerators of the image's VARIANT."""

import importlib.util
import os
import runpy
import sys
from pathlib import Path

WANTED = {"cpu": "", "cuda": "cuda", "rocm": "hip"}

variant = os.environ.get("VARIANT", "")
if variant not in WANTED:
    sys.exit(f"VARIANT is {variant!r}; allowed: {', '.join(WANTED)}.")
found = importlib.util.find_spec("torch")
if found is None or found.origin is None:
    hint = " Set BASE to an image that has Python 3.11 with AMD's build of torch 2.13."
    sys.exit(f"There is no torch in this image.{hint if variant == 'rocm' else ''}")
version = runpy.run_path(str(Path(found.origin).with_name("version.py")))
if WANTED[variant] and not version.get(WANTED[variant]):
    sys.exit(f"torch {version['__version__']} of this image is not built for {variant}.")
