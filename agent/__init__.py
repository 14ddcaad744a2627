"""The ground: values, contracts, the order of work, time, retries, record and safety. It imports no guest."""

__version__ = "0.1.0"
