"""The sample strategies; installed, they are the package ``liquidations.samples``."""
