"""The whole flow in one process, over a log in memory or in a file; no Kafka.

The same stages, handlers, guards and bytes as on Kafka, run one record at a time until nothing is
left to do. For tests, notebooks, debugging, and trying the service without a broker. With a file,
the log outlives the process: on opening, state and memory are folded from it.
"""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator, Collection, Iterable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any, BinaryIO

import orjson

from ruvllm.agents.clock import Clock
from ruvllm.agents.memory_fold import CHANGES, fold
from ruvllm.agents.outbox import Emit, Outbox
from ruvllm.agents.rankers import Rankers
from ruvllm.agents.routers import Routers
from ruvllm.errors import InvalidConfiguration, RuvllmError
from ruvllm.schemas.event import Event
from ruvllm.schemas.request import Ask, Response, constraints_of
from ruvllm.schemas.training import Learner, TrainingRecorded
from ruvllm.streams.clock import SystemClock
from ruvllm.streams.guard import Guard, Retry, give_up, read, stage_events
from ruvllm.streams.metrics import Metrics
from ruvllm.streams.owner import Keeper, fold_state
from ruvllm.streams.records import Record, outgoing
from ruvllm.streams.settings import Settings, load_settings
from ruvllm.streams.topology import STAGES, Names, Shape, Stage, topic
from ruvllm.streams.trainer import learnings
from ruvllm.streams.wiring import Wiring


class SerialLog:
    """An append-only log by topic; each record's offset is its place. Kept in a file if one is named."""

    def __init__(self, file: Path | None = None) -> None:
        self.topics: dict[str, list[Record]] = {}
        self.positions: dict[str, int] = {}  # "<stage> <topic>" -> next offset, as last committed
        self._file: BinaryIO | None = None
        if file is not None:
            raw = file.read_bytes() if file.exists() else b""
            self._load(file, raw)
            file.parent.mkdir(parents=True, exist_ok=True)
            self._file = file.open("ab")
            if raw and not raw.endswith(b"\n"):  # cut between a line and its end
                self._file.write(b"\n")

    def append(self, record: Record) -> Record:
        records = self.topics.setdefault(record.topic, [])
        stored = Record(
            record.topic, record.partition or 0, record.key, record.value, dict(record.headers), len(records)
        )
        records.append(stored)
        self._write({"record": _to_json(stored)})
        return stored

    def commit(self, positions: Mapping[str, int]) -> None:
        """Note how far each stage has come; what lies behind is not handled again."""
        self.positions = dict(positions)
        self._write({"positions": self.positions})
        if self._file is not None:
            self._file.flush()

    def close(self) -> None:
        if self._file is not None:
            self._file.close()

    def _write(self, line: dict[str, Any]) -> None:
        if self._file is not None:
            self._file.write(orjson.dumps(line) + b"\n")

    def _load(self, file: Path, raw: bytes) -> None:
        for number, line in enumerate(raw.splitlines(), 1):
            try:
                entry = orjson.loads(line)
            except orjson.JSONDecodeError as error:
                raise InvalidConfiguration(
                    f"{file}, line {number} is not JSON: {error}",
                    hint="The last line may be cut if the process was killed: delete it; all before it stands.",
                ) from error
            if "record" in entry:
                record = _from_json(entry["record"])
                self.topics.setdefault(record.topic, []).append(record)
            else:
                self.positions = entry["positions"]


def _to_json(record: Record) -> dict[str, Any]:
    def text(raw: bytes | None) -> str | None:
        return None if raw is None else base64.b64encode(raw).decode()

    return {
        "topic": record.topic,
        "partition": record.partition,
        "offset": record.offset,
        "key": text(record.key),
        "value": text(record.value),
        "headers": {k: text(v) for k, v in record.headers.items()},
    }


