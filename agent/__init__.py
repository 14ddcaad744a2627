"""The ground: values, contracts, the order of work, time, retries, record and safety. It imports no guest."""

from agent.imports import lean

# For coloured tracebacks it would take 4 MB and 40 ms of each process.
lean("structlog", "rich", "greenlet")

__version__ = "0.1.0"
