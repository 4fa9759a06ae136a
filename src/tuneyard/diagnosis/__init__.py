"""What has to be there before anything can run: on this machine, on a cluster, and of an object store.

The room's public face. It sits above `runs`, looks and never repairs; everything it writes on the way it removes.
"""

from tuneyard.diagnosis.check import Check, Outcome, Report
from tuneyard.diagnosis.kubernetes import check_kubernetes
from tuneyard.diagnosis.local import check_local
from tuneyard.diagnosis.store_probe import probe_store
from tuneyard.diagnosis.target import check_target
from tuneyard.diagnosis.told import told

__all__ = ["Check", "Outcome", "Report", "check_kubernetes", "check_local", "check_target", "probe_store", "told"]
