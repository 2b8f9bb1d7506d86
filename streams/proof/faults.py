"""`ruvllm faults`: a seeded schedule of faults against a small installation under load, then the count.

What happens to whom is in `schedule`, how it is done in `chaos`, what is sent meanwhile in `load`, and what is
counted afterwards in `aftermath`. Here they meet, for one seed or for many.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ruvllm.schemas.memory import PutDocument
from ruvllm.streams.broker.files import KafkaFiles
from ruvllm.streams.broker.local import LocalBroker, free_ports
from ruvllm.streams.ingest import documents_in
from ruvllm.streams.log_reader import read_to_end
from ruvllm.streams.proof.aftermath import COUNTS, amiss, count_effects, outcomes_carried_out
from ruvllm.streams.proof.chaos import Chaos, OwnBroker, Say
from ruvllm.streams.proof.cluster import Cluster
from ruvllm.streams.proof.load import Load
from ruvllm.streams.proof.report import report
from ruvllm.streams.proof.schedule import OF_BROKER, PROCESSES, Plan, lanes
from ruvllm.streams.safeguards import VARIABLE as WITHOUT
from ruvllm.streams.safeguards import permit
from ruvllm.streams.topology import Names
from ruvllm.streams.wiring import names_of

SESSION_TIMEOUT_S = 6.0
OWN_SESSION_TIMEOUT_S = 3.0
"""On a broker of our own, which allows it: the dead are missed sooner, and more can die in a minute."""
SETTLED_S = 2.0
"""For views of memory to read what was written last."""
FLAGS = {
    "profile": "tiny",
    "generation.backend": "echo",
    "generation.echo_delay_s": "0.02",
    "retrieval.embedder": "hashing",
    "kafka.partitions": "4",
    "kafka.session_timeout_s": str(SESSION_TIMEOUT_S),
    "kafka.heartbeat_s": "1.0",
    "kafka.commit_interval_s": "0.5",
    "limits.default_deadline_s": "600",
    "limits.waiting_turns": "1000",
    "memory.snapshot_every": "100",
    "workers.drain_s": "10",
}


class KafkaOfOurOwn(LocalBroker):
    """A broker that may be ended at will."""

    def restart(self) -> None:
        self.stop()
        self.start()

    def kill(self) -> None:
        """SIGKILL, and a new start on the same log."""
        pid = self.status().pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        self.stop()  # collects it
        self.start()


@contextmanager
def broker_of_our_own(jars: Path) -> Iterator[KafkaOfOurOwn]:
    """Kafka in a folder of its own, with an empty log, for as long as it takes."""
    home = Path(tempfile.mkdtemp(prefix="ruvllm-faults-"))
    overrides = {"group.min.session.timeout.ms": "1000"}
    broker = KafkaOfOurOwn(home, *free_ports(2), files=KafkaFiles(jars), overrides=overrides)
    try:
        broker.start()
        yield broker
    finally:
        broker.stop()
        shutil.rmtree(home, ignore_errors=True)


async def run_faults(
    bootstrap: str,
    corpus: Path,
    plan: Plan,
    *,
    broker: OwnBroker | None = None,
    without: Sequence[str] = (),
    flags: Mapping[str, str] = MappingProxyType({}),
    say: Say = lambda _: None,
) -> dict[str, Any]:
    """One run: load and chaos together, then the count. Returns the report.

    `broker`: at `bootstrap`, if it may be ended. `without`: safeguards that the workers do without. `flags`:
    their settings in place of the harness's.
    """
    notes = []
    if broker is None and plan.only & set(OF_BROKER):
        plan = plan.without(OF_BROKER)
        notes.append("the broker is somebody else's: its restarts and kills are skipped")
    timeout_s = SESSION_TIMEOUT_S if broker is None else OWN_SESSION_TIMEOUT_S
    pace = {"kafka.session_timeout_s": str(timeout_s), "kafka.heartbeat_s": str(timeout_s / 6)}
    documents = documents_in([corpus])
    with Cluster(bootstrap, {**FLAGS, **pace, **flags}, forks=True) as cluster:
        if without:
            permit(cluster.folder)
            cluster.environment[WITHOUT] = ",".join(without)
        chaos = Chaos(cluster, lanes(plan, session_timeout_s=timeout_s), say, broker, plan.limit_s)
        for number in range(plan.workers):
            for process in PROCESSES:
                chaos.spawn(process, f"{process}-{number + 1}")
        await cluster.until_ready(*(n for n, m in cluster.members.items() if m.fault is None))
        say(f"{len(cluster.members)} workers, prefix {cluster.settings.kafka.prefix}")
        started = time.monotonic()
        load = Load(bootstrap, names_of(cluster.settings), plan, documents)
        at_work = asyncio.create_task(chaos.run())
        unanswered = await load.run(lambda: 1.0 if at_work.done() else chaos.share())
        await at_work
        seconds = time.monotonic() - started
        say(f"{len(load.sent.every) - unanswered} of {len(load.sent.every)} answered after {seconds:.0f} s")
        await _settled(bootstrap, names_of(cluster.settings), documents, plan.limit_s)
        await asyncio.sleep(SETTLED_S)
        folders = [cluster.settings.snapshots_folder(name) for name in cluster.members]
        await asyncio.to_thread(cluster.stop_workers)  # their memory is in their snapshots then
        results: dict[str, Any] = {"planned": dict(chaos.planned), "done": dict(chaos.done)}
        results |= await count_effects(bootstrap, cluster, load.sent, documents, folders=folders, seed=plan.seed)
        results["findings"] += amiss(results) + [m for m in chaos.missed if "skipped" not in m]
        if results["findings"]:
            cluster.failed = True
            say(cluster.evidence)
    return report(
        "ruvllm faults",
        seed=plan.seed,
        sizes={"sessions": plan.sessions, "workers": plan.workers, "documents": len(documents)},
        results={
            "kills": chaos.kills,
            "requests": len(load.sent.order),
            **{name: results[name] for name in COUNTS},
            **results,
            "without": list(without),
            "notes": notes + [m for m in chaos.missed if "skipped" in m],
            "seconds": round(seconds, 1),
            "kills_per_minute": round(60 * chaos.kills / seconds, 1),
        },
    )


async def _settled(bootstrap: str, names: Names, documents: list[PutDocument], limit_s: float) -> None:
    """Until each document was processed once at least, and what was judged of each answer was carried out."""
    wanted = {d.document_id for d in documents}
    give_up_at = time.monotonic() + limit_s
    while time.monotonic() < give_up_at:
        done = [r async for r in read_to_end(bootstrap, names.topic("document.state"))]
        processed = wanted <= {(r.key or b"").decode().split("\x1f")[1] for r in done}
        if processed and await outcomes_carried_out(bootstrap, names):
            return
        await asyncio.sleep(0.5)
