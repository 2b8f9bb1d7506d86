"""Any history of a desk keeps its promises: submissions, redeliveries, answers, failures, time, dead owners.

Hypothesis draws histories as lists of steps. Beside the desk, a book is kept of what has been
delivered; it knows nothing of the desk's state and says what each step may send.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field

from hypothesis import example, given, settings
from hypothesis import strategies as st

from ruvllm.agents.desk import DeskRules
from ruvllm.schemas.event import Event
from ruvllm.schemas.flow import Admitted, Failed, Generated, Origin, Turn
from ruvllm.schemas.request import Response
from tests.unit.desk_life import DeskLife, admitted, responses, state_of

SESSIONS = ("tour", "quay")
IDS = ("a", "b", "c", "d")
Key = tuple[str, str]  # session, request id

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("submit"), st.sampled_from(SESSIONS), st.sampled_from(IDS), st.sampled_from([5, 50])),
        st.tuples(st.just("refuse"), st.sampled_from(SESSIONS), st.sampled_from(IDS)),
        st.tuples(st.sampled_from(["redeliver", "answer", "answer", "fail"]), st.integers(0, 30)),
        st.tuples(st.just("wait"), st.sampled_from([1, 6, 60])),
        st.tuples(st.sampled_from(["restart", "die"])),
    ),
    max_size=40,
)


@dataclass
class History:
    """A desk living through steps, and the book."""

    life: DeskLife = field(default_factory=lambda: DeskLife(DeskRules(waiting_turns=2)))
    submissions: list[Turn | Failed] = field(default_factory=list)  # in order of their first delivery
    flights: list[Admitted] = field(default_factory=list)
    seen: defaultdict[Key, list[Origin]] = field(default_factory=lambda: defaultdict(list))
    answered: dict[Key, Response] = field(default_factory=dict)
    owner_dies: bool = False  # on its next event, before its records are written

    def take(self, step: tuple[object, ...]) -> None:
        match step:
            case ("submit", str(session), str(request_id), int(within_s)):
                self._deliver(self.life.turn(request_id, session, within_s=within_s))
            case ("refuse", str(session), str(request_id)):
                self._deliver(self.life.refusal(request_id, session))
            case ("redeliver", int(number)) if self.submissions:
                self._deliver(self.submissions[number % len(self.submissions)])
            case ("answer", int(number)) if self.flights:
                self._meet(self.life.answer(self.flights[number % len(self.flights)]))
            case ("fail", int(number)) if self.flights:
                flight = self.flights[number % len(self.flights)]
                self._meet(self.life.failure(flight.request_id, flight.session))
            case ("wait", int(seconds)):
                self.life.clock.advance(seconds)
                self._check_new(self.life.tick())
            case ("restart",):
                self._check_refolded()
                self.life.restart()
            case ("die",):
                self.owner_dies = True

    def end(self) -> None:
        """All deadlines pass."""
        for _ in range(3):
            self.life.clock.advance(1000)
            self._check_new(self.life.tick())
        self._check_refolded()

    # --- the book ---------------------------------------------------------------------------------

    def _deliver(self, submission: Turn | Failed) -> None:
        """One delivery of a submission; after an answer, a new one is answered once and another not at all."""
        key = (submission.session, submission.request_id)
        origin = submission.request.origin if isinstance(submission, Turn) else submission.origin
        assert origin is not None
        known, is_new = self.answered.get(key), origin not in self.seen[key]
        if is_new:
            self.seen[key].append(origin)
            self.submissions.append(submission)
        events = self._meet(submission)
        if known is not None and is_new:
            (again,) = responses(events)
            assert again == known.model_copy(update={"repeated": True, "time": self.life.clock.now()})
        if known is not None and not is_new:
            assert events == []
        if known is None and not is_new:
            assert responses(events) == []  # its answer will come with the first delivery's

    def _meet(self, event: Turn | Failed | Generated) -> list[Event]:
        if self.owner_dies:
            self.owner_dies = False
            self.life.lose(event)  # and it is delivered again to the next owner
        return self._check_new(self.life.meet(event))

    def _check_new(self, events: list[Event]) -> list[Event]:
        """No id is answered twice, and nobody is admitted beside one that is in flight."""
        for event in events:
            key = (getattr(event, "session", ""), getattr(event, "request_id", ""))
            if isinstance(event, Response) and not event.repeated:
                assert key not in self.answered
                self.answered[key] = event
            elif isinstance(event, Admitted):
                open_flights = [f for f in self.flights if (f.session, f.request_id) not in self.answered]
                assert event.session not in {f.session for f in open_flights}
                assert key not in self.answered
                self.flights.append(event)
        return events

    def _check_refolded(self) -> None:
        assert state_of(self.life.refolded()) == state_of(self.life.desk)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(steps=STEPS)
@example(steps=[("submit", "tour", i, 50) for i in IDS] + [("die",), ("answer", 0), ("restart",), ("redeliver", 0)])
@example(steps=[("submit", "tour", "a", 5), ("refuse", "tour", "a"), ("wait", 6), ("answer", 0), ("redeliver", 1)])
def test_any_history_answers_each_id_once_and_each_submission_at_most_once(steps):
    # given any history of one partition
    history = History()
    for step in steps:
        history.take(step)
    # when all deadlines have passed
    history.end()
    # then every id that was submitted has exactly one response that is not a repetition
    told = Counter((r.session, r.request_id) for r in written(history) if not r.repeated)
    assert told == Counter(history.seen.keys())
    # and no id has more responses than submissions
    told.update((r.session, r.request_id) for r in written(history) if r.repeated)
    assert all(told[key] <= len(origins) for key, origins in history.seen.items())
    # and the turns of a session were admitted in the order in which they came
    for session in SESSIONS:
        came = [key[1] for key in history.seen if key[0] == session]
        let_in = [f.request_id for f in history.flights if f.session == session]
        assert let_in == [i for i in came if i in set(let_in)]
        assert len(let_in) == len(set(let_in))
    # and nothing is left over
    assert history.life.in_flight == 0


def written(history):
    return responses(emit.event for emit in history.life.written)


def test_the_book_itself_is_sound():
    # given a history in which everything happens; when it is lived; then the book has noticed all of it
    history = History()
    for request_id in IDS:
        history.take(("submit", "tour", request_id, 5))
    history.take(("submit", "tour", "a", 5))
    history.take(("die",))
    history.take(("answer", 0))
    history.take(("refuse", "quay", "a"))
    history.end()
    assert {key[1]: r.error.code if r.error else r.text for key, r in history.answered.items() if key[0] == "tour"} == {
        "a": "Osk.",
        "b": "deadline_exceeded",
        "c": "deadline_exceeded",
        "d": "session_queue_full",
    }
    assert [f.request_id for f in admitted(history.flights)] == ["a", "b"]
