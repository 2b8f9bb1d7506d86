"""The ranker: multi-head attention of each candidate over the candidates it hangs together with.

    z = LayerNorm(h);  a_ij = softmax_j( q_i . k_j / sqrt(d) + b . e_ij );  v_ij = v_j + V e_ij
    h = h + O concat_heads( sum_j a_ij v_ij );  h = h + FeedForward(LayerNorm(h))       (per layer)
    score_i = u . h_i + w . x_i

Attention over a graph with edge features in bias and value: Velickovic et al. 2018, equations 1 to 6,
with the edge terms of Dwivedi & Bresson 2021, equations 8 to 12; pre-norm residual blocks.

Features go in as they are, between 0 and 1 or near it: brought to mean 0 and variance 1, the rare ones
(a title in the question) would shout, and the ranker learns by heart (docs/retrieval.md).

`u` starts at zero and `w` at the hybrid score: an untrained ranker ranks as no ranker would. Served in
numpy; `training` has the same forward in torch, equal within 1e-5.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

import numpy as np
from numpy.typing import NDArray

from ruvllm.errors import InvalidConfiguration
from ruvllm.models.attention.candidate_graph import HYBRID, NODE_FEATURES, PAIR_FEATURES, RELATIONS, CandidateGraph

Float32s = NDArray[np.float32]
EPSILON = 1e-5
HYBRID_SCALE = 10.0
"""A hybrid score times this is a logit where nothing is learnt: 0.1 apart is e-fold."""
INITIAL_SCALE = 2.0
"""The same before training: enough for the order, little enough to be unlearnt."""


@dataclass(frozen=True)
class Shape:
    """Sizes of a ranker: `hidden` is split among `heads`."""

    hidden: int = 32
    heads: int = 4
    layers: int = 2
    nodes: int = len(NODE_FEATURES)
    pairs: int = len(PAIR_FEATURES)

    def __post_init__(self) -> None:
        if self.hidden % self.heads:
            raise InvalidConfiguration(f"{self.heads} heads do not divide a hidden size of {self.hidden}")


Parameters = Mapping[str, Float32s]
"""Name -> array, as `shapes_of` lists them."""


def shapes_of(shape: Shape) -> dict[str, tuple[int, ...]]:
    """Every parameter of a ranker of these sizes; matrices are (in, out)."""
    h = shape.hidden
    sizes: dict[str, tuple[int, ...]] = {"in.w": (shape.nodes, h), "in.b": (h,)}
    for n in range(shape.layers):
        for name in ("q", "k", "v", "o"):
            sizes |= {f"{n}.{name}.w": (h, h), f"{n}.{name}.b": (h,)}
        sizes |= {f"{n}.bias.w": (shape.pairs, shape.heads), f"{n}.value.w": (shape.pairs, h)}
        sizes |= {f"{n}.norm1.g": (h,), f"{n}.norm1.b": (h,), f"{n}.norm2.g": (h,), f"{n}.norm2.b": (h,)}
        sizes |= {f"{n}.up.w": (h, 2 * h), f"{n}.up.b": (2 * h,), f"{n}.down.w": (2 * h, h), f"{n}.down.b": (h,)}
    return sizes | {"out.w": (h,), "skip.w": (shape.nodes,)}


def initial(shape: Shape, seed: int) -> dict[str, Float32s]:
    """Parameters that rank by the hybrid score; what may learn is drawn uniformly (LeCun 1998, by fan-in)."""
    generator = np.random.default_rng(seed)
    parameters: dict[str, Float32s] = {}
    for name, size in shapes_of(shape).items():
        if name.endswith(".g"):
            parameters[name] = np.ones(size, np.float32)
        elif name.endswith(".w") and len(size) == 2:
            bound = 1.0 / np.sqrt(size[0])
            parameters[name] = generator.uniform(-bound, bound, size).astype(np.float32)
        else:
            parameters[name] = np.zeros(size, np.float32)
    parameters["skip.w"][HYBRID] = INITIAL_SCALE
    return parameters


class GraphAttention:
    """A ranker with fixed parameters."""

    def __init__(self, parameters: Parameters, shape: Shape | None = None) -> None:
        """Raises InvalidConfiguration if a parameter is missing or has another shape."""
        self.shape = shape or Shape()
        for name, size in shapes_of(self.shape).items():
            if name not in parameters or parameters[name].shape != size:
                found = parameters[name].shape if name in parameters else "none"
                raise InvalidConfiguration(f"ranker parameter {name} should have shape {size}, found {found}")
        self.parameters = {name: np.ascontiguousarray(parameters[name], np.float32) for name in shapes_of(self.shape)}
        self._layers = [_Layer(self.parameters, n, self.shape) for n in range(self.shape.layers)]

    def score(self, graph: CandidateGraph) -> Float32s:
        """(m,) float32: a logit for each candidate; the greater, the better."""
        return self._run(graph)[0]

    def attention(self, graph: CandidateGraph) -> list[Float32s]:
        """For each layer (m, s, heads): how much each candidate looks at each neighbour; sums to 1 over s."""
        return self._run(graph)[1]

    def hidden(self, graph: CandidateGraph) -> Float32s:
        """(m, hidden) float32: what the last layer makes of each candidate."""
        return self._run(graph)[2]

    def get_edge_bias_weights(self) -> dict[str, float]:
        """Relation -> what one full edge of it adds to an attention logit, mean over layers and heads."""
        biases = [self.parameters[f"{n}.bias.w"] for n in range(self.shape.layers)]
        mean = np.mean([bias.mean(axis=1) for bias in biases], axis=0)
        return {relation: float(mean[PAIR_FEATURES.index(relation)]) for relation in RELATIONS}

    def _run(self, graph: CandidateGraph) -> tuple[Float32s, list[Float32s], Float32s]:
        p = self.parameters
        h = np.asarray(graph.nodes @ p["in.w"] + p["in.b"], np.float32)
        unknown = np.where(graph.neighbours < 0, np.float32(-1e9), np.float32(0))[:, None, :]
        seen: list[Float32s] = []
        for layer in self._layers:
            step, weights = layer.attend(h, graph.pairs, graph.neighbours, unknown)
            h = h + step
            h = h + layer.feed_forward(h)
            seen.append(weights.transpose(0, 2, 1))
        return cast("Float32s", h @ p["out.w"] + graph.nodes @ p["skip.w"]), seen, h


class _Layer:
    """One layer for serving: what is linear one after the other is multiplied together beforehand.

    The gains of a norm go into the matrix behind it, 1 / sqrt(d) into the queries, each head's share of O
    into its V.
    """

    def __init__(self, p: Parameters, n: int, shape: Shape) -> None:
        self._heads, self._hidden = shape.heads, shape.hidden
        self._size = size = shape.hidden // shape.heads
        query = np.float32(size**-0.5)
        parts = [(p[f"{n}.{name}.w"] * by, p[f"{n}.{name}.b"] * by) for name, by in (("q", query), ("k", 1), ("v", 1))]
        w, b = (np.concatenate(part, axis=-1) for part in zip(*parts, strict=True))
        self._qkv_w, self._qkv_b = _behind_norm(p, f"{n}.norm1", w, b)
        self._up_w, self._up_b = _behind_norm(p, f"{n}.norm2", p[f"{n}.up.w"], p[f"{n}.up.b"])
        self._bias_w = p[f"{n}.bias.w"]
        self._o_w, self._o_b = p[f"{n}.o.w"], p[f"{n}.o.b"]
        of_head = [p[f"{n}.value.w"][:, i : i + size] @ self._o_w[i : i + size] for i in range(0, shape.hidden, size)]
        self._edges_w = np.concatenate(of_head)  # (heads x e, hidden)
        self._down_w, self._down_b = p[f"{n}.down.w"], p[f"{n}.down.b"]

    def attend(
        self, h: Float32s, pairs: Float32s, neighbours: NDArray[np.int16], unknown: Float32s
    ) -> tuple[Float32s, Float32s]:
        """What the layer adds (m, hidden), and its weights (m, heads, s)."""
        count, width, of_pair = pairs.shape
        qkv = _normal(h) @ self._qkv_w + self._qkv_b
        q = qkv[:, : self._hidden].reshape(count, self._heads, self._size)
        k, v = np.moveaxis(qkv[:, self._hidden :][neighbours].reshape(count, width, 2, self._heads, self._size), 2, 0)
        bias = (pairs.reshape(-1, of_pair) @ self._bias_w).reshape(count, width, self._heads)
        weights = softmax(np.einsum("mhd,mshd->mhs", q, k) + bias.transpose(0, 2, 1) + unknown, axis=2)
        mixed = np.einsum("mhs,mshd->mhd", weights, v).reshape(count, self._hidden) @ self._o_w
        edges = (weights @ pairs).reshape(count, self._heads * of_pair) @ self._edges_w
        return mixed + edges + self._o_b, weights

    def feed_forward(self, h: Float32s) -> Float32s:
        """What the second block adds (m, hidden)."""
        return cast("Float32s", silu(_normal(h) @ self._up_w + self._up_b) @ self._down_w + self._down_b)


def _behind_norm(p: Parameters, norm: str, w: Float32s, b: Float32s) -> tuple[Float32s, Float32s]:
    return p[f"{norm}.g"][:, None] * w, p[f"{norm}.b"] @ w + b


def softmax(logits: Float32s, axis: int) -> Float32s:
    """exp(x - max) / sum, along an axis."""
    shifted = np.exp(logits - np.maximum.reduce(logits, axis, keepdims=True))
    return cast("Float32s", shifted / np.add.reduce(shifted, axis, keepdims=True))


def layer_norm(x: Float32s, gain: Float32s, bias: Float32s) -> Float32s:
    """Rows to mean 0 and variance 1, then gain and bias (Ba et al. 2016, equation 4)."""
    return cast("Float32s", _normal(x) * gain + bias)


def _normal(x: Float32s) -> Float32s:
    share = np.float32(1 / x.shape[-1])
    centred = x - np.add.reduce(x, -1, keepdims=True) * share
    variance = np.add.reduce(centred * centred, -1, keepdims=True) * share
    return cast("Float32s", centred / np.sqrt(variance + np.float32(EPSILON)))


def silu(x: Float32s) -> Float32s:
    """x * sigmoid(x) (Elfwing et al. 2018)."""
    return cast("Float32s", x / (1.0 + np.exp(-x)))
