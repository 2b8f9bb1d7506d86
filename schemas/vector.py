"""Vectors and bytes on the wire. Vectors: base64 of little-endian float32, a third of the size of JSON numbers."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np
import orjson
from numpy.typing import NDArray
from pydantic import ConfigDict, PlainSerializer, PlainValidator, TypeAdapter, WithJsonSchema

Float32s = NDArray[np.float32]


def encode_vector(vector: Float32s) -> str:
    """(n,) float32 -> base64 text of its little-endian bytes."""
    return base64.b64encode(np.ascontiguousarray(vector, dtype="<f4").tobytes()).decode("ascii")


def decode_vector(value: Any) -> Float32s:
    """Base64 text, or anything numpy can read as one dimension, -> read-only (n,) float32.

    An array that is this already is shared.
    """
    if isinstance(value, str):
        return _floats(base64.b64decode(value, validate=True))
    if isinstance(value, np.ndarray) and value.ndim == 1 and value.dtype == _WIRE and not value.flags.writeable:
        return value
    try:
        array = np.array(value, dtype=np.float32)
    except TypeError as error:  # an object among the numbers
        raise ValueError(f"not a vector: {error}") from error
    if array.ndim != 1:
        raise ValueError(f"a vector has one dimension, not {array.ndim}")
    array.flags.writeable = False
    return array


def decode_vectors(values: Sequence[Any]) -> list[Float32s] | None:
    """What `decode_vector` makes of each of n base64 texts, three times as quick; None if any is not of the plainest.

    pydantic's decoder of base64 is compiled and Python's is not quick; but it also reads another alphabet and
    texts without padding. What only it reads is left to `decode_vector`, which refuses it.
    """
    if not all(isinstance(value, str) and len(value) % 4 == 0 for value in values):
        return None
    try:
        written = orjson.dumps(values)
        return None if b"-" in written or b"_" in written else [_floats(raw) for raw in _BASE64.validate_json(written)]
    except ValueError:  # of orjson, pydantic or `_floats`
        return None


def _floats(raw: bytes) -> Float32s:
    if len(raw) % 4:
        raise ValueError(f"a vector of {len(raw)} bytes is not a whole number of float32")
    return np.frombuffer(raw, _WIRE)


_WIRE = np.dtype("<f4")
_BASE64 = TypeAdapter(list[bytes], config=ConfigDict(val_json_bytes="base64"))


def _decode_blob(value: Any) -> bytes:
    if isinstance(value, bytes):
        return value
    if not isinstance(value, str):
        raise ValueError("bytes travel as base64 text")
    return base64.b64decode(value, validate=True)


Blob = Annotated[
    bytes,
    PlainValidator(_decode_blob),
    PlainSerializer(lambda raw: base64.b64encode(raw).decode("ascii"), return_type=str),
    WithJsonSchema({"type": "string", "contentEncoding": "base64"}),
]
"""Bytes on the wire: base64."""

READS_VECTOR = PlainValidator(decode_vector)
"""By this a field of an event is known to be a vector."""

Vector = Annotated[
    Float32s,
    READS_VECTOR,
    PlainSerializer(encode_vector, return_type=str),
    WithJsonSchema({"type": "string", "contentEncoding": "base64", "description": "little-endian float32"}),
]
