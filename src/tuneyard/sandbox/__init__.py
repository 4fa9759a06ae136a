"""A sandbox for a program that others wrote: what it may write and read, and which processes it may touch.

Three locks of Linux, none of which needs rights: Landlock, and where that is missing or old, namespaces or a filter of
system calls. `find_locks` says which of them this machine has and what they hold together; `command` puts a program
behind them. It knows nothing of what the program is for.
"""

from tuneyard.sandbox.locks import HOLDS, Hold, Locks, find_locks
from tuneyard.sandbox.places import interpreter_places, private_places
from tuneyard.sandbox.plan import Plan, command

__all__ = ["HOLDS", "Hold", "Locks", "Plan", "command", "find_locks", "interpreter_places", "private_places"]
