"""How the router learns: FastGRNN unrolled along sessions, one logistic loss for the quality of what was asked.

    loss = BCE(quality) + LATENCY * (ln seconds - estimate)^2 + weight decay towards the past as it is (+ EWC)

W is made sparse by iterative hard thresholding in three phases (Kusupati et al. 2018, section 3.2.1): dense, then
cut to the largest entries at every step, then trained on what is left. The forward is `checkpoint`'s, in torch.

Invariant: the same experience, start and seed give the same parameters on the same machine; no global generator
is read or changed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from ruvllm.errors import InvalidRequest
from ruvllm.models.router.arms import Arms
from ruvllm.models.router.elastic import Elastic
from ruvllm.models.router.experience import Experience
from ruvllm.models.router.fastgrnn import HIDDEN, Parameters
from ruvllm.models.router.features import PAST

LEARNT: Final = (
    *("w", "u1", "u2", "b_z", "b_h", "zeta", "nu"),
    *("heads", "head_bias", "past", "latency", "latency_bias"),
)
"""The parameters that gradients move. The others are statistics of what was learnt from."""
LATENCY: Final = 0.1
LONGEST_SESSION: Final = 16
"""Turns that gradients flow through; a longer session is learnt in pieces."""

Tensors = Mapping[str, Tensor]


@dataclass(frozen=True)
class Schedule:
    """How long and how fast: Adam under a one-cycle rate (Smith & Topin 2018); `density` of W after the cut.

    So many epochs, and more of them where they come to less than `steps`.
    """

    epochs: int = 20
    steps: int = 400
    batch: int = 64
    rate: float = 3e-3
    dropout: float = 0.3
    decay: float = 0.01
    decay_w: float = 0.001
    density: float = 0.5


@dataclass(frozen=True, eq=False)
class _Rows:
    features: Tensor
    quality: Tensor
    tried: Tensor
    log_s: Tensor
    timed: Tensor
    settings: Tensor


def train(
    experience: Experience,
    arms: Arms,
    start: Parameters,
    *,
    seed: int,
    schedule: Schedule | None = None,
    elastic: Elastic | None = None,
) -> dict[str, NDArray[np.float32]]:
    """The learnt parameters (`LEARNT`), from those of `start`. Raises InvalidRequest where no quality is known."""
    if not experience.tried.any():
        raise InvalidRequest("no answer has a known quality: there is nothing to learn a route from")
    schedule = schedule or Schedule()
    p = {name: torch.tensor(getattr(start, name)).requires_grad_() for name in LEARNT}
    origin = p["past"].detach().clone()
    rows, offsets = _tensors(experience), _offsets(arms)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        order = np.random.default_rng(seed)
        batches: list[NDArray[np.int64]] = []
        epoch = 0
        while epoch < schedule.epochs or len(batches) < schedule.steps:
            batches += _batches(experience.session, schedule.batch, order)
            epoch += 1
        steps = len(batches)
        optimiser = torch.optim.Adam(p.values(), lr=schedule.rate, fused=True)
        rate = torch.optim.lr_scheduler.OneCycleLR(optimiser, schedule.rate, total_steps=steps)
        kept: Tensor | None = None
        for place, batch in enumerate(batches):
            loss = _loss(p, rows, torch.from_numpy(batch), offsets, schedule.dropout)
            loss = loss + schedule.decay * (((p["past"] - origin) ** 2).sum() + (p["heads"] ** 2).sum())
            loss = loss + schedule.decay_w * (p["w"] ** 2).sum()
            if elastic is not None:
                loss = loss + elastic.penalty(p)
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            rate.step()
            with torch.no_grad():
                if steps <= 3 * place < 2 * steps:
                    kept = largest(p["w"], schedule.density)
                if kept is not None:
                    p["w"] *= kept
    return {name: value.detach().numpy().copy() for name, value in p.items()}


def largest(w: Tensor, density: float) -> Tensor:
    """1 where |w| is among the largest `density` of its entries, else 0: the hard threshold."""
    count = max(1, round(density * w.numel()))
    threshold = w.abs().flatten().kthvalue(w.numel() - count + 1).values
    return (w.abs() >= threshold).to(w.dtype)


def step(p: Tensors, features: Tensor, hidden: Tensor) -> Tensor:
    """(b, 128), (b, 64) -> (b, 64): `fastgrnn.Cell.step` in torch."""
    shared = features @ p["w"].T + (hidden @ p["u2"]) @ p["u1"].T
    gate = torch.sigmoid(shared + p["b_z"])
    candidate = torch.tanh(shared + p["b_h"])
    return (torch.sigmoid(p["zeta"]) * (1 - gate) + torch.sigmoid(p["nu"])) * candidate + gate * hidden


def logits(p: Tensors, features: Tensor, hidden: Tensor) -> Tensor:
    """(b, 128), (b, 64) after the step -> (b, n) in the order of the arms' heads."""
    tiers = len(p["past"])
    scores = hidden @ p["heads"].T + p["head_bias"]
    by_past = features[:, PAST] @ p["past"].T
    return torch.cat((scores[:, :tiers] + by_past, scores[:, tiers:]), dim=1)


