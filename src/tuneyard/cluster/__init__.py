"""A Kubernetes cluster: helm renders, kubectl writes, lightkube reads, and object states become readable.

    tools         run helm and kubectl, and map their failures to Tuneyard's errors
    charts        locate the charts, and render one for a run
    reader        read objects as plain documents, through lightkube
    pods          why a pod is not running yet, and how it terminated
    queues        why a Workload waits in Kueue, and at which position
    jobs          the state of a Job or Deployment and its pods
    port_forward  forward a local port to a Service
    one_off_pod   run a pod once, and remove it
    quantities    parse and format resource quantities
    demand        what a Job requests
    quota         whether a ClusterQueue or a ResourceQuota has capacity for it
    nodes         whether the nodes have
    capacity      all of these checked

The room deals with Kubernetes objects, and knows nothing of runs, values or the store. `pods`, `queues`, `jobs`,
`quantities`, `demand`, `quota` and `nodes` are pure. lightkube is imported on the first read.
"""

from tuneyard.cluster.capacity import Capacity, check_capacity
from tuneyard.cluster.charts import CHARTS, WORKERS, chart_folder, render
from tuneyard.cluster.demand import QUEUE_LABEL, Demand, Finding, Share, demand_of, worst
from tuneyard.cluster.jobs import STOPPED, State, deployment_state, job_state, newest_attempt, node_index
from tuneyard.cluster.one_off_pod import one_off_spec, run_one_off_pod
from tuneyard.cluster.pods import Termination, container_names, created, is_finished, termination_of
from tuneyard.cluster.port_forward import PortForward
from tuneyard.cluster.quantities import format_quantity, format_resource, parse_quantity
from tuneyard.cluster.queues import is_active, workload_of
from tuneyard.cluster.quota import cohort_of, queue_shares
from tuneyard.cluster.reader import Document, Reader
from tuneyard.cluster.tools import Tools

__all__ = [
    "CHARTS",
    "QUEUE_LABEL",
    "STOPPED",
    "WORKERS",
    "Capacity",
    "Demand",
    "Document",
    "Finding",
    "PortForward",
    "Reader",
    "Share",
    "State",
    "Termination",
    "Tools",
    "chart_folder",
    "check_capacity",
    "cohort_of",
    "container_names",
    "created",
    "demand_of",
    "deployment_state",
    "format_quantity",
    "format_resource",
    "is_active",
    "is_finished",
    "job_state",
    "newest_attempt",
    "node_index",
    "one_off_spec",
    "parse_quantity",
    "queue_shares",
    "render",
    "run_one_off_pod",
    "termination_of",
    "workload_of",
    "worst",
]
