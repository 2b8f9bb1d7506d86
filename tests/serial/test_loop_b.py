"""Loop B: the router learns from routed, judged answers, and serves what it learnt only where that is worth more."""

from ruvllm.schemas.flow import Interaction
from ruvllm.schemas.request import Rate
from tests.serial.island import GOATS, LAMPS, ingest

FLAGS = {
    "profile": "small",
    "router.exploration": "0.5",
    "router.confidence_threshold": "0.2",
    "learning.costly_judge": "false",
}
"""Three tiers, echo in the place of each."""
SUBJECTS = ("Osk Arrin", "the great lamp", "the lamp oil", "the mill of Dorr", "the goat Brim", "Ida Tolm")


async def ask(system, n):
    return await system.ask(f"What is said of {SUBJECTS[n % len(SUBJECTS)]} in year {n}?", session=f"s-{n}")


async def ask_and_rate(system, count, quality):
    """Questions, each rated by what `quality` says of the tier that answered."""
    for n in range(count):
        response = await ask(system, n)
        score = quality[response.tier]
        await system.send(Rate(request_id=response.request_id, session=response.session, score=score))
    await system.run()


def last_route(system):
    found = [e for e in system.events("interaction.recorded") if isinstance(e, Interaction)]
    return found[-1].route


async def test_router_adaptation(open_system):
    # Given many simple questions, which every tier answers equally well
    async with open_system(flags=FLAGS) as system:
        small, middle, large = system.wiring.tiers
        await ingest(system, lamps=LAMPS, goats=GOATS)
        await ask_and_rate(system, 200, {small: 0.9, middle: 0.9, large: 0.9})
        untrained = last_route(system).checkpoint

        # When the router is trained
        recorded = await system.train("router")

        # Then it serves, and a similar question goes to a smaller model
        assert recorded.verdict.passed, (recorded.verdict, recorded.measures)
        await ask(system, 300)
        route = last_route(system)
        assert route.checkpoint == recorded.checkpoint != untrained
        assert not route.fallback
        assert max(route.arms["tier"], key=route.arms["tier"].get) in (small, middle)


async def test_where_only_the_large_model_is_good_enough_the_router_keeps_it(open_system):
    # given questions that only the largest tier answers well; when the router is trained
    async with open_system(flags=FLAGS) as system:
        small, middle, large = system.wiring.tiers
        await ingest(system, lamps=LAMPS, goats=GOATS)
        await ask_and_rate(system, 200, {small: 0.1, middle: 0.1, large: 0.9})
        await system.train("router")

        # then they still go there, trained or held back
        await ask(system, 300)
        route = last_route(system)
        assert max(route.arms["tier"], key=route.arms["tier"].get) == large
