"""How far what is expected of answers agrees with what comes of them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]


def expected_calibration_error(confidence: Floats, quality: Floats, bins: int = 10) -> float:
    """Mean distance of confidence and quality over equal bins, weighed by their size (Naeini et al. 2015)."""
    if not len(confidence):
        return 0.0
    place = np.minimum((confidence * bins).astype(int), bins - 1)
    gaps = [
        abs(float(confidence[place == b].mean()) - float(quality[place == b].mean())) * float((place == b).mean())
        for b in range(bins)
        if (place == b).any()
    ]
    return float(sum(gaps))
