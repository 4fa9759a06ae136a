"""Check the prerequisites of a run: on this machine, on a cluster, and of an object store.

The room's public face. It sits above `runners`. Checks report and never repair, and remove whatever they write.
"""

from tuneyard.diagnosis.check import Check, Outcome, Report
from tuneyard.diagnosis.formatting import format_report
from tuneyard.diagnosis.kubernetes import check_kubernetes
from tuneyard.diagnosis.local import check_local
from tuneyard.diagnosis.store_probe import probe_store
from tuneyard.diagnosis.target import check_target

__all__ = [
    "Check",
    "Outcome",
    "Report",
    "check_kubernetes",
    "check_local",
    "check_target",
    "format_report",
    "probe_store",
]
