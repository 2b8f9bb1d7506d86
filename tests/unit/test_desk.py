"""The desk: one request in flight a session, turns in order, and one terminal response for each id."""

import pytest

from ruvllm.agents.desk import ORIGINS_KEPT, DeskRules
from ruvllm.errors import InvalidRequest
from ruvllm.schemas.flow import AnsweredState, Interaction
from ruvllm.schemas.request import Message
from tests.unit.desk_life import DeskLife, admitted, asked, responses, state_of, told
from tests.unit.sample_events import BY_KIND


@pytest.fixture
def life():
    return DeskLife()


# --- admission and order ------------------------------------------------------------------------------


def test_one_request_is_in_flight_and_later_turns_wait_in_order(life):
    # given three turns of one session
    first = asked(life, "a", "b", "c")
    assert [e.request_id for e in first] == ["a"]
    # when each is answered; then the next is admitted, in the order of arrival
    events = life.meet(life.answer(first[0]))
    assert told(events) == [("a", "Osk.")]
    assert [e.request_id for e in admitted(events)] == ["b"]
    events = life.meet(life.answer(admitted(events)[0]))
    assert [e.request_id for e in admitted(events)] == ["c"]


def test_sessions_do_not_wait_for_each_other(life):
    # given turns of two sessions, and the same session name of another tenant
    here, there = asked(life, "a", "b", session="tour"), asked(life, "c", session="quay")
    other = admitted(life.meet(life.turn("d").model_copy(update={"tenant": "harbour"})))
    # when admitted; then each session has one in flight, and one does not wait for another
    assert [e.request_id for e in (*here, *there, *other)] == ["a", "c", "d"]
    assert life.in_flight == 3
    # and an answer lets in the next of its own session only, with that session's history
    events = life.meet(life.answer(here[0], "It is blue."))
    assert [(e.session, e.request_id) for e in admitted(events)] == [("tour", "b")]
    assert [m.content for m in admitted(events)[0].history] == ["What of a?", "It is blue."]
    assert life.meet(life.answer(there[0]))[0].session == "quay"


def test_a_full_queue_is_refused_at_once():
    # given a session with two waiting, which is its bound
    life = DeskLife(DeskRules(waiting_turns=2))
    asked(life, "a", "b", "c")
    # when another comes; then it is answered with an error, and the others are as they were
    events = life.meet(life.turn("d"))
    assert told(events) == [("d", "session_queue_full")]
    assert responses(events)[0].error.hint
    assert admitted(life.meet(life.turn("e", "quay")))[0].request_id == "e"


def test_without_a_queue_a_session_refuses_a_second_turn():
    # given a desk that lets nobody wait; when a second turn comes; then it is refused
    life = DeskLife(DeskRules(waiting_turns=0))
    asked(life, "a")
    assert told(life.meet(life.turn("b"))) == [("b", "session_queue_full")]


def test_what_is_admitted_carries_the_request_and_the_sessions_knowledge(life):
    # given a session with an answer behind it; when the next turn is admitted
    (first,) = asked(life, "a")
    life.meet(life.answer(first, finish_reason="length", confidence=0.25))
    turn = life.turn("b", within_s=7)
    (second,) = admitted(life.meet(turn))
    # then it carries its request, its deadline and what the router knew of the session
    assert (second.request, second.deadline) == (turn.request, turn.deadline)
    assert second.interaction_id != first.interaction_id
    state = second.router_state
    assert (state.checkpoint, state.tier, state.finish_reason, state.confidence) == ("router-1", "135m", "length", 0.25)
    assert first.router_state is None


def test_the_desk_refuses_events_that_it_has_no_use_for(life):
    # given an event of another stage; when met; then it is an error that the guard can answer
    with pytest.raises(InvalidRequest, match=r"request\.routed"):
        life.meet(BY_KIND["request.routed"])


# --- repeated ids -------------------------------------------------------------------------------------


def test_a_redelivered_turn_changes_nothing(life):
    # given a turn in flight and one waiting; when both are delivered again
    flying, waiting = life.turn("a"), life.turn("b")
    (first,) = admitted(life.meet(flying) + life.meet(waiting))
    before = state_of(life.desk)
    # then nothing happens
    assert life.meet(flying) == life.meet(waiting) == []
    assert state_of(life.desk) == before
    # nor after they are answered
    second = admitted(life.meet(life.answer(first)))[0]
    life.meet(life.answer(second))
    assert life.meet(flying) == life.meet(waiting) == []


