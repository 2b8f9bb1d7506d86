"""Checkpoints that learnt from what was taken back: which they are, and what the next run does about them."""

import pytest

from ruvllm.agents.outbox import Emit
from ruvllm.agents.rankers import Rankers
from ruvllm.agents.taint import TakenBack, untainted_before, untainted_parent
from ruvllm.models.attention.graph_attention import Shape, initial
from ruvllm.models.attention.packing import pack_parameters
from ruvllm.models.learning_run import Result
from ruvllm.schemas.flow import Origin
from ruvllm.schemas.outcome import CandidatesCredited, Retract, Retraction
from ruvllm.schemas.training import CheckpointChosen, CheckpointPublished, TrainingRecorded, Verdict
from ruvllm.streams import training
from ruvllm.streams.records import Record, outgoing
from ruvllm.streams.topology import Names
from ruvllm.streams.trainer import Learning
from tests.manual_clock import START, ManualClock

NAMES = Names("t", ("small",), 1)
SHAPE = Shape(16, 2, 1)
PARAMETERS = pack_parameters(initial(SHAPE, 3), SHAPE)
CREDITED = CandidatesCredited.topic


def credited(request, revision=0, *, retracted=False):
    ids = {"session": "s", "request_id": request, "interaction_id": f"ix-{request}"}
    return CandidatesCredited(**ids, time=START, revision=revision, retracted=retracted)


def retract(request):
    ids = {"session": "s", "request_id": request, "interaction_id": f"ix-{request}"}
    return Retract(**ids, time=START, retraction=Retraction(reason="undo"))


def ran(checkpoint, end, parent=None):
    """A run that has read credits to `end`."""
    verdict = Verdict(passed=checkpoint is not None, gain=0.1, questions=20)
    facts = {"seed": 1, "examples": 20, "seconds": 1.0, "verdict": verdict, "parent": parent}
    ends = {CREDITED: {"0": end}}
    return TrainingRecorded(
        time=START, learner="attention", run_id=f"r{end}", offsets=ends, checkpoint=checkpoint, **facts
    )


def served(*runs):
    """The fold of these runs, each checkpoint of which was published and chosen."""
    rankers = Rankers()
    for run in runs:
        rankers.apply(run)
        of_it = {"time": START, "learner": "attention", "checkpoint": run.checkpoint}
        if run.checkpoint:
            rankers.apply(CheckpointPublished(**of_it, run_id=run.run_id, parameters=PARAMETERS))
            rankers.apply(CheckpointChosen(**of_it, reason="gain"))
    return rankers


def told(*events):
    """Where these credits stand, as offsets 0, 1, 2, ...; all but the first are wanted."""
    back = TakenBack({e.interaction_id for e in events if e.retracted})
    for offset, event in enumerate(events):
        back.take(event, Origin(topic=CREDITED, partition=0, offset=offset))
    return back


def test_a_run_is_tainted_if_it_has_read_an_answer_and_not_that_it_was_taken_back():
    # given answers a, b and c, of which b is taken back at offset 3; when runs have read to several places
    back = told(credited("a"), credited("b"), credited("c"), credited("b", 1, retracted=True))
    runs = [ran("before", 1), ran("with", 2), ran("still", 3), ran("without", 4)]
    # then those are tainted that saw it and not its end; so is what went on from them
    assert back.tainted(runs) == {"with", "still"}
    assert back.tainted([*runs, ran("child", 4, parent="still")]) == {"with", "still", "child"}
    # and the same checkpoint learnt again without it is not
    assert back.tainted([*runs, ran("with", 4)]) == {"still"}


def test_a_run_goes_on_from_the_newest_ancestor_that_is_sound():
    # given a line of checkpoints of which the last two are tainted; when a run is due
    rankers = served(ran("a", 1), ran("b", 2, "a"), ran("c", 3, "b"))
    # then it goes on from the first, which also serves if the run fails; if all are tainted, from nothing
    assert untainted_parent(rankers, {"b", "c"}) == ("a", PARAMETERS)
    assert untainted_before(rankers, {"b", "c"}) == "a"
    assert untainted_parent(rankers, {"a", "b", "c"}) is untainted_before(rankers, {"a", "b", "c"}) is None
    assert untainted_parent(rankers, set()) == ("c", PARAMETERS)


