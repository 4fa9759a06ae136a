"""Trials of what is promised when something breaks: kills, damaged files, a bad network, two writers of one run.

`tuneyard chaos` runs them on a user's own store, and the tests run the same ones. `chaos` runs every kind; `ground` is
the place of the trials; `kills`, `damages`, `saves` and `writers` are the kinds; `forks` and `writer` are the programs
that are killed and contend.
"""

from tuneyard.chaos.chaos import Report, run_chaos
from tuneyard.chaos.ground import FOLDER, Ground, ground
from tuneyard.chaos.outcome import Outcome, Trial

__all__ = ["FOLDER", "Ground", "Outcome", "Report", "Trial", "ground", "run_chaos"]
