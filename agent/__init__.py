"""The ground: values, contracts, the order of work, time, retries, record and safety. It imports no guest."""

from agent.imports import without

# The first import of it anywhere: it would load a library for coloured tracebacks, 4 MB and 40 ms of every process.
with without("rich", "greenlet"):
    import structlog  # noqa: F401

__version__ = "0.1.0"
