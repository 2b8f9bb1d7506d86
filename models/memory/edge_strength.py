"""How strong an edge is: a strength s that adds up and decays, seen as a weight w in [0, 1).

Strengths add, so the order in which they arrive does not matter; the weight is only ever read.

    w(s)    = 1 - exp(-max(s, 0))           weight
    s(w)    = -ln(1 - w)                    its inverse, for the weight at birth
    s(t)    = s0 * 2^(-(t - t0) / h)        half-life decay, h in seconds

DESIGN section 5 is the source of all three. Only what was learnt decays (`half_life`).

What was learnt is a sum over judged outcomes, and so it may come in any order and be taken back:

    s_c(t)  = sum_i a_i * 2^(-(t - t_i)/h)          over the outcomes i of client c, t_i: event time
    e_c(t)  = sum_i |a_i| * 2^(-(t - t_i)/h)        its evidence
    s(t)    = s0(t) + sum_c s_c(t) * min(1, B / e_c(t))

Each client has evidence of B to give an edge. Who is heard more often than that has its say as it is on
average: |s_c| <= e_c, so no client moves an edge by more than B, and its next word still counts.
"""

from __future__ import annotations

import math

from ruvllm.errors import InvalidRequest

DEFAULT_BIRTH_WEIGHT = 0.5
CLIENT_BOUND = 2 * math.log(2)
"""B: twice the strength of an edge at birth."""
NO_STRENGTH = 1e-9
"""What rounding may leave of a sum that was taken back."""
MOST_HALVINGS = 500.0
LEAST_WEIGHT = 0.05
LEAST_OUTCOMES = 3
"""An edge that so many outcomes left under the least weight is hidden."""

STRUCTURAL = frozenset({"follows", "contains", "derived", "cites"})
"""Relations that a text states, or that were made with the node itself: as true in a year as today.

What was learnt from use (`co_retrieved`, `answered_by`, ...) has to be confirmed by use, and decays.
A structural edge ends when what states it is removed or changed.
"""


def weight(strength: float) -> float:
    """w = 1 - exp(-max(s, 0)): 0 for no or negative strength, towards 1 for much."""
    return -math.expm1(-max(strength, 0.0))


def strength_at_birth(birth_weight: float = DEFAULT_BIRTH_WEIGHT) -> float:
    """s = -ln(1 - w), the inverse of `weight`. Raises InvalidRequest unless 0 <= w < 1."""
    if not 0.0 <= birth_weight < 1.0:
        raise InvalidRequest(f"an edge's weight at birth lies in [0, 1), got {birth_weight}")
    return -math.log1p(-birth_weight)


def half_life(relation: str, learned_s: float) -> float:
    """Seconds until an edge of this relation has half of its strength: `learned_s`, infinite if structural."""
    return math.inf if relation in STRUCTURAL else learned_s


def decayed(strength: float, elapsed_s: float, half_life_s: float) -> float:
    """s * 2^(-elapsed / half-life). Time before birth (a clock that lags) counts as none."""
    return strength * math.exp2(-max(elapsed_s, 0.0) / half_life_s)


def counted(strength: float, evidence: float) -> float:
    """What a client's outcomes count, of their sum and their evidence at one time: at most B either way."""
    heard = max(evidence, abs(strength))  # a revision from before evidence was logged may leave less than the sum
    return strength if heard <= CLIENT_BOUND else strength * CLIENT_BOUND / heard


def moved(strength: float, from_s: float, to_s: float, half_life_s: float) -> float:
    """What a strength at one time is at another, later or earlier (at most `MOST_HALVINGS` half-lives earlier)."""
    return strength * math.exp2(min((from_s - to_s) / half_life_s, MOST_HALVINGS))
