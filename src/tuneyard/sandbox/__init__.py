"""A sandbox for untrusted programs: what they may write and read, and which processes they may reach.

It uses three mechanisms of Linux that need no privileges: Landlock and, where that is missing or old, namespaces or a
filter of system calls. `find_locks` returns those that this machine has and what they restrict together; `command`
returns the command that runs a program under them.
"""

from tuneyard.sandbox.available import find_locks
from tuneyard.sandbox.locks import HOLDS, Hold, Locks
from tuneyard.sandbox.places import interpreter_places, private_places
from tuneyard.sandbox.plan import Plan, command

__all__ = ["HOLDS", "Hold", "Locks", "Plan", "command", "find_locks", "interpreter_places", "private_places"]
