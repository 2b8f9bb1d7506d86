"""The ranker: multi-head attention of each candidate over the candidates it hangs together with.

    z = LayerNorm(h);  a_ij = softmax_j( q_i . k_j / sqrt(d) + b . e_ij );  v_ij = v_j + V e_ij
    h = h + O concat_heads( sum_j a_ij v_ij );  h = h + FeedForward(LayerNorm(h))       (per layer)
    score_i = u . h_i + w . x_i

Attention over a graph with edge features in bias and value: Velickovic et al. 2018, equations 1 to 6,
with the edge terms of Dwivedi & Bresson 2021, equations 8 to 12; pre-norm residual blocks.

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
"""A hybrid score times this is a logit at the start: 0.1 apart is e-fold."""


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
    sizes: dict[str, tuple[int, ...]] = {"mean": (shape.nodes,), "scale": (shape.nodes,)}
    sizes |= {"in.w": (shape.nodes, h), "in.b": (h,)}
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
        if name.endswith(".g") or name == "scale":
            parameters[name] = np.ones(size, np.float32)
        elif name.endswith(".w") and len(size) == 2:
            bound = 1.0 / np.sqrt(size[0])
            parameters[name] = generator.uniform(-bound, bound, size).astype(np.float32)
        else:
            parameters[name] = np.zeros(size, np.float32)
    parameters["skip.w"][HYBRID] = HYBRID_SCALE
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
        x = (graph.nodes - p["mean"]) / p["scale"]
        h = np.asarray(x @ p["in.w"] + p["in.b"], np.float32)
        known = graph.neighbours >= 0
        neighbours = np.maximum(graph.neighbours, 0)
        seen: list[Float32s] = []
        for layer in range(self.shape.layers):
            step, weights = self._attend(layer, h, graph.pairs, neighbours, known)
            h = h + step
            h = h + self._feed_forward(layer, h)
            seen.append(weights)
        return cast("Float32s", h @ p["out.w"] + graph.nodes @ p["skip.w"]), seen, h

    def _attend(
        self,
        layer: int,
        h: Float32s,
        pairs: Float32s,
        neighbours: NDArray[np.int16],
        known: NDArray[np.bool_],
    ) -> tuple[Float32s, Float32s]:
        p, heads = self.parameters, self.shape.heads
        count, width = neighbours.shape
        size = self.shape.hidden // heads
        z = layer_norm(h, p[f"{layer}.norm1.g"], p[f"{layer}.norm1.b"])
        q, k, v = (z @ p[f"{layer}.{name}.w"] + p[f"{layer}.{name}.b"] for name in "qkv")
        q = q.reshape(count, 1, heads, size)
        k = k[neighbours].reshape(count, width, heads, size)
        logits = (q * k).sum(-1) / np.float32(np.sqrt(size)) + pairs @ p[f"{layer}.bias.w"]
        weights = softmax(np.where(known[:, :, None], logits, np.float32(-1e9)), axis=1)
        values = (v[neighbours] + pairs @ p[f"{layer}.value.w"]).reshape(count, width, heads, size)
        mixed = (weights[..., None] * values).sum(1).reshape(count, self.shape.hidden)
        return mixed @ p[f"{layer}.o.w"] + p[f"{layer}.o.b"], weights

    def _feed_forward(self, layer: int, h: Float32s) -> Float32s:
        p = self.parameters
        z = layer_norm(h, p[f"{layer}.norm2.g"], p[f"{layer}.norm2.b"])
        up = z @ p[f"{layer}.up.w"] + p[f"{layer}.up.b"]
        return cast("Float32s", silu(up) @ p[f"{layer}.down.w"] + p[f"{layer}.down.b"])


def softmax(logits: Float32s, axis: int) -> Float32s:
    """exp(x - max) / sum, along an axis."""
    shifted = np.exp(logits - logits.max(axis=axis, keepdims=True))
    return cast("Float32s", shifted / shifted.sum(axis=axis, keepdims=True))


def layer_norm(x: Float32s, gain: Float32s, bias: Float32s) -> Float32s:
    """Rows to mean 0 and variance 1, then gain and bias (Ba et al. 2016, equation 4)."""
    centred = x - x.mean(axis=-1, keepdims=True)
    variance = (centred * centred).mean(axis=-1, keepdims=True)
    return cast("Float32s", centred / np.sqrt(variance + np.float32(EPSILON)) * gain + bias)


def silu(x: Float32s) -> Float32s:
    """x * sigmoid(x) (Elfwing et al. 2018)."""
    return cast("Float32s", x / (1.0 + np.exp(-x)))