@pytest.mark.parametrize("place", ["in flight", "waiting"])
def test_an_id_submitted_again_before_its_answer_gets_that_one_answer(life, place):
    # given an id in flight or waiting, submitted a second time
    flight = asked(life, "a" if place == "in flight" else "z", "a")
    again = life.turn("a")
    assert responses(life.meet(again)) == []
    # when it is answered
    if place == "waiting":
        flight = admitted(life.meet(life.answer(flight[0])))
    assert told(life.meet(life.answer(flight[0]))) == [("a", "Osk.")]
    # then that was the answer to both: a redelivery of the second submission gives nothing
    assert life.meet(again) == []


def test_an_id_submitted_again_after_its_answer_gets_the_stored_one_marked(life):
    # given an answered id; when it is submitted again, with another question under it
    (first,) = asked(life, "a")
    (answered,) = responses(life.meet(life.answer(first)))
    life.clock.advance(5)
    again = life.turn("a", messages=(Message(role="user", content="Something else?"),))
    events = life.meet(again)
    # then the stored answer comes, marked, and nothing is admitted
    assert responses(events) == [answered.model_copy(update={"repeated": True, "time": life.clock.now()})]
    assert admitted(events) == []
    # and its own redelivery gives nothing, while a third submission is answered again
    assert life.meet(again) == []
    assert told(life.meet(life.turn("a"))) == [("a", "Osk.")]


def test_the_same_id_in_another_session_is_another_request(life):
    # given an answered id; when it comes in another session
    (first,) = asked(life, "a")
    life.meet(life.answer(first, "In the tower."))
    (second,) = asked(life, "a", session="quay")
    # then it is asked and answered there on its own
    assert second.interaction_id != first.interaction_id
    (response,) = responses(life.meet(life.answer(second, "On the quay.")))
    assert (response.session, response.text, response.repeated) == ("quay", "On the quay.", False)


def test_an_error_is_repeated_like_an_answer(life):
    # given an id that ended with an error; when submitted again; then the error is repeated, not tried again
    asked(life, "a")
    life.meet(life.failure("a"))
    events = life.meet(life.turn("a"))
    assert told(events) == [("a", "model_crashed")]
    assert responses(events)[0].repeated and not admitted(events)


def test_only_the_last_submissions_of_an_id_are_kept(life):
    # given an id submitted more often than origins are kept; when its state is looked at
    (first,) = asked(life, "a")
    life.meet(life.answer(first))
    for _ in range(3 * ORIGINS_KEPT):
        events = life.meet(life.turn("a"))
    # then the record is bounded, and holds the newest
    (state,) = [e for e in events if isinstance(e, AnsweredState)]
    assert len(state.origins) == ORIGINS_KEPT
    assert state.origins[-1].offset == 3 * ORIGINS_KEPT


# --- answers and failures -----------------------------------------------------------------------------


def test_late_and_repeated_answers_are_dropped(life):
    # given a request that ended at its deadline, and one that was answered
    (late,) = asked(life, "a", within_s=10)
    life.clock.advance(10)
    assert told(life.tick()) == [("a", "deadline_exceeded")]
    (second,) = asked(life, "b")
    life.meet(life.answer(second))
    # when their answers and failures come (again); then nothing happens
    before = state_of(life.desk)
    for event in (life.answer(late), life.answer(second, "Other."), life.failure("a"), life.failure("b")):
        assert life.meet(event) == []
    assert state_of(life.desk) == before


def test_a_late_answer_does_not_end_the_next_request(life):
    # given a request that ended at its deadline and the next of its session in flight
    (late,) = asked(life, "a", within_s=10)
    asked(life, "b", within_s=60)
    life.clock.advance(10)
    (second,) = admitted(life.tick())
    # when the first one's answer comes at last; then the second is still in flight
    assert life.meet(life.answer(late)) == []
    assert told(life.meet(life.answer(second, "For b."))) == [("b", "For b.")]


