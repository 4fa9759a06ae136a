"""What loading raises for files that are not a model; a separate module, since the Hub's client is slow to import."""

from __future__ import annotations

from huggingface_hub.errors import StrictDataclassError

UNUSABLE = (
    OSError, ValueError, LookupError, TypeError, AttributeError, ImportError, RuntimeError, ArithmeticError,
    AssertionError, NotImplementedError, StrictDataclassError,
)  # fmt: skip
"""What transformers raises for files that are not a model, which it does not document.

A `StrictDataclassError`, for an entry of a config with the wrong type, has no other base class among these.
"""
