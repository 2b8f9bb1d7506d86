"""What the desk tells and keeps: responses, the interaction record, history, and state that outlives its owner."""

from datetime import timedelta

import pytest

from ruvllm.agents.desk import DeskRules
from ruvllm.agents.ending import SNIPPET_CHARS
from ruvllm.schemas.flow import Interaction, SessionState
from ruvllm.schemas.request import Message
from tests.unit.desk_life import DeskLife, admitted, asked, responses, state_of, told
from tests.unit.sample_events import RETRIEVAL


@pytest.fixture
def life():
    return DeskLife()


# --- what is told -------------------------------------------------------------------------------------


def test_a_response_tells_the_whole_story(life):
    # given an answer with its sources; when the desk responds
    (first,) = asked(life, "a")
    life.clock.advance(2)
    (response,) = responses(life.meet(life.answer(first)))
    # then it says what was said, by whom, from what
    assert (response.text, response.confidence, response.tier) == ("Osk.", 0.875, "135m")
    assert (response.model, response.model_sha256) == ("smollm2-135m-q4_1", "b179c952")
    assert [(s.node_id, s.title, s.snippet) for s in response.sources] == [
        ("n-1", "Lamps > Keepers", "Osk keeps the lamp.")
    ]
    assert response.memory_offsets == {"0": 7}
    assert response.latency_ms == {"total": 2000.0}
    assert response.interaction_id == first.interaction_id
    assert response.raise_for_error() is response


def test_sources_are_those_in_the_context_and_none_for_an_abstained_answer(life):
    # given an answer from a context without some passages, and one that abstained; when responded
    first, second = asked(life, "a")[0], asked(life, "b", session="quay")[0]
    (unused,) = responses(life.meet(life.answer(first, context_nodes=("n-9",))))
    (abstained,) = responses(life.meet(life.answer(second, "I don't know.", finish_reason="abstained")))
    # then neither names a source that it was not made from
    assert unused.sources == abstained.sources == ()
    assert abstained.finish_reason == "abstained"


def test_a_long_passage_is_shown_as_a_snippet(life):
    # given a passage longer than a snippet; when shown; then its beginning is
    (first,) = asked(life, "a")
    long = RETRIEVAL.passages[0].model_copy(update={"text": "x" * 1000})
    answer = life.answer(first).model_copy(update={"retrieval": RETRIEVAL.model_copy(update={"passages": (long,)})})
    assert responses(life.meet(answer))[0].sources[0].snippet == "x" * SNIPPET_CHARS


def test_reply_to_gets_a_copy_of_every_response(life):
    # given a request with a reply-to; when it is answered, and its id submitted again
    (first,) = asked(life, "a", reply_to="answers.harbour")
    life.meet(life.answer(first))
    life.meet(life.turn("a", reply_to="answers.harbour"))
    life.meet(life.turn("a"))
    # then the copy goes to that topic beside the response's own
    sent = [(e.topic, e.event.repeated) for e in life.written if e.event.kind == "response.completed"]
    assert sent == [(None, False), ("answers.harbour", False), (None, True), ("answers.harbour", True), (None, True)]


def test_a_refusals_reply_to_gets_a_copy_too(life):
    # given a refusal that names a reply-to; when answered; then the copy goes there
    life.meet(life.refusal("a", reply_to="answers.harbour"))
    assert [e.topic for e in life.written if e.event.kind == "response.completed"] == [None, "answers.harbour"]


def test_the_interaction_holds_the_whole_request(life):
    # given a request of a session with a past; when it is answered, and another one fails
    (first,) = asked(life, "a")
    life.meet(life.answer(first))
    (second,) = asked(life, "b")
    answer = life.answer(second, "Yes.")
    (told_of,) = [e for e in life.meet(answer) if isinstance(e, Interaction)]
    # then the record holds what was asked, recalled, decided and said
    assert (told_of.interaction_id, told_of.request) == (second.interaction_id, second.request)
    assert told_of.history == second.history != ()
    assert told_of.router_state.tier == "135m"
    assert told_of.retrieval.memory_offsets == {"0": 7}
    assert told_of.route.probability == 0.9
    assert told_of.generation.context_nodes == ("n-1",)
    assert told_of.fault is None


# --- history ------------------------------------------------------------------------------------------


def converse(life, turns, text="Osk."):
    for number in range(turns):
        (flight,) = asked(life, f"r{number}")
        life.meet(life.answer(flight, text))
    return asked(life, "last")[0].history


