"""Models: their manifests, the contents of their files, loading them, and checking that they are complete.

The room's public face; the rest of it is private. It sits above `store` and `hub`, so that delivery, plan, training and
serving read models in one way. Importing it loads no torch; `load_model` and `outline_model` do when called.
"""

from tuneyard.models.entries import IDENTITY, OF_THE_LOADER, read_entries, without_dropout
from tuneyard.models.headers import Tensor, read_header
from tuneyard.models.loading import (
    check_whole,
    incomplete,
    library_is_here,
    load_adapter,
    load_model,
    outline_model,
    reason_of,
    require_library,
)
from tuneyard.models.outline import Read, write_outline
from tuneyard.models.published import ADAPTER_CONFIG, find_base, find_manifest, is_adapter, kind_in_words
from tuneyard.models.structure import INDEX, structure_problems
from tuneyard.models.unusable import unusable

__all__ = [
    "ADAPTER_CONFIG",
    "IDENTITY",
    "INDEX",
    "OF_THE_LOADER",
    "Read",
    "Tensor",
    "check_whole",
    "find_base",
    "find_manifest",
    "incomplete",
    "is_adapter",
    "kind_in_words",
    "library_is_here",
    "load_adapter",
    "load_model",
    "outline_model",
    "read_entries",
    "read_header",
    "reason_of",
    "require_library",
    "structure_problems",
    "unusable",
    "without_dropout",
    "write_outline",
]
