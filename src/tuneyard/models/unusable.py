"""What loading raises for files that are not a model."""

from __future__ import annotations


def unusable() -> tuple[type[Exception], ...]:
    """Return what transformers raises for files that are not a model, which it does not document.

    A function, since the Hub's client is slow to import: `except unusable()` imports it after an error only. A
    `StrictDataclassError`, for an entry of a config with the wrong type, has no other base class among these.
    """
    from huggingface_hub.errors import StrictDataclassError

    return (
        OSError, ValueError, LookupError, TypeError, AttributeError, ImportError, RuntimeError, ArithmeticError,
        AssertionError, NotImplementedError, StrictDataclassError,
    )  # fmt: skip
