"""The model that a run trains: loaded and adapted, its attention, its rows, and the proof that each row is right.

    model, prompts       the base model and its adapter
    attention            per-conversation attention over flat rows
    batches, forms       rows of token ids, and how they go through a model
    isolation            the check, on the model itself, that no conversation affects another
    balance, dropout     the load-balancing loss, and dropout switched off
    recording, tracing   what a step computes and allocates, recorded on the model itself
    rehearsal, trackers  values tried on the libraries before a weight is read

Loads torch. Below `estimate` and `train`: what is counted is what is trained.
"""
