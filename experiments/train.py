"""Train one network, or sweep over many: python experiments/train.py --help."""

from degradation.cli import main

if __name__ == "__main__":
    main()
