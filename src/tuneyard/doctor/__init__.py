"""What has to be there before anything can run: on this machine, on a cluster, and of an object store.

The room's public face. It sits above `runs`, looks and never repairs; everything it writes on the way it removes.
"""

from tuneyard.doctor.check import Check, Outcome, Report
from tuneyard.doctor.store_probe import probe_store

__all__ = ["Check", "Outcome", "Report", "probe_store"]
