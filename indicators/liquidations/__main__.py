"""Run the console script with ``python -m liquidations``."""

from liquidations.cli import main


if __name__ == "__main__":
    main()
