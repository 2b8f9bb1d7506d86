"""What a process says of its memory: one moment, its digest, and every item of it."""

from __future__ import annotations

import orjson
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from ruvllm.models.memory.sameness import differences
from ruvllm.streams.history.verifying import first_difference
from ruvllm.streams.live_memory import Item, items_of, memory_routes
from ruvllm.streams.memory_view import Moment
from tests.unit.loop_a import World


class View:
    """A view of a memory that nobody changes."""

    def __init__(self, world: World) -> None:
        self._world = world

    async def moment(self) -> Moment:
        return Moment(self._world.memory.contents(), {"0": 7}, "cluster/memory.changed")


class Learned:
    """What is in force: nothing of the ranker, and a router."""

    class rankers:  # noqa: N801
        @staticmethod
        def current() -> None:
            return None

    class routers:  # noqa: N801
        class _Router:
            class checkpoint:  # noqa: N801
                id = "ckpt-1"

        @classmethod
        def current(cls) -> type[_Router]:
            return cls._Router

    @staticmethod
    def offsets() -> dict[str, int]:
        return {"3": 2}


def taught() -> World:
    world = World()
    a, b = world.passage("a", "Osk Arrin keeps the lamp."), world.passage("b", "The mill of Dorr.")
    world.link(a, b)
    world.learn(world.outcome("r1", 0.9, {"a": 1.0}, accepted="Osk Arrin."))
    return world


@pytest.fixture
def world() -> World:
    return taught()


@pytest.fixture
def other() -> World:
    """One that knows something more."""
    made = taught()
    made.passage("aa", "Something else.")
    return made


async def test_a_moment_is_told_with_its_digest_and_all_its_items(world: World) -> None:
    # given a memory; when its pages are read; then they speak of the same moment, and name every node and edge
    app = web.Application()
    app.add_routes(memory_routes(View(world), Learned()))  # type: ignore[arg-type]
    async with TestClient(TestServer(app)) as client:
        said = await (await client.get("/memory")).json()
        head, *lines = (await (await client.get("/memory/items")).text()).splitlines()
    contents = world.memory.contents()
    assert said["digest"] == contents.digest()
    assert (said["log"], said["offsets"], said["training_offsets"]) == ("cluster/memory.changed", {"0": 7}, {"3": 2})
    assert (said["attention"], said["router"]) == (None, "ckpt-1")
    assert orjson.loads(head) == said
    assert [Item(*orjson.loads(line)) for line in lines] == list(items_of(contents))
    assert len(lines) == len(contents.nodes) + len(contents.edges)


async def test_the_first_difference_is_named_with_the_side_that_lacks_it(world: World, other: World) -> None:
    # given two memories, one of which has learnt something more; when compared; then it is the first of that
    class Nothing:
        async def read(self, *_: object):
            for batch in ():
                yield batch

    mine, theirs = items_of(world.memory.contents()), items_of(other.memory.contents())
    found = await first_difference(Nothing(), mine, theirs, {}, "the live memory")  # type: ignore[arg-type]
    assert found is not None
    assert (found.kind, found.id, found.lacks, found.last_event) == ("node", "aa", "the replay", None)
    assert "the log up to there holds no event of it" in str(found)
    # and what the items say is what the contents say
    first = next(differences(world.memory.contents(), other.memory.contents(), half_life_s=world.memory.half_life_s))
    assert first.id == found.id
    same = await first_difference(
        Nothing(), items_of(world.memory.contents()), items_of(world.memory.contents()), {}, ""
    )  # type: ignore[arg-type]
    assert same is None
