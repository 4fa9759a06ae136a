"""Serving models on an OpenAI-compatible endpoint: with vLLM where it is installed, else with our own server.

The room's public face; the rest is private. `python -m tuneyard.serving VALUES --workdir DIR` runs the server as a
process. Importing this loads no torch: that happens when models are loaded.
"""

from tuneyard.serving.placement import Adapter, Placement, Weights, place_models
from tuneyard.serving.readiness import complete_once, wait_ready

__all__ = ["Adapter", "Placement", "Weights", "complete_once", "place_models", "wait_ready"]
