"""Models on the Hugging Face Hub, or on any server that speaks its API: pinned to a commit, listed, streamed.

The room's public face. It sits beside `store` and knows nothing of it.
"""

from tuneyard.hub.client import Hub, HubModel
from tuneyard.hub.listing import HubFile
from tuneyard.hub.retry_policy import RetryPolicy
from tuneyard.hub.wire import Limits

__all__ = ["Hub", "HubFile", "HubModel", "Limits", "RetryPolicy"]
