"""`python -m tuneyard`: the same as the `tuneyard` command."""

import sys

from tuneyard.cli import main

sys.exit(main())
