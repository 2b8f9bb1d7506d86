"""The FastGRNN cell: a gated recurrence with one W and one U, stepped in numpy.

It knows shapes and arithmetic, no arms, no files and no training; `checkpoint.py` gives it weights
and a meaning. One step takes about 12 µs at 128 -> 64, most of it numpy's cost of a call.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

Float32s = NDArray[np.float32]

HIDDEN: Final = 64
RANK: Final = 16


@dataclass(frozen=True, eq=False)
class Parameters:
    """All that is learned, float32. n is the number of choices of all heads together, tiers those of the first.

    One W and one U serve gate and candidate; U = u1 @ u2.T has low rank. W may hold zeros
    (iterative hard thresholding): it is stored and multiplied dense, because at 64 x 128 a dense
    product takes 1.7 µs and compressed rows 2.9 µs at 5 % and 5.7 µs at 20 % of the entries.
    """

    w: Float32s
    """(64, 128)"""
    u1: Float32s
    """(64, 16)"""
    u2: Float32s
    """(64, 16)"""
    b_z: Float32s
    """(64,) bias of the gate"""
    b_h: Float32s
    """(64,) bias of the candidate"""
    zeta: Float32s
    """() before its sigmoid"""
    nu: Float32s
    """() before its sigmoid"""
    heads: Float32s
    """(n, 64), rows in the order of the arms' heads: what each choice adds to the logit of quality"""
    head_bias: Float32s
    """(n,)"""
    tried: Float32s
    """(n,) 1 for a choice that was tried often enough to be taken, else 0"""
    past: Float32s
    """(tiers, 10): what the past qualities add to a tier's logit; even odds in the past are even odds here"""
    latency: Float32s
    """(tiers, 64): of the natural logarithm of seconds"""
    latency_bias: Float32s
    """(tiers,)"""
    costs: Float32s
    """(tiers, context sizes): mean cost of an answer over the dearest one's"""
    centre: Float32s
    """(128,) mean of the features that it was trained on"""
    spread: Float32s
    """(128,) their standard deviation, floored"""
    reach: Float32s
    """() mean squared deviation of the farthest twentieth of them; 0: it has seen nothing"""
    calibration: Float32s
    """(2,) slope and intercept of confidence over the chosen action's logit (Platt 1999)"""

    @property
    def density(self) -> float:
        """Share of W's entries that are not zero."""
        return float(np.count_nonzero(self.w)) / self.w.size


class Cell:
    """h' = (s(zeta)(1 - z) + s(nu)) * h~ + z * h, with z = s(Wx + Uh + b_z), h~ = tanh(Wx + Uh + b_h).

    Kusupati et al. 2018 (arXiv 1901.02358), section 3, FastGRNN; s is the sigmoid, * by element.
    Holds what can be computed once from the parameters. It keeps no buffer between calls, so that
    any number of sessions may call it at the same time.
    """

    def __init__(self, parameters: Parameters) -> None:
        self._w = parameters.w
        self._u1 = parameters.u1
        self._u2_t = np.ascontiguousarray(parameters.u2.T)
        # s(a) = (1 + tanh(a / 2)) / 2: gate and candidate come out of one tanh over (2, 64).
        self._scale = np.array([[0.5], [1.0]], dtype=np.float32)
        self._bias = np.stack([parameters.b_z, parameters.b_h]) * self._scale
        self._zeta = np.float32(sigmoid(float(parameters.zeta)))
        self._zeta_nu = np.float32(sigmoid(float(parameters.zeta)) + sigmoid(float(parameters.nu)))

    def step(self, features: Float32s, hidden: Float32s) -> Float32s:
        """(128,), (64,) float32 -> the next hidden state, (64,) float32. Changes neither argument."""
        shared = self._w.dot(features)
        shared += self._u1.dot(self._u2_t.dot(hidden))
        both = shared * self._scale
        both += self._bias
        np.tanh(both, out=both)
        gate, candidate = both[0], both[1]
        gate += 1
        gate *= np.float32(0.5)
        after: Float32s = self._zeta_nu - self._zeta * gate  # s(zeta)(1 - z) + s(nu)
        after *= candidate
        after += gate * hidden
        return after


def sigmoid(logit: float) -> float:
    """1 / (1 + exp(-a)), without overflow for any finite a."""
    return 0.5 * (1.0 + math.tanh(0.5 * logit))
