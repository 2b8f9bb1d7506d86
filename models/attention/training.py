"""How the ranker learns: listwise, from which candidates turned out to carry the answer.

    loss = - sum_i t_i log softmax(score)_i,   t: the target's shares of one question     (ListNet, Cao et al. 2007)

Questions without a target teach nothing. The forward is `graph_attention`'s, in torch.

Invariant: the same examples in the same order, parent and seed give the same parameters on the same
machine; nothing outside (global generators, thread count) is changed or read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from ruvllm.errors import InvalidRequest
from ruvllm.models.attention.candidate_graph import CandidateGraph
from ruvllm.models.attention.graph_attention import EPSILON, Parameters, Shape, initial

Float32s = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Example:
    """One judged question: `target` (m,) float32, not negative, what each candidate deserves of the credit."""

    graph: CandidateGraph
    target: Float32s


@dataclass(frozen=True)
class Schedule:
    """How long and how fast: AdamW under a one-cycle rate (Smith & Topin 2018)."""

    epochs: int = 12
    batch: int = 32
    rate: float = 3e-3
    decay: float = 1e-3
    dropout: float = 0.1


@dataclass(frozen=True, eq=False)
class _Batch:
    """Graphs padded to one size: nodes (b, m, d), neighbours and known (b, m, s), pairs (b, m, s, e), and targets."""

    nodes: Tensor
    there: Tensor
    neighbours: Tensor
    known: Tensor
    pairs: Tensor
    targets: Tensor

    def rows(self, index: Tensor) -> _Batch:
        return _Batch(*(getattr(self, name)[index] for name in self.__dataclass_fields__))


def train(
    examples: Sequence[Example], *, seed: int, shape: Shape | None = None, schedule: Schedule | None = None
) -> dict[str, Float32s]:
    """Parameters learnt from scratch. Raises InvalidRequest if no example has a target."""
    shape, schedule = shape or Shape(), schedule or Schedule()
    useful = [e for e in examples if len(e.graph) and float(e.target.sum()) > 0]
    if not useful:
        raise InvalidRequest("no question has a candidate known to carry its answer: nothing to learn from")
    data = _padded(useful)
    start = initial(shape, seed)
    nodes = np.concatenate([e.graph.nodes for e in useful])
    start["mean"], start["scale"] = nodes.mean(0), np.maximum(nodes.std(0), 1e-3)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _descend(start, data, shape, schedule, seed)


def _descend(start: Parameters, data: _Batch, shape: Shape, schedule: Schedule, seed: int) -> dict[str, Float32s]:
    fixed = {"mean", "scale"}
    p = {name: torch.tensor(value, requires_grad=name not in fixed) for name, value in start.items()}
    learnt = [value for name, value in p.items() if name not in fixed]
    count = len(data.nodes)
    steps = schedule.epochs * -(-count // schedule.batch)
    optimiser = torch.optim.AdamW(learnt, lr=schedule.rate, weight_decay=schedule.decay)
    rate = torch.optim.lr_scheduler.OneCycleLR(optimiser, schedule.rate, total_steps=steps)
    order = np.random.default_rng(seed)
    for _ in range(schedule.epochs):
        shuffled = torch.from_numpy(order.permutation(count))
        for index in torch.split(shuffled, schedule.batch):
            batch = data.rows(index)
            scores = forward(p, batch, shape, schedule.dropout).masked_fill(~batch.there, -1e9)
            loss = -(batch.targets * scores.log_softmax(1)).sum(1).mean()
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            rate.step()
    return {name: value.detach().numpy().copy() for name, value in p.items()}


def forward(p: dict[str, Tensor], batch: _Batch, shape: Shape, dropout: float = 0.0) -> Tensor:
    """(b, m) scores: `GraphAttention.score` of each graph, padding included."""
    count, most, width = batch.neighbours.shape
    size = shape.hidden // shape.heads
    graph = torch.arange(count)[:, None, None]
    h = ((batch.nodes - p["mean"]) / p["scale"]) @ p["in.w"] + p["in.b"]
    for n in range(shape.layers):
        z = functional.layer_norm(h, (shape.hidden,), p[f"{n}.norm1.g"], p[f"{n}.norm1.b"], EPSILON)
        q, k, v = (z @ p[f"{n}.{name}.w"] + p[f"{n}.{name}.b"] for name in "qkv")
        near = (count, most, width, shape.heads, size)
        q = q.view(count, most, 1, shape.heads, size)
        logits = (q * k[graph, batch.neighbours].view(near)).sum(-1) / size**0.5 + batch.pairs @ p[f"{n}.bias.w"]
        weights = logits.masked_fill(~batch.known[..., None], -1e9).softmax(2)
        values = (v[graph, batch.neighbours] + batch.pairs @ p[f"{n}.value.w"]).view(near)
        mixed = (weights[..., None] * values).sum(2).reshape(count, most, shape.hidden)
        h = h + functional.dropout(mixed @ p[f"{n}.o.w"] + p[f"{n}.o.b"], dropout, dropout > 0)
        z = functional.layer_norm(h, (shape.hidden,), p[f"{n}.norm2.g"], p[f"{n}.norm2.b"], EPSILON)
        step = functional.silu(z @ p[f"{n}.up.w"] + p[f"{n}.up.b"]) @ p[f"{n}.down.w"] + p[f"{n}.down.b"]
        h = h + functional.dropout(step, dropout, dropout > 0)
    scores: Tensor = h @ p["out.w"] + batch.nodes @ p["skip.w"]
    return scores


def _padded(examples: Sequence[Example]) -> _Batch:
    most = max(len(e.graph) for e in examples)
    width = max(e.graph.neighbours.shape[1] for e in examples)
    count, d, e_size = len(examples), examples[0].graph.nodes.shape[1], examples[0].graph.pairs.shape[2]
    nodes = np.zeros((count, most, d), np.float32)
    there = np.zeros((count, most), bool)
    neighbours = np.full((count, most, width), -1, np.int64)
    neighbours[:, :, 0] = np.arange(most)  # padding looks at itself: its softmax stays finite
    pairs = np.zeros((count, most, width, e_size), np.float32)
    targets = np.zeros((count, most), np.float32)
    for row, example in enumerate(examples):
        m, s = example.graph.neighbours.shape
        nodes[row, :m], there[row, :m] = example.graph.nodes, True
        neighbours[row, :m, :s], pairs[row, :m, :s] = example.graph.neighbours, example.graph.pairs
        targets[row, :m] = example.target / example.target.sum()
    known = neighbours >= 0
    parts = (nodes, there, np.maximum(neighbours, 0), known, pairs, targets)
    return _Batch(*(torch.from_numpy(part) for part in parts))
