"""Answers of the whole graph: from memory, with sources, within the session, and written down whole."""

import math
from datetime import timedelta

import numpy as np
import pytest

from ruvllm.agents.generate import NOTHING_IN_MEMORY
from ruvllm.models.pool.prompt import ABSTENTION
from ruvllm.models.router.arms import HEADS
from ruvllm.schemas.request import Ask, Constraints, Message, Rate, Response
from ruvllm.schemas.wire import decode
from tests.manual_clock import START
from tests.serial.island import GOATS, LAMPS, ingest, put, told


async def test_an_answer_comes_from_memory_with_its_sources(system):
    # given a few documents; when a question is asked that one of them answers
    await ingest(system, lamps=LAMPS, goats=GOATS)
    changes = len(system.events("memory.changed"))
    answer = await system.ask("Who keeps the great lamp?")
    # then the answer is what it says, and shows where it stands
    assert answer.text == "Osk Arrin keeps the great lamp of Vellen and lights it at dusk."
    best = answer.sources[0]
    assert (best.title, best.snippet) == ("Lamps > The keeper", answer.text)
    assert 0 < answer.confidence <= 1
    assert (answer.tier, answer.finish_reason, answer.ok) == ("135m", "stop", True)
    assert answer.memory_offsets == {"0": changes}
    assert set(answer.latency_ms) == {"retrieve", "route", "generate", "total"}
    assert answer.usage.prompt_tokens > 0


async def test_it_says_that_it_does_not_know_when_memory_holds_nothing(system):
    # given an empty memory, and then one about something else; when asked; then it abstains, without sources
    first = await system.ask("Who keeps the great lamp?")
    await ingest(system, goats=GOATS)
    second = await system.ask("Explain quantum chromodynamics!")
    for answer in (first, second):
        assert (answer.text, answer.finish_reason) == (NOTHING_IN_MEMORY, "abstained")
        assert (answer.sources, answer.confidence, answer.error) == ((), 0.0, None)
        assert answer.usage.completion_tokens == 0


async def test_a_model_that_finds_no_answer_in_its_passages_shows_no_sources(system):
    # given passages that are near the question but do not answer it; when asked; then it abstains
    await ingest(system, goats="# Goats\n\nGoatherds and goatskins.")
    answer = await system.ask("goat?")
    assert (answer.text, answer.finish_reason, answer.sources) == (ABSTENTION, "abstained", ())
    # and the record keeps which passages it had before it
    assert system.events("interaction.recorded")[-1].generation.context_nodes


async def test_without_grounding_memory_is_not_asked(system):
    # given documents; when asked with grounding none; then the question goes to the model alone
    await ingest(system, lamps=LAMPS)
    answer = await system.ask("Who keeps the great lamp?", grounding="none")
    assert (answer.text, answer.sources) == ("Who keeps the great lamp?", ())  # the echo of a bare prompt
    retrieval = system.events("interaction.recorded")[-1].retrieval
    assert retrieval.passages == ()
    assert np.linalg.norm(retrieval.query_vector) == pytest.approx(1, abs=1e-5)  # the router needs it


async def test_open_grounding_asks_the_model_even_if_memory_holds_nothing(system):
    # given an empty memory; when asked with grounding open; then a model was asked
    answer = await system.ask("Who keeps the great lamp?", grounding="open")
    assert answer.usage.prompt_tokens > 0
    assert answer.text != NOTHING_IN_MEMORY


async def test_memory_filter_restricts_what_is_found(system):
    # given the same fact of two years; when asked with a filter
    for year, keeper in (("1911", "Osk Arrin"), ("2030", "Maru Teel")):
        content = f"# Lamps\n\n{keeper} keeps the great lamp."
        await system.send(put(year, content, metadata={"year": year, "kind": "register"}))
    await system.run()
    answer = await system.ask("Who keeps the great lamp?", memory_filter={"year": "2030", "kind": "register"})
    # then only nodes with all of these values count, and where there is none it abstains
    assert (answer.text, len(answer.sources)) == ("Maru Teel keeps the great lamp.", 1)
    nothing = await system.ask("Who keeps the great lamp?", memory_filter={"year": "2030", "kind": "rumour"})
    assert nothing.finish_reason == "abstained"


async def test_constraints_are_obeyed(system):
    # given limits on the answer; when asked; then they hold, and the route says so
    await ingest(system, lamps=LAMPS)
    question = "Who keeps the great lamp?"
    short = await system.ask(question, max_tokens=3, temperature=1.5, top_p=0.5, seed=7, allowed_tiers=("135m",))
    assert (short.text, short.finish_reason) == ("Osk Arrin keeps", "length")
    route = system.events("interaction.recorded")[-1].route
    assert (route.temperature, route.top_p, route.tier) == (1.5, 0.5, "135m")
    assert system.events("interaction.recorded")[-1].generation.seed == 7
    assert (await system.ask(question, stop=(" great",))).text == "Osk Arrin keeps the"


