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
    decay: float = 0.1
    dropout: float = 0.2


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
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _descend(start, data, shape, schedule, seed)


def _descend(start: Parameters, data: _Batch, shape: Shape, schedule: Schedule, seed: int) -> dict[str, Float32s]:
    p = {name: torch.tensor(value, requires_grad=True) for name, value in start.items()}
    count = len(data.nodes)
    steps = schedule.epochs * -(-count // schedule.batch)
    optimiser = torch.optim.AdamW(p.values(), lr=schedule.rate, weight_decay=schedule.decay, fused=True)
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
    count, most, _ = batch.neighbours.shape
    heads, size = shape.heads, shape.hidden // shape.heads
    at = batch.neighbours[:, None].expand(-1, heads, -1, -1)
    unknown = ~batch.known[:, None]
    nowhere = torch.zeros(count, heads, most, most)
    h = batch.nodes @ p["in.w"] + p["in.b"]
    for n in range(shape.layers):
        z = functional.layer_norm(h, (shape.hidden,), p[f"{n}.norm1.g"], p[f"{n}.norm1.b"], EPSILON)
        q, k, v = (
            (z @ p[f"{n}.{name}.w"] + p[f"{n}.{name}.b"]).view(count, most, heads, size).transpose(1, 2)
            for name in "qkv"
        )
        bias = (batch.pairs @ p[f"{n}.bias.w"]).permute(0, 3, 1, 2)
        logits = (q @ k.transpose(2, 3)).gather(3, at) / size**0.5 + bias
        weights = logits.masked_fill(unknown, -1e9).softmax(3)  # (b, heads, m, s)
        seen = weights.transpose(1, 2) @ batch.pairs  # (b, m, heads, e): the pairs, as each head weighs them
        edges = seen.transpose(1, 2) @ p[f"{n}.value.w"].view(-1, heads, size).transpose(0, 1)
        mixed = (nowhere.scatter_add(3, at, weights) @ v + edges).transpose(1, 2).reshape(count, most, shape.hidden)
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
