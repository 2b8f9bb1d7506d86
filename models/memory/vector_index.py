"""The nearest of many unit vectors: an exact scan while they are few, HNSW when they are many.

To put a vector costs next to nothing: it waits, gets a row of the matrix at the next search (or by
`settle`), and goes into the graph when there is time (`grow`). A search scans the rows that the graph has
not taken in, so that it always sees all of them.

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
SCANNED_AT_MOST = 1 / 3
"""With more of its rows outside of the graph, one scan of all is quicker than to look in both places."""
SCAN_ERROR = 3e-5  # bound on the float32 rounding of a dot product of two 384-wide unit vectors


class VectorIndex:
    """Keys with unit vectors. A zero vector is accepted and never found.

    `exact_below`: under so many distinct vectors a scan is both exact and quick (2,000: 0.2 ms). From that
    number on there may be a graph. Using a row again costs fifteen times a new one, and recall holds under such churn.
    """

    def __init__(
        self,
        dimension: int,
        *,
        exact_below: int = 2000,
        m: int = 16,
        ef_construction: int = 100,
        seed: int = 100,
    ) -> None:
        self.dimension = dimension
        self._exact_below = max(1, exact_below)
        self._m = m
        self._ef_construction = ef_construction
        self._seed = seed
        self._arrived: dict[str, Float32s] = {}  # by key, without a row as yet
        self._vectors: Float32s = np.zeros((0, dimension), np.float32)
        self._keys: list[set[str]] = []  # by row; empty: the row is free
        self._rows: dict[str, int] = {}  # by key
        self._rows_by_content: dict[bytes, int] = {}
        self._free: list[int] = []
        self._graph: Any = None
        self._waiting: dict[int, None] = {}  # rows that the graph has not taken in yet, in order

    def __len__(self) -> int:
        """The keys that can be found: those with a zero vector are not among them."""
        self.settle()
        return len(self._rows)

    def add(self, key: str, vector: Float32s) -> None:
        """Put or replace one (d,) vector, which nobody changes afterwards. Raises InvalidRequest on another shape."""
        if vector.shape != (self.dimension,):
            raise InvalidRequest(f"a vector here has shape {(self.dimension,)}, got {vector.shape}")
        self._arrived[key] = vector

    def add_many(self, keys: Sequence[str], vectors: Float32s) -> None:
        """Put or replace n distinct keys with their (n, d) vectors. Raises InvalidRequest on another shape."""
        if vectors.shape != (len(keys), self.dimension):
            raise InvalidRequest(f"{len(keys)} keys need vectors {(len(keys), self.dimension)}, got {vectors.shape}")
        self._arrived.update(zip(keys, vectors, strict=True))

    def remove(self, key: str) -> None:
        """Forget a key; one that is not there is no error."""
        self._arrived.pop(key, None)
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

    @property
    def behind(self) -> bool:
        """Whether the graph lacks vectors, or there should be one and is none."""
        if self._graph is None:
            return len(self._rows_by_content) + len(self._arrived) >= self._exact_below
        return bool(self._arrived or self._waiting)

    def settle(self, most: int | None = None) -> bool:
        """Give at most so many new vectors their rows (none: all; 6 us each); whether any are left."""
        self._make_room(len(self._arrived))
        for key in list(islice(self._arrived, most)):
            self._place(key, self._arrived.pop(key))
        return bool(self._arrived)

    def grow(self, most: int) -> None:
        """Take at most so many rows into the graph (1 ms each at 100,000)."""
        self.settle()
        if self._graph is None and len(self._rows_by_content) >= self._exact_below:
            self._begin_graph()
        rows = list(islice(self._waiting, most))
        if rows:
            if self._graph.get_max_elements() < len(self._vectors):
                self._graph.resize_index(len(self._vectors))
            # One thread: with more, the graph would depend on their timing.
            self._graph.add_items(self._vectors[rows], rows, num_threads=1)
        for row in rows:
            del self._waiting[row]

    def search(
        self, vector: Float32s, k: int, *, ef: int | None = None, among: Collection[str] | None = None
    ) -> list[tuple[str, float]]:
        """The k nearest keys with their cosine similarity, best first, ties by key.

        `among` restricts the search to these keys and makes it exact. `ef` is HNSW's beam; by default
        max(64, 2k). A zero vector finds nothing. Raises InvalidRequest on a vector of another shape.
        """
        if vector.shape != (self.dimension,):
            raise InvalidRequest(f"a query here has shape {(self.dimension,)}, got {vector.shape}")
        self.settle()
        if k <= 0 or not self._rows or not np.any(vector):
            return []
        if among is not None:
            wanted = self._rows.keys() & set(among)
            rows = np.array(sorted({self._rows[key] for key in wanted}), np.int64)
            return self._ranked(*self._nearest_by_scan(rows, vector, k), wanted)[:k]
        count = len(self._rows_by_content)
        if self._graph is None or count < self._exact_below or len(self._waiting) > SCANNED_AT_MOST * count:
            return self._ranked(*self._nearest_by_scan(self._live_rows(), vector, k))[:k]
        found = self._ranked(*self._beam(vector, max(k, ef or max(64, 2 * k))))
        if self._waiting:
            outside = np.fromiter(self._waiting, np.int64, len(self._waiting))
            found = sorted(
                found + self._ranked(*self._nearest_by_scan(outside, vector, k)), key=lambda hit: (-hit[1], hit[0])
            )
        return found[:k]

    def _nearest_by_scan(self, rows: Rows, vector: Float32s, k: int) -> tuple[Rows, Float32s]:
        """Of `rows`, all that may be among the k best and few others; with their cosines."""
        if len(rows) > k:
            everything = len(rows) == len(self._keys)  # then they are in order
            similarities = (self._vectors[: len(rows)] if everything else self._vectors[rows]) @ vector
            kth_best = np.partition(similarities, len(rows) - k)[len(rows) - k]
            rows = rows[similarities >= kth_best - SCAN_ERROR]
        # Row by row: a blocked matrix product does not promise the same for a row wherever it stands.
        return rows, np.einsum("ij,j->i", self._vectors[rows], vector)

    def _beam(self, vector: Float32s, ef: int) -> tuple[Rows, Float32s]:
        # All of the beam, not its k best: ties at the k-th fall by key. Its similarities are taken as they are:
        # to read the vectors again would cost as much as the search, for they lie far apart.
        k = min(ef, len(self._rows_by_content) - len(self._waiting))
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

    def _place(self, key: str, vector: Float32s) -> None:
        """Give a vector the row of its equals, or a row of its own."""
        content = _fingerprint(vector)
        row = self._rows_by_content.get(content)
        if row is not None and row == self._rows.get(key):
            return  # a redelivery
        self.remove(key)
        if not vector.any():
            return
        row = self._rows_by_content.get(content)
        if row is None:
            row = self._rows_by_content[content] = self._free_row()
            self._vectors[row] = vector
            if self._graph is not None:
                self._waiting[row] = None
        self._keys[row].add(key)
        self._rows[key] = row

    def _make_room(self, more: int) -> None:
        rows = len(self._keys) + more
        if rows > len(self._vectors):
            wider = np.zeros((max(64, rows + rows // 4), self.dimension), np.float32)
            wider[: len(self._keys)] = self._vectors[: len(self._keys)]
            self._vectors = wider

    def _free_row(self) -> int:
        if self._free:
            return self._free.pop()
        self._keys.append(set())
        return len(self._keys) - 1

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
        """Write the graph, if there is one. Returns the keys of each of its rows (none: free, or not in it yet)."""
        self.settle()
        if self._graph is None:
            return None
        self._graph.save_index(str(file))
        return [[] if row in self._waiting else sorted(keys) for row, keys in enumerate(self._keys)]

    def load_graph(self, file: Path, keys: Sequence[Sequence[str]]) -> None:
        """Take a saved graph instead of building one. Row r of it has `keys[r]`, whose vectors were added before.

        The index has not been searched yet. Raises RuntimeError (hnswlib's) if the file cannot be read and
        KeyError if a key was not added; the index is then as it was before.
        """
        graph = hnswlib.Index("ip", self.dimension)
        graph.load_index(str(file), max_elements=len(keys))
        nothing = np.zeros(self.dimension, np.float32)
        vectors = np.stack([self._arrived[group[0]] if group else nothing for group in keys])
        self._rows = {key: row for row, group in enumerate(keys) for key in group}
        self._arrived = {key: vector for key, vector in self._arrived.items() if key not in self._rows}
        self._graph = graph
        self._vectors = vectors
        self._keys = [set(group) for group in keys]
        self._rows_by_content = {_fingerprint(vectors[row]): row for row, group in enumerate(keys) if group}
        self._free = [row for row, group in enumerate(keys) if not group]


def _fingerprint(vector: Float32s) -> bytes:
    return hashlib.blake2b(vector.tobytes(), digest_size=16).digest()
