"""Candidate graphs and ranker parameters as bytes: what travels in the log.

A graph of 40 candidates takes 4 to 8 kB: float16 (features lie near 0..1), then zlib; most pairs are zeros.
Parameters are exact: the same ones give the same bytes, and so the same name.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from ruvllm.errors import InvalidRequest
from ruvllm.models.attention.candidate_graph import NODE_FEATURES, PAIR_FEATURES, CandidateGraph
from ruvllm.models.attention.graph_attention import Parameters, Shape, shapes_of

Float32s = NDArray[np.float32]
_GRAPH = struct.Struct("<BBBHH")  # version, node features, pair features, candidates, neighbours of each
_GRAPH_VERSION = 1
_SHAPE = struct.Struct("<BHBB")  # version, hidden, heads, layers
_SHAPE_VERSION = 1


def pack_graph(graph: CandidateGraph) -> bytes:
    count, width = graph.neighbours.shape
    head = _GRAPH.pack(_GRAPH_VERSION, len(NODE_FEATURES), len(PAIR_FEATURES), count, width)
    parts = (graph.nodes.astype("<f2"), graph.neighbours.astype("<i2"), graph.pairs.astype("<f2"))
    return head + zlib.compress(b"".join(part.tobytes() for part in parts), 1)


def is_of_these_features(packed: bytes) -> bool:
    """Whether bytes begin as a graph of these features does. Cheap: nothing is unpacked."""
    try:
        head = _GRAPH.unpack_from(packed)
    except struct.error:
        return False
    return bool(head[:3] == (_GRAPH_VERSION, len(NODE_FEATURES), len(PAIR_FEATURES)))


def unpack_graph(raw: bytes) -> CandidateGraph:
    """Raises InvalidRequest for bytes that are not a graph of these features: it teaches this ranker nothing."""
    try:
        version, nodes, pairs, count, width = _GRAPH.unpack_from(raw)
        body = zlib.decompress(raw[_GRAPH.size :])
    except (struct.error, zlib.error) as error:
        raise InvalidRequest(f"not a candidate graph: {error}") from error
    if (version, nodes, pairs) != (_GRAPH_VERSION, len(NODE_FEATURES), len(PAIR_FEATURES)):
        raise InvalidRequest(f"a candidate graph of version {version} with {nodes} and {pairs} features")
    sizes = (2 * count * nodes, 2 * count * width, 2 * count * width * pairs)
    if len(body) != sum(sizes):
        raise InvalidRequest(f"a candidate graph of {len(body)} bytes, not {sum(sizes)}")
    first, second = sizes[0], sizes[0] + sizes[1]
    return CandidateGraph(
        np.frombuffer(body[:first], "<f2").reshape(count, nodes).astype(np.float32),
        np.frombuffer(body[first:second], "<i2").reshape(count, width).astype(np.int16),
        np.frombuffer(body[second:], "<f2").reshape(count, width, pairs).astype(np.float32),
    )


def pack_parameters(parameters: Parameters, shape: Shape) -> bytes:
    head = _SHAPE.pack(_SHAPE_VERSION, shape.hidden, shape.heads, shape.layers)
    return head + b"".join(parameters[name].astype("<f4").tobytes() for name in sorted(shapes_of(shape)))


def unpack_parameters(raw: bytes) -> tuple[Mapping[str, Float32s], Shape]:
    """Raises InvalidRequest for bytes that are not a ranker of these features."""
    try:
        version, hidden, heads, layers = _SHAPE.unpack_from(raw)
    except struct.error as error:
        raise InvalidRequest(f"not a ranker: {error}") from error
    if version != _SHAPE_VERSION or not heads or hidden % heads:
        raise InvalidRequest(f"a ranker of version {version} with {heads} heads for a hidden size of {hidden}")
    shape = Shape(hidden, heads, layers)
    sizes = shapes_of(shape)
    wanted = _SHAPE.size + 4 * sum(int(np.prod(size)) for size in sizes.values())
    if len(raw) != wanted:
        raise InvalidRequest(f"a ranker of {len(raw)} bytes, not {wanted}")
    parameters: dict[str, Float32s] = {}
    at = _SHAPE.size
    for name in sorted(sizes):
        count = int(np.prod(sizes[name]))
        parameters[name] = np.frombuffer(raw, "<f4", count, at).reshape(sizes[name])
        at += 4 * count
    return parameters, shape
