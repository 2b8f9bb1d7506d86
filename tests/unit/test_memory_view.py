"""The view of memory: it goes on in the very log that it was folded from, and is saved once at a time."""

import asyncio
import threading

import pytest
from structlog.testing import capture_logs

from ruvllm.errors import RuvllmError
from ruvllm.models.embedding import HashingEmbedder
from ruvllm.models.memory.node import Node
from ruvllm.models.memory.store import Memory
from ruvllm.schemas.memory import NodeAdded
from ruvllm.schemas.wire import encode
from ruvllm.streams import memory_view
from ruvllm.streams.memory_view import MemoryView
from ruvllm.streams.metrics import Metrics
from ruvllm.streams.records import Record
from ruvllm.streams.topology import client_names
from tests.manual_clock import START, ManualClock

EMBEDDER = HashingEmbedder(dimension=16)
LOG = "cluster/t.memory.changed.v1"
SPANS = {0: (0, 9), 1: (0, 4)}


class Nobody:
    """A sender whose reports nobody reads."""

    names = client_names("t", 2)
    source = "answer-1"

    async def send(self, emits, *, parent=None):
        pass


def new_memory():
    return Memory(EMBEDDER.name, EMBEDDER.dimension)


def node(text):
    (vector,) = EMBEDDER.embed([text])
    return Node(text, "t", "document", "", text, "d", 0, {}, EMBEDDER.name, vector, 0.0)


class View(MemoryView):
    """A view that is told what its broker would say: `reads(view)` stands for one connection."""

    def __init__(self, folder, reads=None):
        super().__init__(
            "nowhere:1",
            Nobody(),
            ManualClock(),
            Metrics(),
            new_memory=new_memory,
            embedder=EMBEDDER.name,
            dimension=EMBEDDER.dimension,
            folder=folder,
            snapshot_every=1,
            snapshots_kept=5,
        )
        self._reads = reads

    async def _read_on(self):
        await self._reads(self)

    def folds(self, text, **positions):
        """As if a change had come, and the partitions now stood at `p0=1, ...`."""
        self.memory.put_node(node(text))
        self._positions.update({int(p[1:]): offset for p, offset in positions.items()})
        self._since_snapshot += 1


async def saved_view(folder, log=LOG):
    """A snapshot of one node, at offset 5 of partition 0."""
    view = View(folder)
    await view._go_on(log, SPANS)
    view.folds("fog", p0=5)
    await view.stop()


async def test_a_view_goes_on_from_its_snapshot(tmp_path):
    # given a snapshot; when a view of the same log begins; then it has the node and goes on where it was
    await saved_view(tmp_path)
    view = View(tmp_path)
    await view._go_on(LOG, SPANS)
    assert (view.memory.stats().nodes, view.offsets()) == (1, {"0": 5})


@pytest.mark.parametrize(
    ("log", "spans", "offsets"),
    [
        ("another/t.memory.changed.v1", SPANS, {}),
        (LOG, {0: (0, 4), 1: (0, 4)}, {}),
        (LOG, {0: (6, 9), 1: (0, 4)}, {"0": 6}),
    ],
    ids=["another cluster", "shorter than it was", "its beginning deleted"],
)
async def test_a_snapshot_of_another_log_is_not_memory(tmp_path, log, spans, offsets):
    # given a snapshot; when the log is another, or does not hold what comes next
    await saved_view(tmp_path)
    view = View(tmp_path)
    with capture_logs() as logs:
        await view._go_on(log, spans)
    # then memory is folded from the log's beginning, and a line says why
    assert (view.memory.stats().nodes, view.offsets()) == (0, offsets)
    assert [entry["event"] for entry in logs] == ["snapshot passed over"]


