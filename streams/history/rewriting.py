"""The next generation of a log: copied into topics of another prefix, without what is to be erased.

Invariant: the old generation is left as it is until the new one is counted; only then, and only if asked, its topics
and snapshots are deleted. Snapshots are not copied, memory is folded anew. What still holds the bytes is named.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ruvllm.streams.history.copying import Copied, copy
from ruvllm.streams.history.erasing import Erasure, Wanted, plan
from ruvllm.streams.history.exported import Advance
from ruvllm.streams.history.groups import committed, refuse_at_work
from ruvllm.streams.history.source import KafkaSource
from ruvllm.streams.settings import Settings
from ruvllm.streams.topics import admin
from ruvllm.streams.topology import Names

GENERATION = re.compile(r"(.*)-g(\d+)")
ELSEWHERE = "exports (`ruvllm log export`), backups (`ruvllm memory backup`) and copies in topics of others"


@dataclass(frozen=True)
class Rewritten:
    """What went and what was written; `still_holds`: where the bytes still are; `deleted`: where they were."""

    erasure: Erasure
    copied: Copied
    still_holds: tuple[str, ...]
    deleted: tuple[str, ...]


def next_prefix(prefix: str) -> str:
    """`mine` -> `mine-g2` -> `mine-g3`."""
    known = GENERATION.fullmatch(prefix)
    return f"{known[1]}-g{int(known[2]) + 1}" if known else f"{prefix}-g2"


async def rewrite(
    bootstrap: str,
    settings: Settings,
    old: Names,
    to_prefix: str,
    wanted: Wanted,
    *,
    delete_old: bool = False,
    planned: Callable[[Erasure], Advance] = lambda _: lambda _: None,
) -> Rewritten:
    """Copy the log of `old` to `to_prefix` without what is wanted gone. `planned` is told what goes, before it is read.

    Raises RuvllmError while workers of either run, and what `plan` and `copy` raise.
    """
    await refuse_at_work(bootstrap, old, "rewriting this log")
    source, new = KafkaSource(bootstrap, old), Names(to_prefix, old.tiers, old.partitions)
    erasure = await plan(source, wanted)
    copied = await copy(
        source,
        bootstrap,
        new,
        replication=settings.kafka.replication,
        committed=await committed(bootstrap, old),
        edit=erasure.edit,
        advance=planned(erasure),
    )
    topics = await _topics(bootstrap, old)
    folders = [str(f) for f in (settings.snapshots_folder("any").parent, settings.replays_folder) if f.exists()]
    if not delete_old:
        return Rewritten(erasure, copied, (*topics, *folders, ELSEWHERE), ())
    async with admin(bootstrap) as client:
        await client.delete_topics(topics)
    for folder in folders:
        _delete(Path(folder))
    return Rewritten(erasure, copied, (ELSEWHERE,), (*topics, *folders))


async def _topics(bootstrap: str, names: Names) -> list[str]:
    """Those of this generation that are there, dead letters included."""
    ours = {name for name, _ in names.every()} | set(names.every_dead_letter())
    async with admin(bootstrap) as client:
        return sorted(ours & set(await client.list_topics()))


def _delete(folder: Path) -> None:
    shutil.rmtree(folder)