async def test_a_refusal_goes_to_its_reply_to_too(system):
    # given a request that is refused and names a topic on the list; when handled; then that gets the error as well
    await system.send(Ask(prompt=" ", request_id="r-1", reply_to="answers.harbour"))
    await system.run()
    (copy,) = system.log.topics["answers.harbour"]
    assert decode((Response,), copy.value).error.code == "empty_prompt"


async def test_a_reply_to_gets_a_copy(system):
    # given a request that names an allowed topic; when answered; then the same response is there too
    await system.send(Ask(prompt="Who?", request_id="r-1", reply_to="answers.harbour"))
    await system.run()
    copies = system.log.topics["answers.harbour"]
    assert [c.value for c in copies] == [system.log.topics[system.names.topic("response.completed")][0].value]
    assert copies[0].headers["request-id"] == b"r-1"


# --- sessions -----------------------------------------------------------------------------------------


async def test_request_routing_respects_session(system):
    # given turns of two sessions that come in mixed, one of them long before the other is answered
    await ingest(system, lamps=LAMPS, goats=GOATS)
    for number, session in enumerate(("tour", "quay", "tour", "quay", "tour")):
        await system.send(Ask(prompt=f"Who keeps the great lamp? {number}", request_id=f"r-{number}", session=session))
    # when the flow has run
    await system.run()
    # then each is answered in its own session, in the order of arrival
    assert [i for s, i, _ in told(system) if s == "tour"] == ["r-0", "r-2", "r-4"]
    assert [i for s, i, _ in told(system) if s == "quay"] == ["r-1", "r-3"]
    # and each was admitted with what its own session had said, and nothing of the other
    asked = {
        e.request_id: [m.content for m in e.history if m.role == "user"] for e in system.events("request.admitted")
    }
    assert asked["r-3"] == ["Who keeps the great lamp? 1"]
    assert asked["r-4"] == ["Who keeps the great lamp? 0", "Who keeps the great lamp? 2"]
    # and the router went on from the state that the session's own last turn had left
    flown = {e.request_id: e for e in system.events("interaction.recorded")}
    assert flown["r-0"].router_state is None
    assert np.array_equal(flown["r-2"].router_state.hidden, flown["r-0"].route.hidden)
    assert np.array_equal(flown["r-3"].router_state.hidden, flown["r-1"].route.hidden)


async def test_a_request_without_a_session_is_alone(system):
    # given two requests without a session; when answered; then neither knows the other
    await system.send(Ask(prompt="One?", request_id="r-1"), Ask(prompt="Two?", request_id="r-2"))
    await system.run()
    assert [(s, i) for s, i, _ in told(system)] == [("r-1", "r-1"), ("r-2", "r-2")]
    assert [e.history for e in system.events("request.admitted")] == [(), ()]


async def test_a_conversation_of_the_clients_own_takes_the_place_of_history(system):
    # given a session with a past; when a client brings the whole conversation; then that is what goes along
    await system.ask("Who?", session="tour")
    brought = (Message(role="user", content="Hi"), Message(role="assistant", content="Yes?"))
    await system.send(Ask(session="tour", messages=(*brought, Message(role="user", content="Who?"))))
    await system.run()
    assert system.events("request.admitted")[-1].history == brought


# --- the record ---------------------------------------------------------------------------------------


async def test_the_interaction_record_is_complete(open_system):
    # given a router that explores, so that some actions are improbable; when many are answered
    async with open_system(flags={"router.exploration": "0.6"}) as system:
        await ingest(system, lamps=LAMPS, goats=GOATS)
        for number in range(12):
            await system.ask(f"Who keeps the great lamp? {number}", session="tour" if number % 2 else "quay")
        records = system.events("interaction.recorded")
        router = system.wiring.router()
        for number, record in enumerate(records):
            route = record.route
            # then everything is there that the decision followed from
            assert (route.features.shape, route.features_version) == ((128,), 2)
            assert route.hidden.shape == (64,)
            assert route.checkpoint == router.checkpoint.id
            assert (route.policy, route.exploration) == ("epsilon-greedy by head", 0.6)
            before = record.router_state
            assert (before is None) == (number < 2)  # the first turns of the two sessions
            # so that it can be taken again: the same action, with the same probability
            again = router.decide(
                route.features,
                None if before is None else before.hidden,
                available_tiers=route.available_tiers,
                allowed_tiers=record.request.constraints.allowed_tiers,
                seed=route.seed,
            )
            taken = (route.tier, route.context_tokens, route.temperature, route.top_p)
            action = again.action
            assert (action.tier, action.context_tokens, action.temperature, action.top_p) == taken
            assert again.probability == route.probability
            assert np.array_equal(again.hidden, route.hidden)
            # and the probability is that of the joint action: the product of its heads'
            of_heads = [route.arms[head][str(choice)] for head, choice in zip(HEADS, taken, strict=True)]
            assert route.probability == pytest.approx(math.prod(of_heads))
            assert all(sum(choices.values()) == pytest.approx(1) for choices in route.arms.values())
        assert len({record.route.probability for record in records}) > 1


