"""The nearest of many unit vectors: an exact scan while they are few, HNSW when they are many.

Invariant: results come best first, ties by key (over the graph: among what its beam found), and a
similarity is computed the same way whichever path found the key. Row r of the matrix is label r of
the graph; a removed key's row is used again.
HNSW: Malkov and Yashunin 2018, by hnswlib. Not safe for threads: `store.Memory` holds a lock.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import hnswlib
import numpy as np
from numpy.typing import NDArray

from ruvllm.errors import InvalidRequest

Float32s = NDArray[np.float32]
Rows = NDArray[np.int64]
SCAN_ERROR = 3e-5  # bound on the float32 rounding of a dot product of two 384-wide unit vectors


class VectorIndex:
    """Keys with unit vectors. A zero vector is accepted and never found.

    `exact_below`: under so many live vectors a scan is both exact and quick (2,000: 0.2 ms). At that
    number the graph is built once (0.3 s) and grows from there; replacing a vector in it costs fifteen
    times an addition, and its recall holds under such churn.
    """

    def __init__(
        self,
        dimension: int,
        *,
        exact_below: int = 2000,
        m: int = 16,
        ef_construction: int = 200,
        seed: int = 100,
    ) -> None:
        self.dimension = dimension
        self._exact_below = exact_below
        self._m = m
        self._ef_construction = ef_construction
        self._seed = seed
        self._vectors: Float32s = np.zeros((0, dimension), np.float32)
        self._keys: list[str | None] = []  # by row; None: free
        self._rows: dict[str, int] = {}
        self._free: list[int] = []
        self._graph: Any = None

    def __len__(self) -> int:
        """The vectors that can be found: zero vectors are not among them."""
        return len(self._rows)

    def __contains__(self, key: object) -> bool:
        return key in self._rows

    def add(self, key: str, vector: Float32s) -> None:
        """Put or replace one (d,) vector."""
        self.add_many([key], vector[np.newaxis])

    def add_many(self, keys: Sequence[str], vectors: Float32s) -> None:
        """Put or replace n distinct keys with their (n, d) vectors. Raises InvalidRequest on another shape."""
        if vectors.shape != (len(keys), self.dimension):
            raise InvalidRequest(f"{len(keys)} keys need vectors {(len(keys), self.dimension)}, got {vectors.shape}")
        rows = []
        for key, vector in zip(keys, vectors, strict=True):
            if not vector.any():
                self.remove(key)
                continue
            row = self._rows.get(key)
            if row is not None and np.array_equal(self._vectors[row], vector):
                continue  # a redelivery costs nothing
            row = self._new_row(key) if row is None else row
            self._vectors[row] = vector
            rows.append(row)
        if self._graph is not None:
            self._into_graph(rows)
        elif len(self) >= self._exact_below:
            self._build_graph()

    def remove(self, key: str) -> None:
        """Forget a key; one that is not there is no error."""
        row = self._rows.pop(key, None)
        if row is None:
            return
        self._keys[row] = None
        self._free.append(row)
        if self._graph is not None:
            self._graph.mark_deleted(row)

    def search(
        self, vector: Float32s, k: int, *, ef: int | None = None, among: Collection[str] | None = None
    ) -> list[tuple[str, float]]:
        """The k nearest keys with their cosine similarity, best first, ties by key.

        `among` restricts the search to these keys and makes it exact. `ef` is HNSW's beam; by default
        max(64, 2k). A zero vector finds nothing. Raises InvalidRequest on a vector of another shape.
        """
        if vector.shape != (self.dimension,):
            raise InvalidRequest(f"a query here has shape {(self.dimension,)}, got {vector.shape}")
        if k <= 0 or not self._rows or not np.any(vector):
            return []
        if among is not None:
            rows = np.array(sorted(self._rows[key] for key in set(among) if key in self._rows), np.int64)
        elif self._graph is None or len(self) < self._exact_below:
            rows = self._live_rows()
        else:
            return self._ranked(self._beam(vector, max(k, ef or max(64, 2 * k))), vector)[:k]
        return self._ranked(self._nearest_by_scan(rows, vector, k), vector)[:k]

    def _nearest_by_scan(self, rows: Rows, vector: Float32s, k: int) -> Rows:
        """Of `rows` (ascending), all that may be among the k best and few others."""
        if len(rows) <= k:
            return rows
        everything = len(rows) == len(self._keys)
        similarities = (self._vectors[: len(rows)] if everything else self._vectors[rows]) @ vector
        kth_best = np.partition(similarities, len(rows) - k)[len(rows) - k]
        near: Rows = rows[similarities >= kth_best - SCAN_ERROR]
        return near

    def _ranked(self, rows: Rows, vector: Float32s) -> list[tuple[str, float]]:
        # float64 and row by row: equal vectors tie exactly, wherever they stand in the matrix, which a
        # blocked matrix product does not promise.
        exact = (self._vectors[rows].astype(np.float64) * vector).sum(axis=1)
        found = [
            (key, min(1.0, float(similarity)))
            for row, similarity in zip(rows, exact, strict=True)
            if (key := self._keys[row]) is not None
        ]
        return sorted(found, key=lambda pair: (-pair[1], pair[0]))

    def _beam(self, vector: Float32s, ef: int) -> Rows:
        # All of the beam, not its k best: its similarities are known, and ties at the k-th fall by key.
        k = min(ef, len(self))
        self._graph.set_ef(ef)
        try:
            labels, _ = self._graph.knn_query(vector, k, num_threads=1)
        except RuntimeError:  # fewer than k can be reached from the entry point: many were removed
            return self._nearest_by_scan(self._live_rows(), vector, k)
        found: Rows = labels[0].astype(np.int64)
        return found

    def _live_rows(self) -> Rows:
        if not self._free:
            return np.arange(len(self._keys))
        return np.fromiter(sorted(self._rows.values()), np.int64, len(self._rows))

    def _new_row(self, key: str) -> int:
        if self._free:
            row = self._free.pop()
            self._keys[row] = key
        else:
            row = len(self._keys)
            if row == len(self._vectors):
                self._grow()
            self._keys.append(key)
        self._rows[key] = row
        return row

    def _grow(self) -> None:
        wider = np.zeros((max(64, 2 * len(self._vectors)), self.dimension), np.float32)
        wider[: len(self._vectors)] = self._vectors
        self._vectors = wider

    def _into_graph(self, rows: Sequence[int]) -> None:
        if not len(rows):
            return
        if self._graph.get_max_elements() < len(self._vectors):
            self._graph.resize_index(len(self._vectors))
        # One thread: with more, the graph would depend on their timing.
        self._graph.add_items(self._vectors[rows], rows, num_threads=1)

    def _build_graph(self) -> None:
        self._graph = hnswlib.Index("ip", self.dimension)
        self._graph.init_index(
            max_elements=len(self._vectors),
            M=self._m,
            ef_construction=self._ef_construction,
            random_seed=self._seed,
        )
        self._into_graph(sorted(self._rows.values()))

    def save_graph(self, file: Path) -> list[str | None] | None:
        """Write the graph, if there is one. Returns the key of each of its labels (None: free)."""
        if self._graph is None:
            return None
        self._graph.save_index(str(file))
        return list(self._keys)

    def load_graph(self, file: Path, keys: Sequence[str | None], vectors: Float32s) -> None:
        """Take a saved graph instead of building one. The index is empty; rows of `vectors` follow `keys`.

        `vectors` is (len(keys), d); a free row's content does not matter. Raises RuntimeError (hnswlib's)
        if the file cannot be read, and is empty still.
        """
        graph = hnswlib.Index("ip", self.dimension)
        graph.load_index(str(file), max_elements=len(keys))
        self._graph = graph
        self._keys = list(keys)
        self._rows = {key: row for row, key in enumerate(keys) if key is not None}
        self._free = [row for row, key in enumerate(keys) if key is None]
        self._vectors = np.ascontiguousarray(vectors, np.float32)
