"""What a finetuning run will take: parameters, memory, steps, tokens, time and disk, before anything is queued.

From the delivered model's settings and safetensors headers and the data; knows nothing of clusters. Importing it loads
no torch; an estimate does.
"""

from tuneyard.estimate.estimate import Estimate, estimate
from tuneyard.estimate.fit import SMALLER, Verdict, fits_here, gib
from tuneyard.estimate.memory import Memory
from tuneyard.estimate.network import Network, build_network

__all__ = [
    "SMALLER",
    "Estimate",
    "Memory",
    "Network",
    "Verdict",
    "build_network",
    "estimate",
    "fits_here",
    "gib",
]
