"""Serving models on an OpenAI-compatible endpoint: by vLLM where it is installed, else by transformers' serving parts.

The room's public face; the rest of it is private. `python -m tuneyard.serving VALUES --workdir DIR` serves as a
process. Importing it loads no torch: that happens when models are loaded.
"""

from tuneyard.serving.placement import Adapter, Placement, Weights, place_models
from tuneyard.serving.readiness import complete_once, wait_ready

__all__ = ["Adapter", "Placement", "Weights", "complete_once", "place_models", "wait_ready"]