def fisher(p: Tensors, experience: Experience, arms: Arms, *, seed: int, most: int = 256) -> dict[str, Tensor]:
    """Diagonal of the Fisher information, the mean over at most `most` sessions drawn with the seed.

    Exact, without drawn labels: a Bernoulli outcome of logit z adds s(z) (1 - s(z)) (dz/dtheta)^2. The mean square of
    the training gradients would not do: where the fit is good, they vanish (Kunstner et al. 2019).
    """
    rows, offsets = _tensors(experience), _offsets(arms)
    sessions = list(_sequences(experience.session))
    drawn = np.random.default_rng(seed).permutation(len(sessions))[:most]
    leaves = {name: value.detach().clone().requires_grad_() for name, value in p.items()}
    found = {name: torch.zeros_like(value) for name, value in leaves.items()}
    for place in drawn:
        turns = torch.from_numpy(sessions[place][None])
        for scores, _, turn in _unrolled(leaves, rows, turns, offsets, dropout=0.0):
            for z in scores[rows.tried[turn] > 0]:
                gradients = torch.autograd.grad(z, list(leaves.values()), retain_graph=True, allow_unused=True)
                told = torch.sigmoid(z.detach())
                for name, gradient in zip(leaves, gradients, strict=True):
                    if gradient is not None:
                        found[name] += told * (1 - told) * gradient**2 / len(drawn)
    return found


def _unrolled(
    p: Tensors, rows: _Rows, index: Tensor, offsets: tuple[int, ...], dropout: float
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Turn by turn of (b, turns) rows: logits of quality (b, tiers), estimates of ln seconds (b, tiers), the rows."""
    tiers = len(p["past"])
    hidden = torch.zeros(len(index), HIDDEN)
    for turn in index.T:
        hidden = step(p, rows.features[turn], hidden)
        scores = logits(p, rows.features[turn], functional.dropout(hidden, dropout, dropout > 0))
        taken = sum(_of(scores, rows.settings[turn, i], offset) for i, offset in enumerate(offsets))
        yield scores[:, :tiers] + taken, hidden @ p["latency"].T + p["latency_bias"], turn


def _loss(p: Tensors, rows: _Rows, index: Tensor, offsets: tuple[int, ...], dropout: float) -> Tensor:
    """Mean over the known outcomes of (b, turns) rows."""
    total, count = torch.zeros(()), 0.0
    for scores, seconds, turn in _unrolled(p, rows, index, offsets, dropout):
        known, timed = rows.tried[turn], rows.timed[turn]
        by_outcome = functional.binary_cross_entropy_with_logits(scores, rows.quality[turn], reduction="none")
        total = total + (by_outcome * known).sum() + LATENCY * (timed * (seconds - rows.log_s[turn]) ** 2).sum()
        count += float(known.sum())
    return total / max(count, 1.0)


def _of(scores: Tensor, place: Tensor, offset: int) -> Tensor:
    """(b, 1): the logit of the choice taken; 0 for a value that is no arm."""
    chosen = scores.gather(1, (place.clamp(min=0) + offset)[:, None])
    return torch.where(place[:, None] >= 0, chosen, torch.zeros(()))


def _tensors(experience: Experience) -> _Rows:
    timed = experience.latency_s > 0  # false for nan
    log_s = np.log(np.where(timed, experience.latency_s, 1.0))
    return _Rows(
        torch.from_numpy(np.array(experience.features)),
        torch.from_numpy(np.nan_to_num(experience.quality)),
        torch.from_numpy(experience.tried.astype(np.float32)),
        torch.from_numpy(log_s.astype(np.float32)),
        torch.from_numpy(timed.astype(np.float32)),
        torch.from_numpy(experience.settings),
    )


def _offsets(arms: Arms) -> tuple[int, ...]:
    """The first row of each head but the tiers'."""
    sizes = [len(choices) for choices in arms.by_head.values()]
    return tuple(int(n) for n in np.cumsum(sizes)[:-1])


def _sequences(session: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    """The rows of each session, cut where it is longer than `LONGEST_SESSION`."""
    order = np.argsort(session, kind="stable")
    starts = np.flatnonzero(np.diff(session[order], prepend=session[order][0] - 1))
    for rows in np.split(order, starts[1:]):
        for first in range(0, len(rows), LONGEST_SESSION):
            yield rows[first : first + LONGEST_SESSION]


def _batches(session: NDArray[np.int64], batch: int, order: np.random.Generator) -> Iterator[NDArray[np.int64]]:
    """(sequences, turns) each: sequences of one length, about `batch` rows, in random order."""
    by_length: dict[int, list[NDArray[np.int64]]] = {}
    for rows in _sequences(session):
        by_length.setdefault(len(rows), []).append(rows)
    found = []
    for length, sequences in by_length.items():
        table = np.array(sequences)[order.permutation(len(sequences))]
        found += np.array_split(table, -(-table.size // batch) if len(table) * length > batch else 1)
    for place in order.permutation(len(found)):
        yield found[place]
