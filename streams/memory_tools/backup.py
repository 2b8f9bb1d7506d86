"""Backups of memory: a snapshot kept apart from the workers', and put back where they look for one.

Invariant: a snapshot says where in which log it stops, and is taken by that log only. So a backup spares
folding, it does not bring back what the log has lost: to carry memory to another log is an export's work.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from ruvllm.errors import InvalidConfiguration
from ruvllm.models.memory.snapshot import FORMAT_VERSION, load_latest, save
from ruvllm.models.memory.store import Memory
from ruvllm.schemas.ids import new_id
from ruvllm.streams.memory_tools.reading import Folded, NewMemory, Spans

ALL = sys.maxsize


@dataclass(frozen=True)
class Restored:
    """The memory that was put back, into which folders, and how many places of the log are to be folded after it."""

    memory: Memory
    folders: tuple[Path, ...]
    behind: int


def back_up(folded: Folded, folder: Path, *, keep: int = ALL) -> Path:
    """Save a snapshot into `folder` and keep the newest `keep` there; returns its own folder. Raises as `save`."""
    return save(folded.memory, folded.offsets, folder, log_id=folded.log_id, keep=keep, name=new_id())


def restore(
    folder: Path, targets: Sequence[Path], *, log_id: str, spans: Spans, new_memory: NewMemory, keep: int
) -> Restored:
    """Put the newest snapshot of `folder` that fits this log into the workers' folders, as the newest there.

    `log_id` and `spans` say which log this is and what it holds. A worker takes the snapshot when it starts, and
    folds the rest of the log. Raises InvalidConfiguration, saying what does not fit, if there is none.
    """
    empty = new_memory()
    found = load_latest(folder, log_id=log_id, spans=spans, embedder=empty.embedder, dimension=empty.dimension)
    if found is None:
        raise InvalidConfiguration(
            f"no backup in {folder} fits this log: {'; '.join(_reasons(folder, empty, log_id, spans))}",
            hint="Nothing is lost by that: memory is folded from the log. `ruvllm memory export` and `import` "
            "carry it to another log.",
        )
    memory, offsets = found
    for target in targets:
        save(memory, offsets, target, log_id=log_id, keep=keep, name=f"restored-{new_id()}")
    behind = sum(end - max(first, offsets.get(p, 0)) for p, (first, end) in spans.items())
    return Restored(memory, tuple(targets), behind)


def _reasons(folder: Path, empty: Memory, log_id: str, spans: Spans) -> Iterator[str]:
    """For each snapshot, the newest first: what keeps the loader from taking it."""
    manifests = sorted(folder.glob("[0-9]*-*/manifest.json"), reverse=True)
    if not manifests:
        yield "it holds no snapshot"
    for manifest in manifests:
        try:
            given = orjson.loads(manifest.read_bytes())
            differences = list(_differences(given, empty, log_id, spans))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            differences = [f"its manifest cannot be read ({error!r})"]
        yield f"{manifest.parent.name}: {', '.join(differences) or 'its files are not what was written'}"


def _differences(given: Mapping[str, Any], empty: Memory, log_id: str, spans: Spans) -> Iterator[str]:
    wanted = {"format": FORMAT_VERSION, "log": log_id, "embedder": empty.embedder, "dimension": empty.dimension}
    for name, value in wanted.items():
        if given[name] != value:
            yield f"its {name} is {given[name]!r}, here it is {value!r}"
    if given["log"] != log_id:
        return  # offsets of another log mean nothing here
    for partition in sorted(given["offsets"].keys() | spans.keys(), key=int):
        at, (first, end) = given["offsets"].get(partition, 0), spans.get(partition, (0, 0))
        if not first <= at <= end:
            yield f"it goes on at offset {at} of partition {partition}, which has {first} to {end}"
