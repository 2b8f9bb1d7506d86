"""A memory and the offsets it was folded to, as files: start from here, then fold the tail of the log.

Invariant: a snapshot is complete or it is not there. Files are written to a hidden folder and synced,
`manifest.json` (log, offsets, counts, digest, SHA-256 of each file) comes last, then one rename shows it.
What does not match its hashes, or is of another log, is passed over for the snapshot before it. One save
at a time works in a folder.

    <folder>/<sequence>-<name>/  nodes.jsonl  vectors.npy  edges.jsonl  graph-<n>.hnsw  graph-<n>.json

Row i of vectors.npy belongs to line i of nodes.jsonl. Graphs are a convenience: without them, or with
damaged ones, the HNSW index is built again. The digest of the contents is for people and comparisons:
contents are a function of the files' bytes, so that the hashes of these say as much and take a tenth of the time.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
from collections.abc import Collection, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import structlog

from ruvllm.errors import InvalidConfiguration
from ruvllm.models.memory.node import Contents, Edge, Float32s, Node
from ruvllm.models.memory.store import DEFAULT_HALF_LIFE_S, Memory

FORMAT_VERSION = 6
CONTENT_FILES = ("nodes.jsonl", "vectors.npy", "edges.jsonl")

log = structlog.get_logger(__name__)


class _Unusable(Exception):
    """Why a snapshot cannot be taken; never leaves this module."""


def save(memory: Memory, offsets: Mapping[str, int], folder: Path, *, log_id: str, keep: int = 2, name: str) -> Path:
    """Write a snapshot into `folder`, delete all but the newest `keep`, return its own folder.

    `offsets` (partition -> next offset) of the log that `log_id` names were reached before this call.
    Changes folded since then do no harm: they are in the snapshot, and come again with the tail. Run it in
    a thread; the memory's lock is held while references are copied and the HNSW graphs written (20k nodes:
    0.1 s), not for the rest. A second save into the same folder waits for the first. `name` is for people:
    letters, digits, dots, underscores, hyphens. Raises InvalidConfiguration on another name or keep < 1,
    OSError if the disk does.
    """
    if not re.fullmatch(r"[A-Za-z0-9._-]{1,100}", name) or keep < 1:
        raise InvalidConfiguration(f"a snapshot needs a plain name and keep >= 1, got {name!r}, {keep}")
    folder.mkdir(parents=True, exist_ok=True)
    with _alone_in(folder):
        for left_over in folder.glob(".writing-*"):  # of a process that died: nobody else is here
            shutil.rmtree(left_over)
        known = _newest_first(folder)
        sequence = _sequence(known[0]) + 1 if known else 1
        writing = folder / f".writing-{sequence:010d}-{name}"
        writing.mkdir()
        _write(memory, offsets, writing, log_id)
        target = folder / f"{sequence:010d}-{name}"
        writing.replace(target)
        _sync(folder)
        for old in _newest_first(folder)[keep:]:
            shutil.rmtree(old)
        return target


def load_latest(
    folder: Path,
    *,
    log_id: str,
    spans: Mapping[str, tuple[int, int]],
    embedder: str,
    dimension: int,
    half_life_s: float = DEFAULT_HALF_LIFE_S,
    exact_below: int = 2000,
    at_most: Mapping[str, int] | None = None,
) -> tuple[Memory, dict[str, int]] | None:
    """The newest usable snapshot as (memory, offsets), or None if there is none.

    `at_most`: partition -> offset; what is beyond that place is no candidate (a partition left out is at 0).

    `spans` are the first and the next offset of each partition of the log as it is now. A snapshot that
    is damaged, of another format, embedder or log, or whose offsets the log does not reach or no longer
    has, is passed over, with a warning that says why: then the memory is folded from an older one, or
    from the log's beginning.
    """
    for snapshot in _newest_first(folder):
        if at_most is not None and _is_beyond(snapshot, at_most):
            continue
        memory = Memory(embedder, dimension, half_life_s=half_life_s, exact_below=exact_below)
        try:
            return memory, _load(snapshot, memory, log_id, spans)
        except (_Unusable, OSError, ValueError, KeyError, TypeError) as reason:
            log.warning("snapshot passed over", snapshot=str(snapshot), reason=str(reason) or repr(reason))
    return None


def _is_beyond(snapshot: Path, place: Mapping[str, int]) -> bool:
    """Whether a snapshot holds changes from after a place. A manifest that cannot be read is judged by `_load`."""
    try:
        offsets: dict[str, int] = orjson.loads((snapshot / "manifest.json").read_bytes())["offsets"]
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return any(offset > place.get(partition, 0) for partition, offset in offsets.items())


def _newest_first(folder: Path) -> list[Path]:
    found = folder.glob("[0-9]*-*") if folder.is_dir() else ()
    return sorted((path for path in found if re.match(r"\d+-", path.name)), key=_sequence, reverse=True)


def _sequence(snapshot: Path) -> int:
    return int(snapshot.name.split("-", 1)[0])


# --- writing --------------------------------------------------------------------------------------------


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Wait until no other thread or process saves into this folder, then be the one that does."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)  # gives up the lock, as a death does


def _write(memory: Memory, offsets: Mapping[str, int], writing: Path, log_id: str) -> None:
    """All files of a snapshot, the manifest last, each of them on the disk."""
    with memory.lock:
        contents = memory.contents()
        graphs = _save_graphs(memory, writing)
    _write_contents(contents, writing)
    for file in writing.iterdir():
        _sync(file)
    manifest: dict[str, Any] = {
        "format": FORMAT_VERSION,
        "embedder": memory.embedder,
        "dimension": memory.dimension,
        "log": log_id,
        "offsets": dict(offsets),
        "nodes": len(contents.nodes),
        "edges": len(contents.edges),
        "digest": contents.digest(),
        "graphs": graphs,
        "files": {file.name: _sha256(file) for file in sorted(writing.iterdir())},
    }
    manifest["sha256"] = _own_hash(manifest)
    (writing / "manifest.json").write_bytes(orjson.dumps(manifest, option=orjson.OPT_INDENT_2))
    _sync(writing / "manifest.json")
    _sync(writing)


def _write_contents(contents: Contents, folder: Path) -> None:
    vectors = np.stack([n.vector for n in contents.nodes]) if contents.nodes else np.zeros((0, 0), np.float32)
    np.save(folder / "vectors.npy", vectors.astype("<f4", copy=False))
    for name, items in (("nodes.jsonl", contents.nodes), ("edges.jsonl", contents.edges)):
        with (folder / name).open("wb") as out:
            out.writelines(_lines(items))


def _lines(items: Iterable[Node] | Iterable[Edge]) -> Iterable[bytes]:
    return (orjson.dumps(item.record(), option=orjson.OPT_APPEND_NEWLINE) for item in items)


def _save_graphs(memory: Memory, folder: Path) -> list[dict[str, str]]:
    graphs = []
    for number, (tenant, kind, index) in enumerate(memory.indexes()):
        file = folder / f"graph-{number}.hnsw"
        keys = index.save_graph(file)
        if keys is not None:
            listed = file.with_suffix(".json")
            listed.write_bytes(orjson.dumps(keys))
            graphs.append({"tenant": tenant, "kind": kind, "graph": file.name, "keys": listed.name})
    return graphs


def _sync(path: Path) -> None:
    """Have a file, or a folder's names, on the disk before going on."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sha256(file: Path) -> str:
    with file.open("rb") as raw:
        return hashlib.file_digest(raw, "sha256").hexdigest()


