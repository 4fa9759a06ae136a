"""What loading raises for files that are no model; a module of its own, since the Hub's client is slow to import."""

from __future__ import annotations

from huggingface_hub.errors import StrictDataclassError

UNUSABLE = (
    OSError, ValueError, LookupError, TypeError, AttributeError, ImportError, RuntimeError, ArithmeticError,
    AssertionError, NotImplementedError, StrictDataclassError,
)  # fmt: skip
"""What transformers raises for files that are no model; it documents nowhere which it will be.

A config whose entry has another type than its dataclass says is a `StrictDataclassError`, which is nothing else.
"""
