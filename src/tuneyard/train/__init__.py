"""The training process: from resolved values to committed checkpoints.

One of the packages that load torch, beside `network` and `serving`. `prepare` makes everything ready on the CPU and
reports every error before a device is used; `worker` trains; `supervisor` runs several workers as one process; `final`
publishes what serving takes. Not here: reading values (`values`), the checkpoint protocol (`checkpoints`), how data
becomes tokens (`data`).
"""
