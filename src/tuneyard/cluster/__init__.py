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

from tuneyard.cluster.charts import CHARTS, chart_folder, render
from tuneyard.cluster.jobs import State, deployment_state, job_state
from tuneyard.cluster.port_forward import PortForward
from tuneyard.cluster.reader import Document, Reader
from tuneyard.cluster.tools import Tools

__all__ = [
    "CHARTS",
    "Document",
    "PortForward",
    "Reader",
    "State",
    "Tools",
    "chart_folder",
    "deployment_state",
    "job_state",
    "render",
]
