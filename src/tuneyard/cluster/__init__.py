"""A Kubernetes cluster: helm renders, kubectl writes, lightkube reads, and what an object's state means in words.

    tools       helm and kubectl as programs, and their refusals as errors of ours
    charts      where the charts lie, and rendering one for a run
    reader      objects as plain documents, through lightkube
    pods        why a pod does not run yet, and how it ended
    queues      why Kueue keeps a Job waiting, and behind whom
    jobs        a Job, a Deployment and their pods as one state
    forward     a port of this machine that leads to a Service
    errand      a short pod, run once and removed
    demand      what a Job asks for, in amounts
    quota       whether a ClusterQueue or a ResourceQuota has room for it
    nodes       whether nodes have
    room        all of that looked at

It knows objects, labels and words; nothing of runs, values or the store. `pods`, `queues`, `jobs`, `demand`, `quota`
and `nodes` are pure. lightkube is loaded with the first read.
"""

from tuneyard.cluster.charts import CHARTS, chart_folder, render
from tuneyard.cluster.forward import PortForward
from tuneyard.cluster.jobs import State, deployment_state, job_state
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