async def test_the_interaction_knows_the_nodes_that_its_answer_used(system):
    # given an answer from memory; when its record is read
    await ingest(system, lamps=LAMPS, goats=GOATS)
    changes = len(system.events("memory.changed"))
    answer = await system.ask("What is the lamp oil of Vellen pressed from?", session="tour")
    (record,) = system.events("interaction.recorded")
    # then the nodes in its context are named, were among those retrieved, and stand in memory
    used = record.generation.context_nodes
    assert used and set(used) <= {p.node_id for p in record.retrieval.passages}
    assert [s.node_id for s in answer.sources] == list(used)
    nodes = [system.memory.node("default", node_id) for node_id in used]
    assert nodes[0].text == "The lamp oil of Vellen is pressed from rapeseed in the mill of Dorr."
    assert nodes[0].document_id == "lamps.md"
    # and the state of memory that it was answered from is named too
    assert record.retrieval.memory_offsets == {"0": changes}
    assert record.retrieval.embedder == system.memory.embedder
    assert (record.generation.model, record.generation.prompt_version) == ("echo", "1")
    assert record.request.origin.topic == system.names.topic("request.submitted")
    assert record.interaction_id == answer.interaction_id


async def test_passages_that_an_edge_led_to_name_the_edge(system):
    # given a document whose second passage alone does not match; when the first is found
    await ingest(system, lamps=LAMPS.replace("The lamp oil of Vellen is", "It comes from a mill, and is"))
    await system.ask("Who is Osk Arrin, who keeps the great lamp of Vellen?")
    passages = system.events("interaction.recorded")[-1].retrieval.passages
    # then the second came along its edge, which the record names
    (edge,) = [e for e in system.events("memory.changed") if e.kind == "memory.edge_added"]
    assert [p.via for p in passages] == [(), (edge.edge_id,)]
    assert passages[1].similarity < 0.2 < passages[1].score


async def test_event_time_is_what_the_client_says_within_bounds(system, clock):
    # given a client whose clock runs a day ahead, and a request that waited an hour; when answered
    await system.send(Ask(request_id="ahead", prompt="Who?", time=START + timedelta(days=1)))
    await system.send(Ask(request_id="waited", prompt="Who?", time=START))
    clock.advance(3600)
    await system.run()
    # then no event lies in the future, and the wait counts
    submitted = {e.request_id: e.request.submitted_at for e in system.events("turn.accepted")}
    assert submitted == {"ahead": clock.now(), "waited": START}
    assert {r.request_id: r.latency_ms["total"] for r in system.responses()} == {"ahead": 0.0, "waited": 3_600_000.0}


async def test_feedback_is_kept_with_its_requests_session(system):
    # given an answer; when it is rated; then the rating is in the log, keyed to the session
    answer = await system.ask("Who?", session="tour")
    await system.send(Rate(request_id=answer.request_id, session="tour", feedback_id="f-1", rating=2, comment="no"))
    await system.run()
    (rating,) = system.events("rating.accepted")
    assert (rating.session, rating.request_id, rating.rating) == ("tour", answer.request_id, 2)
    assert len(system.responses()) == 1


async def test_the_same_log_gives_the_same_answers(open_system):
    # given two systems with the same requests; when both have run; then they have said the same
    said = []
    for _ in range(2):
        async with open_system(flags={"router.exploration": "0.5"}) as system:
            await system.send(put("lamps", LAMPS, command_id="c-1"))
            await system.run()
            ids = [f"r-{n}" for n in range(4)]
            constraints = Constraints(grounding="open")
            await system.send(*(Ask(request_id=i, prompt=f"Who keeps {i}?", constraints=constraints) for i in ids))
            await system.run()
            said.append(([r.text for r in system.responses()], system.memory.digest()))
            routes = [r.route for r in system.events("interaction.recorded")]
            said[-1] += ([(r.tier, r.context_tokens, r.temperature, r.top_p, r.probability) for r in routes],)
    assert said[0] == said[1]