class Course:
    """A course whose run ends with a given result."""

    learner = "attention"
    counted = CREDITED
    kinds = (CandidatesCredited,)
    retires = False

    def __init__(self, result):
        self._result = result

    def take(self, event):
        pass

    def lessons(self):
        return []

    def job(self):
        return lambda *_: self._result, ()

    def configuration(self):
        return {}


@pytest.fixture
def run_over(monkeypatch):
    """Runs a learning with a result over a log of these events; what it chooses, and whether that was due."""

    async def here(work, *arguments):
        return work(*arguments)

    monkeypatch.setattr(training, "_in_child", here)

    async def run(rankers, result, *events):
        async def read_topic(name):
            records = [outgoing(Emit(e), NAMES, source="test") for e in events if e.topic == name]
            for offset, r in enumerate(records):
                yield Record(r.topic, 0, r.key, r.value, r.headers, offset)

        learning = Learning(lambda: Course(result), rankers, goes_on=True)
        due = await learning.is_tainted(read_topic)
        made = await learning.run(read_topic, ManualClock(), seed=1)
        return due, made[0].parent, [(e.checkpoint, e.reason) for e in made if isinstance(e, CheckpointChosen)]

    return run


HELD_BACK = Result(None, passed=False, gain=0.0, error=0.1, questions=20, examples=20)
PASSED = Result(PARAMETERS, passed=True, gain=0.2, error=0.1, questions=20, examples=20, checkpoint="new")
LOG = (credited("a"), credited("b"), retract("b"), credited("b", 1, retracted=True))


async def test_what_serves_is_demoted_if_no_sound_run_replaces_it(run_over):
    # given a checkpoint that learnt from b, and its parent that did not; when b is taken back and a run fails
    due, parent, chosen = await run_over(served(ran("a", 1), ran("b", 2, "a")), HELD_BACK, *LOG)
    # then the run was due at once, went on from the parent, and the parent serves
    assert (due, parent) == (True, "a")
    assert chosen == [("a", "b has learnt from answers that were taken back since")]
    # and where no checkpoint is sound, nothing learnt serves
    assert (await run_over(served(ran("b", 2)), HELD_BACK, *LOG))[1:] == (
        None,
        [(None, "b has learnt from answers that were taken back since")],
    )


async def test_a_run_that_passes_replaces_it(run_over):
    # given the same; when the run passes; then what it learnt serves, and nothing else is chosen
    due, _, chosen = await run_over(served(ran("a", 1), ran("b", 2, "a")), PASSED, *LOG)
    assert (due, [checkpoint for checkpoint, _ in chosen]) == (True, ["new"])


async def test_what_serves_stays_where_nothing_was_taken_back_or_it_never_learnt_from_it(run_over):
    # given a checkpoint that read only a; when b is taken back, or nothing is; then no run is due for that
    for events in (LOG, LOG[:2]):
        assert await run_over(served(ran("a", 1)), HELD_BACK, *events) == (False, "a", [])


async def test_what_is_known_to_be_sound_is_not_looked_through_again():
    # given a checkpoint that never learnt from what was taken back; when a trainer looks twice
    reads = []

    async def read_topic(name):
        reads.append(name)
        records = [outgoing(Emit(e), NAMES, source="test") for e in LOG if e.topic == name]
        for offset, r in enumerate(records):
            yield Record(r.topic, 0, r.key, r.value, r.headers, offset)

    learning = Learning(lambda: Course(HELD_BACK), served(ran("a", 1)))
    assert [await learning.is_tainted(read_topic) for _ in range(2)] == [False, False]
    # then the second time it only looks whether more was taken back
    assert reads == [Retract.topic, CREDITED, Retract.topic]
