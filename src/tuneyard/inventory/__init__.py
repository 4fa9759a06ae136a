"""What lies in a store: whole, damaged, or left over; verified without a run, and cleaned up without a loss.

The room's public face; everything else in it is private. It reads what `deliver` and `checkpoints` wrote by their
manifests alone, and sits above both. It starts nothing and repairs nothing.
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
