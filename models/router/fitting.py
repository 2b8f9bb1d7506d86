"""From experience to a checkpoint: trained weights, and what was seen, what it cost, how sure to be.

Invariant: a function of experience, parent and seed. Confidence is calibrated on sessions that its weights did
not learn from.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from ruvllm.models.router.arms import Arms
from ruvllm.models.router.checkpoint import Checkpoint
from ruvllm.models.router.elastic import Elastic
from ruvllm.models.router.experience import Experience
from ruvllm.models.router.fastgrnn import HIDDEN, Parameters
from ruvllm.models.router.training import LEARNT, Schedule, logits, step, train

Float32s = NDArray[np.float32]

HELD_OUT: Final = 5
"""Every so many-th session is left out to calibrate."""
LEAST_TRIED: Final = (10, 30, 30, 30)
"""By head. A choice that was taken less often is not the router's to take: exploration may. Settings matter less than
tiers, and whatever departs from what is usual has few answers in the log to be valued by."""
_FLOOR: Final = 0.05


def fit_checkpoint(
    experience: Experience,
    parent: Checkpoint,
    *,
    seed: int,
    schedule: Schedule | None = None,
    elastic: Elastic | None = None,
) -> Checkpoint:
    """A child of `parent`, for the same arms. Raises InvalidRequest where nothing is known of any answer."""
    arms = parent.arms
    held = experience.session % HELD_OUT == HELD_OUT - 1
    calibration = np.array([1.0, 0.0], np.float32)
    if held.any() and experience.rows(~held).tried.any() and experience.rows(held).tried.any():
        trial = train(experience.rows(~held), arms, parent.parameters, seed=seed, schedule=schedule, elastic=elastic)
        calibration = _calibration(experience.rows(held), trial, arms)
    learnt = train(experience, arms, parent.parameters, seed=seed, schedule=schedule, elastic=elastic)
    centre, spread = experience.features.mean(0), np.maximum(experience.features.std(0), _FLOOR)
    deviations = (((experience.features - centre) / spread) ** 2).mean(1)
    parameters = replace(
        parent.parameters,
        **learnt,
        tried=_tried_often(experience, arms).astype(np.float32),
        costs=_costs(experience, parent),
        centre=centre,
        spread=spread,
        reach=np.array(np.quantile(deviations, 0.95), np.float32),
        calibration=calibration,
    )
    return Checkpoint(arms, parameters, parent=parent.id)


def estimates(parameters: Parameters, features: Float32s, session: NDArray[np.int64]) -> Float32s:
    """(n, 128) -> (n, choices of all heads): logits, the hidden state running along each session."""
    p = {name: torch.from_numpy(np.array(getattr(parameters, name))) for name in LEARNT}
    return _logits(p, features, session)


def _logits(p: dict[str, torch.Tensor], features: Float32s, session: NDArray[np.int64]) -> Float32s:
    turn = _turns(session)
    hidden = torch.zeros(int(session.max()) + 1 if len(session) else 0, HIDDEN)
    given, of = torch.from_numpy(np.array(features)), torch.from_numpy(session)
    found = np.zeros((len(features), len(p["head_bias"])), np.float32)
    with torch.no_grad():
        for n in range(int(turn.max()) + 1 if len(turn) else 0):
            rows = np.flatnonzero(turn == n)
            after = step(p, given[rows], hidden[of[rows]])
            hidden[of[rows]] = after
            found[rows] = logits(p, given[rows], after).numpy()
    return found


def _turns(session: NDArray[np.int64]) -> NDArray[np.int64]:
    """(n,): how many rows of its session come before each."""
    order = np.argsort(session, kind="stable")
    starts = np.flatnonzero(np.diff(session[order], prepend=-1))
    lengths = np.diff(np.append(starts, len(session)))
    turn = np.empty(len(session), np.int64)
    turn[order] = np.arange(len(session)) - np.repeat(starts, lengths)
    return turn


def _calibration(held: Experience, learnt: dict[str, Float32s], arms: Arms) -> Float32s:
    """Slope and intercept of the logit that fit what came of the answers (Platt 1999), by Newton's method."""
    p = {name: torch.from_numpy(value) for name, value in learnt.items()}
    scores = _logits(p, held.features, _from_zero(held.session))
    tiers = len(arms.tiers)
    taken = np.zeros(len(held), np.float32)
    first = tiers
    for head, choices in enumerate(list(arms.by_head.values())[1:]):
        place = held.settings[:, head]
        taken += np.where(place >= 0, scores[np.arange(len(held)), np.maximum(place, 0) + first], 0.0)
        first += len(choices)
    logit = (scores[:, :tiers] + taken[:, None])[held.tried].astype(np.float64)
    quality = held.quality[held.tried].astype(np.float64)
    design = np.stack((logit, np.ones_like(logit)), axis=1)
    found = np.array([1.0, 0.0])
    for _ in range(25):
        expected = 1.0 / (1.0 + np.exp(-design @ found))
        weight = expected * (1.0 - expected)
        pull = np.array([1.0, 1.0]) * (found - [1.0, 0.0])  # a weak prior: few answers move it little
        hessian = (design * weight[:, None]).T @ design + np.eye(2)
        found = found - np.linalg.solve(hessian, design.T @ (expected - quality) + pull)
    return found.astype(np.float32)


def _tried_often(experience: Experience, arms: Arms) -> NDArray[np.bool_]:
    """For each choice of all heads."""
    tried = [experience.tried.sum(0)]
    tried += [
        np.bincount(places[places >= 0], minlength=len(choices))
        for places, choices in zip(experience.settings.T, list(arms.by_head.values())[1:], strict=True)
    ]
    often = [counts >= min(least, len(experience)) for counts, least in zip(tried, LEAST_TRIED, strict=True)]
    return np.concatenate(often)


def _costs(experience: Experience, parent: Checkpoint) -> Float32s:
    """(tiers, context sizes) over the dearest: means of what was paid; where nothing was, the parent's, to scale."""
    before = parent.parameters.costs.astype(np.float64)
    paid, count = np.zeros(before.shape), np.zeros(before.shape)
    known = ~np.isnan(experience.cost)
    for row, tier in zip(*np.nonzero(known), strict=True):
        if (context := experience.settings[row, 0]) >= 0:
            paid[tier, context] += experience.cost[row, tier]
            count[tier, context] += 1
    if not count.any():
        return parent.parameters.costs
    seen = count > 0
    means = paid / np.maximum(count, 1)
    scale = means[seen].sum() / max(before[seen].sum(), 1e-12)
    found = np.where(seen, means, before * scale)
    return np.asarray(found / found.max(), np.float32)


def _from_zero(session: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.unique(session, return_inverse=True)[1].astype(np.int64)
