"""What anything that routes by estimated quality looks like: it learns from answers and predicts those to come.

Invariant: a prediction is a function of what was learnt so far and of the questions; predicting changes nothing.
FastGRNN and the baselines stand behind the same two calls, and one set of checks runs over all of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Float32s = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Questions:
    """n questions: `features` (n, 128) as `features.py` has them with nothing of the past, `vectors` (n, 384),
    `domains` (n,) of str: a name of the subject, which only baselines that are told it may read.

    `sessions` (n,) of int: rows of one session follow each other in the order in which they were asked.
    """

    features: Float32s
    vectors: Float32s
    domains: NDArray[np.str_]
    sessions: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.features)

    def rows(self, index: NDArray[np.int64] | slice) -> Questions:
        """Some of them, in that order."""
        return Questions(self.features[index], self.vectors[index], self.domains[index], self.sessions[index])


class Learner(Protocol):
    """Routes among `tiers`, ordered by cost. A seed that it was made with is all the randomness it has."""

    name: str

    def learn(self, questions: Questions, qualities: Float32s) -> None:
        """Take in answers: (n, tiers), 0 to 1, nan where a tier was not asked. Later calls add to earlier ones."""

    def predict(self, questions: Questions) -> Float32s:
        """(n, tiers): the quality to expect, 0 to 1. Before anything was learnt: the same for all."""