def _from_json(entry: dict[str, Any]) -> Record:
    def raw(text: str | None) -> bytes | None:
        return None if text is None else base64.b64decode(text)

    headers = {k: raw(v) or b"" for k, v in entry["headers"].items()}
    return Record(entry["topic"], entry["partition"], raw(entry["key"]), raw(entry["value"]), headers, entry["offset"])


class SerialSender:
    """The sender's verbs on a serial log."""

    def __init__(self, log: SerialLog, names: Names) -> None:
        self.names = names
        self.source = "serial"
        self._log = log

    async def send(self, emits: Iterable[Emit], *, parent: Mapping[str, bytes] | None = None) -> None:
        await self.write([outgoing(e, self.names, source=self.source, parent=parent) for e in emits])

    async def write(self, records: Iterable[Record]) -> None:
        for record in records:
            self._log.append(record)


class SerialSystem:
    """The service in this process. `async with SerialSystem(settings) as system: await system.ask(...)`."""

    def __init__(
        self,
        settings: Settings | None = None,
        *,
        file: Path | None = None,
        clock: Clock | None = None,
        without: Collection[str] = (),
    ) -> None:
        """`without`: stages that are stopped; what they consume stays in the log."""
        self._stages = tuple(stage for stage in STAGES if stage.name not in without)
        self.settings = settings or load_settings()
        self.clock = clock or SystemClock()
        self.log = SerialLog(file)
        self.metrics = Metrics()
        self.wiring = Wiring(self.settings, self.clock)
        self.wiring.memory = self
        self.names = self.wiring.names
        self.memory = self.wiring.new_memory()
        self.sender = SerialSender(self.log, self.names)
        self._folded = 0
        self._learnt: dict[str, int] = {}
        self.rankers, self.routers = Rankers(), Routers(self.wiring.untrained_router)
        self.past = self.wiring.new_past()
        self.wiring.ranker, self.wiring.router = self.rankers.current, self.routers.current
        self.wiring.past = self.past
        self._positions: dict[str, int] = dict(self.log.positions)
        self._keepers: dict[tuple[str, int], Keeper] = {}
        self._guards = {
            stage.name: Guard(
                stage, self.wiring.handler(stage.name), self.sender, self.clock, self.metrics, Retry(attempts=1)
            )
            for stage in STAGES
            if stage.shape is not Shape.OWNER
        }
        self._restore()

    async def __aenter__(self) -> SerialSystem:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        await self.wiring.close()
        self.log.close()

    # --- use --------------------------------------------------------------------------------------

    async def send(self, *events: Event) -> None:
        """Append users' commands to the log, as a producer would."""
        await self.sender.send([Emit(e) for e in events])

    async def ask(
        self, prompt: str, *, session: str | None = None, deadline_s: float | None = None, **constraints: Any
    ) -> Response:
        """Ask one question and run the flow until it is answered. Keywords as `Constraints`."""
        now = self.clock.now()
        if deadline_s is not None:
            constraints["deadline"] = now + timedelta(seconds=deadline_s)
        ask = Ask(time=now, prompt=prompt, session=session, constraints=constraints_of(constraints))
        await self.send(ask)
        await self.run()
        return self.responses(ask.request_id)[-1]

    def events(self, name: str) -> list[Event]:
        """Every event in a topic of the topology, oldest first."""
        return [
            read(record, topic(name).events)
            for kafka_topic in self.names.topics(name)
            for record in self.log.topics.get(kafka_topic, [])
            if record.value is not None
        ]

    async def train(self, learner: Learner, *, seed: int = 1) -> TrainingRecorded:
        """A training run over the log, as the learn process makes one; what it recorded."""
        learning = learnings(self.wiring, self.rankers, self.routers)[learner]

        async def read_topic(name: str) -> AsyncIterator[Record]:
            for record in self.log.topics.get(self.names.topic(name), []):
                yield record

        events = await learning.run(read_topic, self.clock, seed=seed)
        await self.send(*events)
        self._fold_learnt()
        recorded = events[0]
        assert isinstance(recorded, TrainingRecorded)
        return recorded

    def responses(self, request_id: str | None = None) -> list[Response]:
        """The terminal responses, of one request id or of all."""
        found = [e for e in self.events("response.completed") if isinstance(e, Response)]
        return [r for r in found if request_id is None or r.request_id == request_id]

    def offsets(self) -> Mapping[str, int]:
        """As a memory source: serial memory has one partition."""
        return {"0": self._folded} if self._folded else {}

    # --- running ----------------------------------------------------------------------------------

    async def run(self) -> int:
        """Handle everything that is in the log, in flow order, until nothing is left. Returns how many records."""
        handled = 0
        while True:
            before = handled
            for stage in self._stages:
                handled += await self._run_stage(stage)
            self._fold_memory()
            self._fold_learnt()
            if handled == before:
                break
        self.log.commit(self._positions)
        return handled

    async def _run_stage(self, stage: Stage) -> int:
        handled = 0
        for name in self.names.consumed(stage):
            place = f"{stage.name} {name}"
            records = self.log.topics.get(name, [])
            while (at := self._positions.get(place, 0)) < len(records):
                if stage.recalls:
                    self._fold_memory()
                if stage.shape is Shape.OWNER:
                    await self._effect(stage, records[at])
                else:
                    await self._guards[stage.name].handle(records[at])
                self._positions[place] = at + 1
                handled += 1
        if stage.shape is Shape.OWNER:
            for (name, _), keeper in list(self._keepers.items()):
                if name == stage.name:
                    await self._emit(keeper.tick(), None)
        return handled

    async def _effect(self, stage: Stage, record: Record) -> None:
        try:
            event = read(record, stage_events(stage))
            keeper = self._keeper(stage, self.names.partition(event))  # where its state is, whoever put it where
            outbox = await keeper.handle(event, record.origin)
        except RuvllmError as error:
            await give_up(record, error, stage, self.sender, self.clock, self.metrics)
            return
        await self._emit(outbox, record)

    async def _emit(self, outbox: Outbox, cause: Record | None) -> None:
        parent = cause.headers if cause else None
        await self.sender.write(
            [outgoing(e, self.names, source=self.sender.source, parent=parent) for e in outbox.emits]
        )
        if outbox.receipt is not None:
            end = len(self.log.topics.get(self.names.topic("memory.changed"), []))
            await self.sender.send([Emit(outbox.receipt({"0": end} if end else {}))], parent=parent)

    def _keeper(self, stage: Stage, partition: int) -> Keeper:
        key = (stage.name, partition)
        if key not in self._keepers:
            self._keepers[key] = self.wiring.keeper(stage.name)()
        return self._keepers[key]

    # --- state from the log -----------------------------------------------------------------------

    def _fold_memory(self) -> None:
        changes = self.log.topics.get(self.names.topic("memory.changed"), [])
        while self._folded < len(changes):
            fold(self.memory, read(changes[self._folded], CHANGES), changes[self._folded].offset)  # type: ignore[arg-type]
            self._folded += 1

    def _fold_learnt(self) -> None:
        for name, folds in (
            ("training.recorded", (self.rankers.apply, self.routers.apply)),
            ("outcome.judged", (self.past.apply,)),
        ):
            records = self.log.topics.get(self.names.topic(name), [])
            for record in records[self._learnt.get(name, 0) :]:
                event = read(record, topic(name).events)
                for fold_in in folds:
                    fold_in(event)
            self._learnt[name] = len(records)
        for tenant in list(self.past.due()):
            self.past.refresh(tenant)

    def _restore(self) -> None:
        self._fold_memory()
        self._fold_learnt()
        for stage in STAGES:
            if stage.state is None:
                continue
            for record in self.log.topics.get(self.names.topic(stage.state), []):
                fold_state(self._keeper(stage, record.partition or 0), stage, record)
