"""How several series of others become one of ours, and in which unit: for what is asked for and what is sent alike.

many rows --(of those that tell the same part of a whole, the largest)--> parts --(added, or the worst)--> column
"""

from __future__ import annotations

import re
from typing import Final, Literal

import numpy as np

from agent.catalogue import SIGNALS
from agent.model import BoolArray, FloatArray, IntArray

_SUMS: Final = frozenset({"count", "bytes", "per_second", "bytes_per_second"})
UCUM: Final = {
    "s": ("seconds", 1.0), "ms": ("seconds", 1e-3), "us": ("seconds", 1e-6), "ns": ("seconds", 1e-9),
    "min": ("seconds", 60.0), "h": ("seconds", 3600.0), "d": ("seconds", 86_400.0),
    "By": ("bytes", 1.0), "kBy": ("bytes", 1e3), "MBy": ("bytes", 1e6), "GBy": ("bytes", 1e9),
    "KiBy": ("bytes", 2.0**10), "MiBy": ("bytes", 2.0**20), "GiBy": ("bytes", 2.0**30), "bit": ("bytes", 0.125),
    "%": ("ratio", 0.01), "Cel": ("celsius", 1.0), "W": ("watts", 1.0), "kW": ("watts", 1e3), "mW": ("watts", 1e-3),
    "Hz": ("hertz", 1.0), "MHz": ("hertz", 1e6), "GHz": ("hertz", 1e9),
}  # fmt: skip
"""Unit as OpenTelemetry writes it -> ours, and how many of ours it is."""
_WORDS: Final = {
    "seconds": UCUM["s"], "milliseconds": UCUM["ms"], "microseconds": UCUM["us"], "nanoseconds": UCUM["ns"],
    "minutes": UCUM["min"], "hours": UCUM["h"], "days": UCUM["d"], "ms": UCUM["ms"], "us": UCUM["us"], "ns": UCUM["ns"],
    "bytes": UCUM["By"], "kilobytes": UCUM["kBy"], "megabytes": UCUM["MBy"], "gigabytes": UCUM["GBy"],
    "kibibytes": UCUM["KiBy"], "mebibytes": UCUM["MiBy"], "gibibytes": UCUM["GiBy"], "bits": UCUM["bit"],
    "ratio": ("ratio", 1.0), "ratios": ("ratio", 1.0), "percent": UCUM["%"], "celsius": UCUM["Cel"],
    "watts": UCUM["W"], "kilowatts": UCUM["kW"], "milliwatts": UCUM["mW"],
    "hertz": UCUM["Hz"], "megahertz": UCUM["MHz"], "gigahertz": UCUM["GHz"],
}  # fmt: skip
"""The same in words, as names of Prometheus end and `# UNIT` says."""


def fold_of(signal: str) -> Literal["add", "max", "min"]:
    """Say what several series of one column become: their sum, or the worst where a sum would mean nothing."""
    known = SIGNALS[signal]
    if known.kind == "counter" or known.unit in _SUMS:
        return "add"
    return "min" if known.better == "high" else "max"


def largest_of_each(part: IntArray, x: FloatArray) -> BoolArray:
    """Tell which of the rows (n,) counts for its part: the largest; one that is unknown only where all are."""
    order = np.lexsort((-x, part))  # NaN comes last
    first = np.ones(len(x), dtype=np.bool_)
    first[1:] = part[order][1:] != part[order][:-1]
    out = np.zeros(len(x), dtype=np.bool_)
    out[order[first]] = True
    return out


def unit_of(metric: str, said: str = "") -> tuple[str, float]:
    """Return our unit of a metric and how many of ours one of its is; "" = not known.

    said   what its target declared, which is believed before its name
    """
    if metric.endswith("_count"):  # how many were seen has no unit, whatever was measured of them
        return "", 1.0
    found = UCUM.get(said) or _WORDS.get(said.lower())
    if found is not None:
        return found
    if said:
        return "", 1.0
    base = re.sub(r"_(total|sum|bucket)$", "", metric)
    return _WORDS.get(base.rpartition("_")[2], ("", 1.0)) if "_" in base else ("", 1.0)
