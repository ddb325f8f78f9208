"""Train one network, or sweep over many."""

import degradation.script  # noqa: F401  first of all
from degradation.cli import main

if __name__ == "__main__":
    main()
