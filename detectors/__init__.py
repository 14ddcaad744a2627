"""Numbers in, scores out: pure numpy, no clock, no I/O, no limits, no opinion on what is bad.

Importing this package registers every built-in detector: one line each.
"""

from detectors import bank as bank
from detectors import drift as drift
from detectors import together as together
