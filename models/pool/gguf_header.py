"""Reads what a GGUF file says about itself: metadata and tensor shapes, never the weights.

Files come from users, so nothing in them is trusted: every length is bounded before it is read, and
a file that is cut short or is something else is refused with a sentence, not with a crash. Format:
https://github.com/ggml-org/ggml/blob/master/docs/gguf.md (versions 2 and 3, little endian).
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from typing import BinaryIO, Final

from ruvllm.errors import ModelUnavailable

Scalar = int | float | bool | str

MAX_ENTRIES: Final = 1 << 16  # metadata keys; tensors
MAX_STRING_BYTES: Final = 1 << 24
MAX_ARRAY_ITEMS: Final = 1 << 22
MAX_DIMENSIONS: Final = 4

_STRING, _ARRAY = 8, 9
_SCALARS: Final = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}

# ggml type -> (values in a block, bytes of a block); ggml/src/ggml-common.h
_BLOCKS: Final = {
    0: (1, 4), 1: (1, 2), 30: (1, 2),  # F32, F16, BF16
    2: (32, 18), 3: (32, 20), 6: (32, 22), 7: (32, 24), 8: (32, 34),  # Q4_0, Q4_1, Q5_0, Q5_1, Q8_0
    10: (256, 84), 11: (256, 110), 12: (256, 144), 13: (256, 176), 14: (256, 210),  # Q2_K to Q6_K
    20: (32, 18), 23: (256, 136),  # IQ4_NL, IQ4_XS
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class GgufHeader:
    """`parameters`: values in all tensors. `least_bytes`: a complete file is at least this long."""

    version: int
    metadata: dict[str, Scalar]
    tensors: int
    parameters: int
    least_bytes: int

    @property
    def architecture(self) -> str:
        return str(self.metadata.get("general.architecture", ""))


def read_gguf_header(file: BinaryIO) -> GgufHeader:
    """Header of the GGUF file that `file` (binary, at its start) holds; arrays are passed over.

    Raises ModelUnavailable if it is not GGUF, is cut short, or claims sizes beyond all reason.
    """
    return _Reader(file).header()


class _Reader:
    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._read = 0

    def header(self) -> GgufHeader:
        if self._bytes(4) != b"GGUF":
            raise _refuse("it does not begin with GGUF")
        version = int(self._scalar("<I"))
        if version not in (2, 3):
            raise _refuse(f"GGUF version {version} is not 2 or 3")
        tensors = self._count(MAX_ENTRIES, "tensors")
        entries = self._count(MAX_ENTRIES, "metadata entries")
        metadata: dict[str, Scalar] = {}
        for _ in range(entries):
            key = self._string()
            value = self._value(int(self._scalar("<I")))
            if value is not None:
                metadata[key] = value
        parameters, data_bytes = 0, 0
        for _ in range(tensors):
            count, end = self._tensor()
            parameters += count
            data_bytes = max(data_bytes, end)
        alignment = int(metadata.get("general.alignment", 32)) or 32
        least = math.ceil(self._read / alignment) * alignment + data_bytes
        return GgufHeader(version, metadata, tensors, parameters, least)

    def _tensor(self) -> tuple[int, int]:
        """Values in the next tensor, and where its data end, from the start of all data."""
        self._string()
        dimensions = int(self._scalar("<I"))
        if dimensions > MAX_DIMENSIONS:
            raise _refuse(f"a tensor has {dimensions} dimensions")
        count = math.prod(int(self._scalar("<Q")) for _ in range(dimensions))
        kind = int(self._scalar("<I"))
        offset = int(self._scalar("<Q"))
        values, size = _BLOCKS.get(kind, (1, 0))  # of an unknown type only the beginning is sure
        return count, offset + count // values * size

    def _value(self, kind: int) -> Scalar | None:
        if kind == _STRING:
            return self._string()
        if kind == _ARRAY:
            self._pass_over_array()
            return None
        if kind not in _SCALARS:
            raise _refuse(f"metadata of unknown type {kind}")
        return self._scalar(_SCALARS[kind])

    def _pass_over_array(self) -> None:
        kind = int(self._scalar("<I"))
        items = self._count(MAX_ARRAY_ITEMS, "array items")
        if kind == _STRING:
            for _ in range(items):
                self._bytes(self._count(MAX_STRING_BYTES, "bytes of text"))
        elif kind in _SCALARS:
            self._bytes(items * struct.calcsize(_SCALARS[kind]))
        else:
            raise _refuse(f"an array of type {kind}")

    def _string(self) -> str:
        raw = self._bytes(self._count(MAX_STRING_BYTES, "bytes of text"))
        return raw.decode("utf-8", errors="replace")

    def _count(self, most: int, what: str) -> int:
        count = int(self._scalar("<Q"))
        if count > most:
            raise _refuse(f"it claims {count} {what}")
        return count

    def _scalar(self, form: str) -> int | float | bool:
        value: int | float | bool = struct.unpack(form, self._bytes(struct.calcsize(form)))[0]
        return value

    def _bytes(self, size: int) -> bytes:
        data = self._file.read(size)
        if len(data) != size:
            raise _refuse(f"it ends inside its header, after {self._read + len(data)} bytes")
        self._read += size
        return data


def _refuse(why: str) -> ModelUnavailable:
    return ModelUnavailable(
        f"not a usable GGUF file: {why}", hint="Copy or download the file again, whole, and add it again."
    )
