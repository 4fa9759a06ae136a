"""Fail the build of an image whose torch can't use the accelerators that the image is for (VARIANT)."""

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
    hint = "give a base image that has Python 3.11 with AMD's build of torch 2.13: BASE=…"
    sys.exit(f"There is no torch in this image{': ' + hint if variant == 'rocm' else '.'}")
version = runpy.run_path(str(Path(found.origin).with_name("version.py")))
if WANTED[variant] and not version.get(WANTED[variant]):
    sys.exit(f"torch {version['__version__']} of this image is not built for {variant}.")