def _own_hash(manifest: Mapping[str, Any]) -> str:
    rest = {name: value for name, value in manifest.items() if name != "sha256"}
    return hashlib.sha256(orjson.dumps(rest, option=orjson.OPT_SORT_KEYS)).hexdigest()


# --- reading --------------------------------------------------------------------------------------------


def _load(snapshot: Path, memory: Memory, log_id: str, spans: Mapping[str, tuple[int, int]]) -> dict[str, int]:
    """Fill an empty memory from a snapshot; returns its offsets. Raises _Unusable."""
    manifest = orjson.loads((snapshot / "manifest.json").read_bytes())
    if manifest["sha256"] != _own_hash(manifest):
        raise _Unusable("its manifest is not what was written")
    wanted = {
        "format": FORMAT_VERSION,
        "log": log_id,
        "embedder": memory.embedder,
        "dimension": memory.dimension,
    }
    for name, value in wanted.items():
        if manifest.get(name) != value:
            raise _Unusable(f"its {name} is {manifest.get(name)!r}, not {value!r}")
    offsets: dict[str, int] = manifest["offsets"]
    for partition in sorted(offsets.keys() | spans.keys()):
        at, (first, end) = offsets.get(partition, 0), spans.get(partition, (0, 0))
        if not first <= at <= end:
            raise _Unusable(f"it goes on at offset {at} of partition {partition}, which has {first} to {end}")
    with ThreadPoolExecutor(1) as beside:  # hashing holds no other thread up
        hashing = beside.submit(_damaged, snapshot, manifest["files"])
        try:
            nodes, edges = _read_nodes(snapshot), _read_edges(snapshot)
        finally:
            damaged = hashing.result()
            for file in CONTENT_FILES:
                if file in damaged:
                    raise _Unusable(f"{file} is not what was written")
    memory.put_nodes(nodes)
    for graph in manifest["graphs"]:
        _load_graph(snapshot, damaged, graph, memory)
    for edge in edges:
        memory.put_edge(edge)
    if (len(nodes), len(edges)) != (manifest["nodes"], manifest["edges"]):
        raise _Unusable(f"it has {len(nodes)} nodes and {len(edges)} edges, not as many as were written")
    return offsets


def _read_nodes(snapshot: Path) -> list[Node]:
    vectors: Float32s = np.load(snapshot / "vectors.npy", allow_pickle=False)
    vectors.flags.writeable = False  # nodes share its rows
    lines = (snapshot / "nodes.jsonl").read_bytes().splitlines()
    return [Node(vector=vector, **orjson.loads(line)) for line, vector in zip(lines, vectors, strict=True)]


def _read_edges(snapshot: Path) -> list[Edge]:
    return [Edge(**orjson.loads(line)) for line in (snapshot / "edges.jsonl").read_bytes().splitlines()]


def _damaged(snapshot: Path, hashes: Mapping[str, str]) -> set[str]:
    """The files that are missing or not what was written. Hashing holds no other thread up: several at once."""
    with ThreadPoolExecutor() as threads:
        found = threads.map(lambda name: _sha256(snapshot / name) if (snapshot / name).exists() else None, hashes)
        return {name for name, sha256 in zip(hashes, found, strict=True) if sha256 != hashes[name]}


def _load_graph(snapshot: Path, damaged: Collection[str], graph: Mapping[str, str], memory: Memory) -> None:
    """Take a saved HNSW graph of the nodes that memory holds now, if it is whole."""
    for name in (graph["graph"], graph["keys"]):
        if name in damaged:
            log.warning("index is built again", snapshot=str(snapshot), reason=f"{name} is damaged or missing")
            return
    keys: list[list[str]] = orjson.loads((snapshot / graph["keys"]).read_bytes())
    try:
        memory.index(graph["tenant"], graph["kind"]).load_graph(snapshot / graph["graph"], keys)
    except RuntimeError as error:  # written by a version of hnswlib that this one cannot read
        log.warning("index is built again", snapshot=str(snapshot), reason=str(error))
