"""Train one network, or sweep over many: python experiments/train.py --help."""

import degradation.script  # noqa: F401  first of all
from degradation.cli import main

if __name__ == "__main__":
    main()