def test_a_stages_failure_ends_what_is_in_flight_and_lets_the_next_in(life):
    # given one in flight and one waiting; when a stage gives up on the first
    asked(life, "a", "b")
    events = life.meet(life.failure("a"))
    # then its error is terminal, is in the log, and the next is admitted without its history
    (response,) = responses(events)
    assert (response.finish_reason, response.error.code, response.error.stage) == ("error", "model_crashed", "generate")
    assert [e.fault.code for e in events if isinstance(e, Interaction)] == ["model_crashed"]
    assert [(e.request_id, e.history) for e in admitted(events)] == [("b", ())]


def test_a_refused_submission_is_answered_though_it_was_never_admitted(life):
    # given a session at work; when intake refuses another submission of it
    asked(life, "a")
    refusal = life.refusal("bad")
    assert told(life.meet(refusal)) == [("bad", "model_crashed")]
    # then once: not for its redelivery, and marked for a further one, be it sound or refused
    assert life.meet(refusal) == []
    assert [r.repeated for r in responses(life.meet(life.turn("bad")))] == [True]
    assert [r.repeated for r in responses(life.meet(life.refusal("bad")))] == [True]
    assert life.in_flight == 1


def test_a_refused_submission_of_an_open_id_shares_its_answer(life):
    # given an id in flight; when the same id is refused at intake
    (first,) = asked(life, "a")
    refusal = life.refusal("a")
    # then the request goes on, and its answer serves both
    assert responses(life.meet(refusal)) == []
    assert told(life.meet(life.answer(first))) == [("a", "Osk.")]
    assert life.meet(refusal) == []


def test_a_failure_of_a_waiting_turn_is_ignored_while_it_waits(life):
    # given a waiting turn; when a stage's failure names it (it can have seen an earlier life of it only)
    (first,) = asked(life, "a", "b")
    assert life.meet(life.failure("b")) == []
    # then it is admitted in its turn
    assert [e.request_id for e in admitted(life.meet(life.answer(first)))] == ["b"]


def test_a_failure_of_a_turn_that_could_not_be_read_is_answered(life):
    # given a failure without origin for an id that the desk has not seen; when met; then it is terminal
    assert told(life.meet(life.failure("lost"))) == [("lost", "model_crashed")]


# --- deadlines ----------------------------------------------------------------------------------------


def test_a_deadline_is_kept_though_nobody_serves(life):
    # given a request that no stage takes up; when its deadline comes
    asked(life, "a", within_s=10)
    life.clock.advance(9.999)
    assert life.tick() == []
    life.clock.advance(0.001)
    events = life.tick()
    # then it is answered with an error, and no more
    assert told(events) == [("a", "deadline_exceeded")]
    assert responses(events)[0].latency_ms == {"total": 10_000.0}
    assert life.tick() == []
    assert life.in_flight == 0


def test_waiting_turns_expire_while_the_one_in_flight_goes_on(life):
    # given a long one in flight, and a short and a long one waiting; when the short one's deadline passes
    (first,) = asked(life, "a", within_s=60)
    asked(life, "b", within_s=10)
    asked(life, "c", within_s=60)
    life.clock.advance(10)
    assert told(life.tick()) == [("b", "deadline_exceeded")]
    # then the flight goes on, and the long one follows it
    events = life.meet(life.answer(first))
    assert told(events) == [("a", "Osk.")]
    assert [e.request_id for e in admitted(events)] == ["c"]


def test_turns_that_expired_while_waiting_are_skipped_when_their_turn_comes(life):
    # given two waiting, the first past its deadline, when the flight ends before any tick
    (first,) = asked(life, "a", within_s=60)
    asked(life, "b", within_s=10)
    asked(life, "c", within_s=60)
    life.clock.advance(20)
    events = life.meet(life.answer(first))
    # then that one is answered with an error and the next admitted
    assert told(events) == [("a", "Osk."), ("b", "deadline_exceeded")]
    assert [e.request_id for e in admitted(events)] == ["c"]


def test_an_expired_turns_other_submissions_share_its_error(life):
    # given a waiting turn that was submitted twice; when it expires
    asked(life, "a")
    asked(life, "b", within_s=10)
    again = life.turn("b")
    life.meet(again)
    life.clock.advance(10)
    assert told(life.tick()) == [("b", "deadline_exceeded")]
    # then the second submission's redelivery gives nothing
    assert life.meet(again) == []
