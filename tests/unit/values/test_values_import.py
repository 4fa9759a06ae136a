"""The room is light: nothing heavy comes with it."""

from __future__ import annotations

import subprocess
import sys

import tuneyard.values

HEAVY = ("torch", "transformers", "peft", "trl", "accelerate", "datasets", "numpy", "obstore", "huggingface_hub")


def test_checking_values_imports_nothing_heavy():
    script = (
        "import sys; import tuneyard.values as v;"
        "v.check_values(v.InferenceValues, {'model': 'a/b'});"
        f"print([name for name in {HEAVY!r} if name in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "[]"


def test_the_public_names_are_sorted_and_exist():
    names = tuneyard.values.__all__
    assert names == sorted(names, key=lambda name: (not name.isupper(), name))  # as ruff sorts them
    for name in names:
        assert getattr(tuneyard.values, name).__doc__
