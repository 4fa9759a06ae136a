"""The contents of a store: complete, damaged or left over; verified without a run, and cleaned up without loss.

The room's public face; the rest of it is private. It reads what `delivery` and `checkpoints` wrote by the manifests
alone, and sits above both. It neither starts nor repairs anything.
"""

from tuneyard.inventory.listing import Inventory, Leftover, Part, take_inventory
from tuneyard.inventory.removing import GRACE, Removal, remove_leftovers
from tuneyard.inventory.verifying import Damage, PartState, Verified, verify_place

__all__ = [
    "GRACE",
    "Damage",
    "Inventory",
    "Leftover",
    "Part",
    "PartState",
    "Removal",
    "Verified",
    "remove_leftovers",
    "take_inventory",
    "verify_place",
]
