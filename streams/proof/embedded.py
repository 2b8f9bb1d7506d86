"""Embeddings of many texts, kept in a folder by content: a second run over the same texts starts at once.

Invariant: a file is named by the embedder and the texts themselves, and appears whole or not at all.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ruvllm.models.embedding import Embedder

Float32s = NDArray[np.float32]
BLOCK = 64


def embedded(embedder: Embedder, texts: Sequence[str], cache: Path) -> Float32s:
    """(n, d) float32, from `cache` where these very texts were embedded before by this embedder."""
    sha = hashlib.sha256("\x00".join((embedder.name, *texts)).encode()).hexdigest()[:32]
    file = cache / f"{sha}.npy"
    if file.is_file():
        kept: Float32s = np.load(file)
        return kept
    blocks = [embedder.embed(texts[i : i + BLOCK]) for i in range(0, len(texts), BLOCK)]
    vectors = np.concatenate(blocks) if blocks else np.zeros((0, embedder.dimension), np.float32)
    cache.mkdir(parents=True, exist_ok=True)
    partial = file.with_suffix(".part.npy")
    np.save(partial, vectors)
    partial.replace(file)
    return vectors
