"""How sure a share is (Wilson score interval), and how sure a rate is (Poisson interval).

Source: E. B. Wilson, Probable Inference, the Law of Succession, and Statistical Inference, 1927. Unlike the
textbook interval it keeps its coverage near 0 and 1 and for few rows. Counts: Byar's approximation, in Breslow and
Day, Statistical Methods in Cancer Research II, 1987; within 1 % of the exact upper bounds, within 0.015 of the lower.
"""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np

from agent.model import FloatArray

Z95: Final = 1.959963984540054
"""Two-sided 95 % of the normal distribution."""


def wilson(hits: Any, rows: Any, z: float = Z95) -> tuple[FloatArray, FloatArray]:
    """Return the (low, high) bounds of a share of `hits` among `rows`; both are NaN where rows is 0.

    hits, rows   numbers or arrays of one shape; rows may be an effective number of weighted rows
    """
    k = np.asarray(hits, dtype=np.float64)
    n = np.asarray(rows, dtype=np.float64)
    n = np.where(n > 0, n, np.nan)
    with np.errstate(invalid="ignore", divide="ignore"):
        share = k / n
        shrink = 1.0 + z * z / n
        middle = (share + z * z / (2.0 * n)) / shrink
        half = z * np.sqrt(np.maximum(share * (1.0 - share), 0.0) / n + (z / (2.0 * n)) ** 2)
        half /= shrink
        low: FloatArray = np.minimum(np.maximum(middle - half, 0.0), 1.0)
        high: FloatArray = np.minimum(np.maximum(middle + half, 0.0), 1.0)
    return low, high


def poisson(count: float, z: float = Z95) -> tuple[float, float]:
    """Return the (low, high) bounds of the mean of which `count` events are one draw.

    `poisson(k, z)[0] > m` is the test of "more than m", one-sided.
    """
    above = count + 1.0
    high = above * (1.0 - 1.0 / (9.0 * above) + z / (3.0 * math.sqrt(above))) ** 3
    if count <= 0:
        return 0.0, high
    low = 1.0 - 1.0 / (9.0 * count) - z / (3.0 * math.sqrt(count))
    return count * max(low, 0.0) ** 3, high