@pytest.mark.parametrize(
    ("log", "spans"), [("another", SPANS), (LOG, {0: (0, 1), 1: (0, 4)})], ids=["another log", "cut"]
)
async def test_a_view_ends_when_its_log_is_replaced_under_it(tmp_path, log, spans):
    # given a view that was reading; when it connects again and finds another log, or less than it has read
    async def reads(view):
        await view._go_on(LOG, SPANS)
        view.folds("fog", p0=5)
        await view._go_on(log, spans)
        await asyncio.Event().wait()

    view = View(tmp_path, reads)
    await view.start()
    # then it is not ready, and has failed: its process must begin anew
    with pytest.raises(RuvllmError, match=f"memory was folded from log {LOG}"):
        await view.wait_ready(1)
    assert (view.ready, view.failed) == (False, True)
    # and what it has folded is of use for the log that it was folded from
    await view.stop()
    again = View(tmp_path)
    await again._go_on(LOG, SPANS)
    assert again.offsets() == {"0": 5}


async def test_the_loop_waits_for_no_change_of_memory(tmp_path):
    # given a search that holds memory, and a change that has come
    searching, go_on = threading.Event(), threading.Event()
    view = View(tmp_path)

    def search():
        with view.memory.lock:
            searching.set()
            go_on.wait(5)

    thread = threading.Thread(target=search)
    thread.start()
    assert await asyncio.to_thread(searching.wait, 5)
    (vector,) = EMBEDDER.embed(["fog"])
    facts = {"node_id": "n", "node_kind": "document", "title": "", "text": "fog", "vector": vector}
    value = encode(NodeAdded(time=START, change_id="ch", embedder=EMBEDDER.name, **facts))
    record = Record(topic="memory.changed", partition=0, key=b"n", value=value, offset=7)
    # when it is folded; then the loop goes on meanwhile
    folding = asyncio.create_task(view._take_in([record]))
    await asyncio.wait({folding}, timeout=0.05)
    assert not folding.done()
    # and the change is there once the search is over
    go_on.set()
    await folding
    thread.join()
    assert view.memory.node("default", "n").text == "fog"


async def test_a_ready_view_takes_what_it_folded_into_its_indexes_by_itself(tmp_path):
    # given a view that has folded more than is scanned
    async def reads(view):
        await view._go_on(LOG, SPANS)
        for i in range(40):
            view.folds(f"lamp {i}", p0=5)
        view._caught_up.set()
        await asyncio.Event().wait()

    view = View(tmp_path, reads)
    view.memory = Memory(EMBEDDER.name, EMBEDDER.dimension, exact_below=20)
    await view.start()
    await view.wait_ready(5)
    # when it is left alone; then its graph and its words have everything, and they take in what comes later
    await asyncio.wait_for(view._indexed.wait(), 5)
    assert not view.memory.index("t", "document").behind
    assert "lamp 39" in view.memory.words("t").lexicon
    view.folds("late")
    view._changed.set()
    async with asyncio.timeout(5):
        while "late" not in view.memory.words("t").lexicon:
            await asyncio.sleep(0.01)
    await view.stop()
    assert not view.failed


async def test_stopping_waits_for_the_save_under_way(tmp_path, monkeypatch):
    # given a view whose periodic snapshot is held up, as by a slow disk
    begun, go_on = threading.Event(), threading.Event()
    saving, at_once = 0, []
    real_save = memory_view.save

    def save(*args, **kwargs):
        nonlocal saving
        saving += 1
        at_once.append(saving)
        begun.set()
        assert go_on.wait(10)
        path = real_save(*args, **kwargs)
        saving -= 1
        return path

    async def reads(view):
        await view._go_on(LOG, SPANS)
        view.folds("fog", p0=5)
        await view._snapshot()

    monkeypatch.setattr(memory_view, "save", save)
    view = View(tmp_path, reads)
    await view.start()
    assert await asyncio.to_thread(begun.wait, 10)
    # when it is stopped meanwhile
    stopping = asyncio.create_task(view.stop())
    await asyncio.wait({stopping}, timeout=0.2)
    go_on.set()
    await stopping
    # then the last save begins after the first has ended, and both are whole
    assert at_once == [1, 1]
    assert [p.name[:11] for p in sorted(tmp_path.iterdir())] == ["0000000001-", "0000000002-"]
    again = View(tmp_path)
    await again._go_on(LOG, SPANS)
    assert again.memory.digest() == view.memory.digest()
