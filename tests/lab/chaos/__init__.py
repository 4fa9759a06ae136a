"""Trials of what Tuneyard promises when something fails: kills, damaged files, network faults, two writers of one run.

`tests/chaos` runs them on any store, in short in the suite and in full by `make soak`. `testbed` is where they run;
`kills`, `damage`, `network` and `contention` are the kinds of trials; `fork_server` and `contender` are the programs
that are killed and that compete.
"""
