"""Models on the Hugging Face Hub, or on any server that speaks its API: pinned to a commit, listed, streamed.

The room's public face. It sits beside `store` and knows nothing of it.
"""

from tuneyard.hub.client import Hub, HubFile, HubModel
from tuneyard.hub.patience import Patience

__all__ = ["Hub", "HubFile", "HubModel", "Patience"]
