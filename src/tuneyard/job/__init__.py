"""What is known of a training job without torch: its inputs, what is supported, its distribution, rows and fingerprint.

    inputs         which model and data go in, and whether the run is finished with them
    supported      what this version trains, and the refusal of the rest
    distribution   processes, nodes and shards
    targets        which modules an adapter is placed on
    rows, mix      the conversations, encoded, divided and mixed
    precision      the types of weights and steps
    fingerprint    what may not change between attempts

Below `estimate` and `train`, which both read it, and above `values`, `data`, `models` and `checkpoints`.
"""
