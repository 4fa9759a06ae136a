"""What a finetuning run will take: parameters, memory, steps, tokens, time and disk, before anything is queued.

From the delivered model's config and safetensors headers and the data; loads no torch and knows nothing of clusters.
"""

from tuneyard.estimate.estimate import Estimate, estimate
from tuneyard.estimate.fit import Verdict, fits_here
from tuneyard.estimate.memory import Memory
from tuneyard.estimate.model import ModelFacts, read_model

__all__ = ["Estimate", "Memory", "ModelFacts", "Verdict", "estimate", "fits_here", "read_model"]