def test_history_keeps_the_last_turns():
    # given a session with more turns than history keeps; when the next is admitted
    history = converse(DeskLife(DeskRules(history_turns=2)), 4)
    # then it holds the last two, oldest first
    assert [m.content for m in history] == ["What of r2?", "Osk.", "What of r3?", "Osk."]
    assert [m.role for m in history] == ["user", "assistant"] * 2


def test_history_keeps_within_its_characters_but_never_less_than_one_turn():
    # given long answers; when the next turn is admitted; then the oldest turns are left out
    assert len(converse(DeskLife(DeskRules(history_chars=250)), 4, "x" * 100)) == 4
    assert len(converse(DeskLife(DeskRules(history_chars=10)), 4, "x" * 100)) == 2


def test_history_can_be_off():
    # given a desk that keeps no history; when the next turn is admitted; then it has none
    assert converse(DeskLife(DeskRules(history_turns=0)), 3) == ()


def test_a_client_that_brings_its_conversation_is_taken_at_its_word(life):
    # given a session with a past, and a turn that brings a conversation of its own
    converse(life, 1)
    life.meet(life.failure("last"))
    given = (Message(role="user", content="Hi"), Message(role="assistant", content="Yes?"))
    messages = (*given, Message(role="user", content="Who?"))
    (flight,) = asked(life, "own", messages=messages)
    # when admitted; then that conversation stands in the place of the session's
    assert flight.history == given
    assert flight.request.question == "Who?"


# --- state --------------------------------------------------------------------------------------------


def test_answers_are_kept_up_to_a_bound_and_then_forgotten_with_a_tombstone():
    # given a desk that keeps two answers; when a third id is answered
    life = DeskLife(DeskRules(answers_kept=2))
    for request_id in "abc":
        (flight,) = asked(life, request_id)
        life.meet(life.answer(flight))
    # then the oldest is forgotten, and its record gets a tombstone
    (forgotten,) = [e for e in life.written if e.tombstone]
    assert (forgotten.event.request_id, forgotten.event.record_key) == ("a", "default\x1ftour\x1fa")
    assert [r.repeated for r in responses(life.meet(life.turn("c")))] == [True]
    # and the id may be asked anew
    assert asked(life, "a")[0].request_id == "a"
    assert state_of(life.refolded()) == state_of(life.desk)


def test_sessions_are_kept_up_to_a_bound_and_the_longest_idle_is_forgotten():
    # given a desk that keeps two sessions, of which the older one is at work
    life = DeskLife(DeskRules(sessions_kept=2))
    (at_work,) = asked(life, "a", session="busy")
    for session in ("first", "second"):
        (flight,) = asked(life, session, session=session)
        life.meet(life.answer(flight))
    # then the longest idle is forgotten with a tombstone, and the one at work is not
    assert [e.event.record_key for e in life.written if e.tombstone] == ["default\x1ffirst"]
    assert responses(life.meet(life.answer(at_work)))
    assert state_of(life.refolded()) == state_of(life.desk)
    # and its answers are kept for repeated ids
    assert [r.repeated for r in responses(life.meet(life.turn("first", session="first")))] == [True]


def test_a_new_owner_knows_what_the_old_one_knew(life):
    # given a desk in the middle of its work: one answered, one in flight, one waiting, one repeated
    asked(life, "a", within_s=10)
    life.meet(life.failure("a"))
    (flight,) = asked(life, "b", "c")
    life.meet(life.turn("c"))
    # when another is folded from its records
    before = state_of(life.desk)
    life.restart()
    # then it knows the same and goes on
    assert state_of(life.desk) == before
    assert [e.request_id for e in admitted(life.meet(life.answer(flight)))] == ["c"]
    assert [r.repeated for r in responses(life.meet(life.turn("a")))] == [True]


def test_a_new_owner_keeps_the_old_ones_deadlines(life):
    # given a request in flight; when a new owner reads the state after its deadline; then it is answered
    asked(life, "a", within_s=10)
    life.restart()
    life.clock.advance(11)
    assert told(life.tick()) == [("a", "deadline_exceeded")]


def test_a_forgotten_session_has_no_deadline(life):
    # given a session in flight whose record got a tombstone; when time passes; then nothing is due
    asked(life, "a", within_s=10)
    (state,) = [e.event for e in life.written if isinstance(e.event, SessionState)]
    life.desk.forget(state.record_key)
    life.clock.advance(11)
    assert life.tick() == []
    assert life.in_flight == 0


def test_event_times_are_the_clocks(life):
    # given a clock that stands at a known moment; when a request is answered; then every event says so
    (flight,) = asked(life, "a")
    now = life.clock.advance(3)
    assert {e.time for e in life.meet(life.answer(flight))} == {now}
    assert flight.time == now - timedelta(seconds=3)
