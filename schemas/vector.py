"""Vectors and bytes on the wire. Vectors: base64 of little-endian float32, a third of the size of JSON numbers."""

from __future__ import annotations

import base64
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import PlainSerializer, PlainValidator, WithJsonSchema

Float32s = NDArray[np.float32]


def encode_vector(vector: Float32s) -> str:
    """(n,) float32 -> base64 text of its little-endian bytes."""
    return base64.b64encode(np.ascontiguousarray(vector, dtype="<f4").tobytes()).decode("ascii")


def decode_vector(value: Any) -> Float32s:
    """Base64 text, or anything numpy can read as one dimension, -> read-only (n,) float32."""
    if isinstance(value, str):
        raw = base64.b64decode(value, validate=True)
        if len(raw) % 4:
            raise ValueError(f"a vector of {len(raw)} bytes is not a whole number of float32")
        return np.frombuffer(raw, dtype="<f4")
    try:
        array = np.array(value, dtype=np.float32)
    except TypeError as error:  # an object among the numbers
        raise ValueError(f"not a vector: {error}") from error
    if array.ndim != 1:
        raise ValueError(f"a vector has one dimension, not {array.ndim}")
    array.flags.writeable = False
    return array


def _decode_blob(value: Any) -> bytes:
    return value if isinstance(value, bytes) else base64.b64decode(value, validate=True)


Blob = Annotated[
    bytes,
    PlainValidator(_decode_blob),
    PlainSerializer(lambda raw: base64.b64encode(raw).decode("ascii"), return_type=str),
    WithJsonSchema({"type": "string", "contentEncoding": "base64"}),
]
"""Bytes on the wire: base64."""

Vector = Annotated[
    Float32s,
    PlainValidator(decode_vector),
    PlainSerializer(encode_vector, return_type=str),
    WithJsonSchema({"type": "string", "contentEncoding": "base64", "description": "little-endian float32"}),
]
