"""Numbers in, scores out: pure numpy, no clock, no I/O, no limits, no opinion on what is bad.

Importing this package registers every built-in detector: one line each.
"""

from detectors import bank as bank
from detectors import conv as conv
from detectors import drift as drift
from detectors import fill as fill
from detectors import isolation_forest as isolation_forest
from detectors import pca as pca
from detectors import seasonal as seasonal
from detectors import together as together
