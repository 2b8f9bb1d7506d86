"""The nearest of many unit vectors: an exact scan while they are few, HNSW when they are many.

Invariant: results come best first, ties by key (over the graph: among what its beam found), and a
similarity is the same within 1e-6 whichever path found the key. Equal vectors share one row, which is
row r of the matrix and label r of the graph: hundreds of copies of one passage (a licence, a footer)
would link to each other only, and searches that enter there would never come out. A row without keys is
used again. HNSW: Malkov and Yashunin 2018, by hnswlib. Not safe for threads: `store.Memory` holds a lock.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import hnswlib
import numpy as np
from numpy.typing import NDArray

from ruvllm.errors import InvalidRequest

Float32s = NDArray[np.float32]
Rows = NDArray[np.int64]
GROWN_AT_ONCE = 20
"""So many waiting vectors go into a growing graph with each new one (3 ms), so that no change is held up by all."""
SCAN_ERROR = 3e-5  # bound on the float32 rounding of a dot product of two 384-wide unit vectors


class VectorIndex:
    """Keys with unit vectors. A zero vector is accepted and never found.

    `exact_below`: under so many distinct vectors a scan is both exact and quick (2,000: 0.2 ms). From that
    number on there is a graph. It takes in what is there along with what comes, and answers once it has all of
    it; until then scans do. Using a row again costs fifteen times a new one, and recall holds under such churn.
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
        self._exact_below = max(1, exact_below)
        self._m = m
        self._ef_construction = ef_construction
        self._seed = seed
        self._vectors: Float32s = np.zeros((0, dimension), np.float32)
        self._keys: list[set[str]] = []  # by row; empty: the row is free
        self._rows: dict[str, int] = {}  # by key
        self._rows_by_content: dict[bytes, int] = {}
        self._free: list[int] = []
        self._graph: Any = None
        self._waiting: dict[int, None] = {}  # rows that the graph has not taken in yet, in order

    def __len__(self) -> int:
        """The keys that can be found: those with a zero vector are not among them."""
        return len(self._rows)

    def add(self, key: str, vector: Float32s) -> None:
        """Put or replace one (d,) vector."""
        self.add_many([key], vector[np.newaxis])

    def add_many(self, keys: Sequence[str], vectors: Float32s) -> None:
        """Put or replace n distinct keys with their (n, d) vectors. Raises InvalidRequest on another shape."""
        if vectors.shape != (len(keys), self.dimension):
            raise InvalidRequest(f"{len(keys)} keys need vectors {(len(keys), self.dimension)}, got {vectors.shape}")
        fresh: list[int] = []  # rows with a new vector
        for key, vector in zip(keys, vectors, strict=True):
            content = _fingerprint(vector)
            known = self._rows.get(key)
            if known is not None and known == self._rows_by_content.get(content):
                continue  # a redelivery costs nothing
            self.remove(key)
            if vector.any():
                row = self._rows_by_content.get(content)
                if row is None:
                    row = self._rows_by_content[content] = self._free_row()
                    self._vectors[row] = vector
                    fresh.append(row)
                self._keys[row].add(key)
                self._rows[key] = row
        if self._graph is not None:
            self._waiting.update(dict.fromkeys(fresh))
        elif len(self._rows_by_content) >= self._exact_below:
            self._begin_graph()
        self._grow_graph(GROWN_AT_ONCE * len(fresh))

    def remove(self, key: str) -> None:
        """Forget a key; one that is not there is no error."""
        row = self._rows.pop(key, None)
        if row is None:
            return
        self._keys[row].discard(key)
        if not self._keys[row]:
            del self._rows_by_content[_fingerprint(self._vectors[row])]
            self._free.append(row)
            if row in self._waiting:
                del self._waiting[row]
            elif self._graph is not None:
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
            wanted = self._rows.keys() & set(among)
            rows = np.array(sorted({self._rows[key] for key in wanted}), np.int64)
            return self._ranked(*self._nearest_by_scan(rows, vector, k), wanted)[:k]
        if self._graph is None or self._waiting or len(self._rows_by_content) < self._exact_below:
            return self._ranked(*self._nearest_by_scan(self._live_rows(), vector, k))[:k]
        return self._ranked(*self._beam(vector, max(k, ef or max(64, 2 * k))))[:k]

    def _nearest_by_scan(self, rows: Rows, vector: Float32s, k: int) -> tuple[Rows, Float32s]:
        """Of `rows` (ascending), all that may be among the k best and few others; with their cosines."""
        if len(rows) > k:
            everything = len(rows) == len(self._keys)
            similarities = (self._vectors[: len(rows)] if everything else self._vectors[rows]) @ vector
            kth_best = np.partition(similarities, len(rows) - k)[len(rows) - k]
            rows = rows[similarities >= kth_best - SCAN_ERROR]
        # Row by row: a blocked matrix product does not promise the same for a row wherever it stands.
        return rows, np.einsum("ij,j->i", self._vectors[rows], vector)

    def _beam(self, vector: Float32s, ef: int) -> tuple[Rows, Float32s]:
        # All of the beam, not its k best: ties at the k-th fall by key. Its similarities are taken as they are:
        # to read the vectors again would cost as much as the search, for they lie far apart.
        k = min(ef, len(self._rows_by_content))
        if self._graph.ef != ef:
            self._graph.set_ef(ef)
        try:
            labels, distances = self._graph.knn_query(vector, k, num_threads=1)
        except RuntimeError:  # fewer than k can be reached from the entry point
            return self._nearest_by_scan(self._live_rows(), vector, k)
        return labels[0].view(np.int64), 1.0 - distances[0]

    def _ranked(
        self, rows: Rows, similarities: Float32s, wanted: Collection[str] | None = None
    ) -> list[tuple[str, float]]:
        at_most_1 = np.minimum(similarities, np.float32(1.0))
        found = [
            (-similarity, key)
            for row, similarity in zip(rows.tolist(), at_most_1.tolist(), strict=True)
            for key in self._keys[row]
            if wanted is None or key in wanted
        ]
        found.sort()
        return [(key, -minus) for minus, key in found]

    def _live_rows(self) -> Rows:
        if not self._free:
            return np.arange(len(self._keys))
        return np.array(sorted(self._rows_by_content.values()), np.int64)

    def _free_row(self) -> int:
        if self._free:
            return self._free.pop()
        if len(self._keys) == len(self._vectors):
            wider = np.zeros((max(64, 2 * len(self._vectors)), self.dimension), np.float32)
            wider[: len(self._vectors)] = self._vectors
            self._vectors = wider
        self._keys.append(set())
        return len(self._keys) - 1

    def _grow_graph(self, most: int) -> None:
        rows = list(islice(self._waiting, most))
        if not rows:
            return
        if self._graph.get_max_elements() < len(self._vectors):
            self._graph.resize_index(len(self._vectors))
        # One thread: with more, the graph would depend on their timing.
        self._graph.add_items(self._vectors[rows], rows, num_threads=1)
        for row in rows:
            del self._waiting[row]

    def _begin_graph(self) -> None:
        self._graph = hnswlib.Index("ip", self.dimension)
        self._graph.init_index(
            max_elements=len(self._vectors),
            M=self._m,
            ef_construction=self._ef_construction,
            random_seed=self._seed,
        )
        self._waiting = dict.fromkeys(sorted(self._rows_by_content.values()))

    def save_graph(self, file: Path) -> list[list[str]] | None:
        """Write the graph, if there is a whole one. Returns the keys of each of its rows (none: free)."""
        if self._graph is None or self._waiting:
            return None
        self._graph.save_index(str(file))
        return [sorted(keys) for keys in self._keys]

    def load_graph(self, file: Path, keys: Sequence[Collection[str]], vectors: Float32s) -> None:
        """Take a saved graph instead of building one. The index is empty; row r of `vectors` has `keys[r]`.

        `vectors` is (len(keys), d); a free row's content does not matter. Raises RuntimeError (hnswlib's)
        if the file cannot be read, and is empty still.
        """
        graph = hnswlib.Index("ip", self.dimension)
        graph.load_index(str(file), max_elements=len(keys))
        self._graph = graph
        self._vectors = np.ascontiguousarray(vectors, np.float32)
        self._keys = [set(group) for group in keys]
        self._rows = {key: row for row, group in enumerate(keys) for key in group}
        self._rows_by_content = {_fingerprint(vectors[row]): row for row, group in enumerate(keys) if group}
        self._free = [row for row, group in enumerate(keys) if not group]


def _fingerprint(vector: Float32s) -> bytes:
    return hashlib.blake2b(vector.tobytes(), digest_size=16).digest()
