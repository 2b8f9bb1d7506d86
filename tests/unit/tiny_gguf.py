"""Writes tiny GGUF models with random weights: real files for llama.cpp, no download.

They answer nonsense, but load, tokenise and sample as the large ones do; the LFM2 one has the hybrid
memory (convolution layers) whose cache cannot be cut back.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

Value = int | float | bool | str | Sequence[int] | Sequence[str]
ALIGNMENT = 32
CONTROL_TOKENS = ("<|startoftext|>", "<|im_start|>", "<|im_end|>")
_NORMAL, _CONTROL = 1, 3


def write_gguf(path: Path, metadata: Mapping[str, Value], tensors: Mapping[str, npt.NDArray[np.float32]]) -> Path:
    """GGUF version 3 with float32 tensors; an array's last axis is the format's first dimension."""
    head = [b"GGUF", struct.pack("<IQQ", 3, len(tensors), len(metadata))]
    for key, value in metadata.items():
        head.append(_string(key) + _value(value))
    offset = 0
    data: list[bytes] = []
    for name, array in tensors.items():
        shape = array.shape[::-1]
        head.append(_string(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, 0, offset))
        raw = array.astype("<f4").tobytes()
        data.append(raw + b"\0" * (-len(raw) % ALIGNMENT))
        offset += len(data[-1])
    header = b"".join(head)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(header + b"\0" * (-len(header) % ALIGNMENT) + b"".join(data))
    return path


def write_tiny_lfm2(path: Path, *, seed: int = 0) -> Path:
    """An LFM2 of two convolution layers and one of attention, byte vocabulary, BOS wanted."""
    embedding, feed_forward, heads, conv_width = 64, 96, 4, 3
    kv_heads = [0, 2, 0]  # none: a convolution layer
    tokens = [*_byte_tokens(), "th", *CONTROL_TOKENS]
    metadata: dict[str, Value] = {
        "general.architecture": "lfm2",
        "general.name": "Tiny LFM2",
        "lfm2.block_count": len(kv_heads),
        "lfm2.context_length": 4096,
        "lfm2.embedding_length": embedding,
        "lfm2.feed_forward_length": feed_forward,
        "lfm2.attention.head_count": heads,
        "lfm2.attention.head_count_kv": kv_heads,
        "lfm2.attention.layer_norm_rms_epsilon": 1e-5,
        "lfm2.rope.freq_base": 1e6,
        "lfm2.shortconv.l_cache": conv_width,
        "lfm2.vocab_size": len(tokens),
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "lfm2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [_NORMAL] * 257 + [_CONTROL] * len(CONTROL_TOKENS),
        "tokenizer.ggml.merges": ["t h"],
        "tokenizer.ggml.bos_token_id": tokens.index("<|startoftext|>"),
        "tokenizer.ggml.eos_token_id": tokens.index("<|im_end|>"),
        "tokenizer.ggml.add_bos_token": True,
    }
    draw = np.random.default_rng(seed)

    def random(*shape: int) -> npt.NDArray[np.float32]:
        return (draw.standard_normal(shape) * 0.3).astype(np.float32)

    def ones(size: int) -> npt.NDArray[np.float32]:
        return np.ones(size, dtype=np.float32)

    vocabulary = random(len(tokens), embedding)
    vocabulary[-len(CONTROL_TOKENS) :] *= 0.01  # also the output matrix: greedy answers do not end at once
    tensors = {"token_embd.weight": vocabulary, "token_embd_norm.weight": ones(embedding)}
    for layer, kv in enumerate(kv_heads):
        block = f"blk.{layer}."
        tensors[block + "attn_norm.weight"] = tensors[block + "ffn_norm.weight"] = ones(embedding)
        tensors[block + "ffn_gate.weight"] = random(feed_forward, embedding)
        tensors[block + "ffn_up.weight"] = random(feed_forward, embedding)
        tensors[block + "ffn_down.weight"] = random(embedding, feed_forward)
        if kv == 0:
            tensors[block + "shortconv.conv.weight"] = random(embedding, conv_width)
            tensors[block + "shortconv.in_proj.weight"] = random(3 * embedding, embedding)
            tensors[block + "shortconv.out_proj.weight"] = random(embedding, embedding)
        else:
            width = embedding // heads
            tensors[block + "attn_q.weight"] = random(embedding, embedding)
            tensors[block + "attn_k.weight"] = random(kv * width, embedding)
            tensors[block + "attn_v.weight"] = random(kv * width, embedding)
            tensors[block + "attn_output.weight"] = random(embedding, embedding)
            tensors[block + "attn_q_norm.weight"] = tensors[block + "attn_k_norm.weight"] = ones(width)
    return write_gguf(path, metadata, tensors)


def _byte_tokens() -> list[str]:
    """GPT-2's printable stand-ins for the 256 bytes, by byte (Radford et al. 2019, encoder.py)."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    stand_in = {byte: chr(byte) for byte in printable}
    stand_in |= {byte: chr(256 + place) for place, byte in enumerate(others)}
    return [stand_in[byte] for byte in range(256)]


def _string(text: str) -> bytes:
    raw = text.encode()
    return struct.pack("<Q", len(raw)) + raw


def _value(value: Value) -> bytes:
    match value:
        case bool():
            return struct.pack("<I?", 7, value)
        case int():
            return struct.pack("<II", 4, value)
        case float():
            return struct.pack("<If", 6, value)
        case str():
            return struct.pack("<I", 8) + _string(value)
    if isinstance(value[0], str):
        return struct.pack("<IIQ", 9, 8, len(value)) + b"".join(_string(str(item)) for item in value)
    return struct.pack(f"<IIQ{len(value)}i", 9, 5, len(value), *value)
