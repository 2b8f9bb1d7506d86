"""Loop B on real Kafka: a published checkpoint routes the next request, and a roll-back the one after."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import pytest

from ruvllm.agents.outbox import Emit
from ruvllm.models.router.checkpoint import Checkpoint
from ruvllm.schemas.flow import Interaction
from ruvllm.schemas.training import CheckpointChosen, CheckpointPublished
from ruvllm.streams.client import Client
from ruvllm.streams.clock import SystemClock
from ruvllm.streams.connection import connected
from ruvllm.streams.guard import read
from ruvllm.streams.log_reader import read_to_end
from ruvllm.streams.proof.cluster import Cluster
from ruvllm.streams.sender import Sender
from ruvllm.streams.wiring import Wiring, names_of

pytestmark = pytest.mark.kafka


async def route_of(cluster: Cluster, interaction_id: str):
    async for record in read_to_end(cluster.bootstrap, names_of(cluster.settings).topic("interaction.recorded")):
        event = read(record, (Interaction,))
        if event.interaction_id == interaction_id:
            return event.route
    raise AssertionError(f"{interaction_id} is not in the log")


async def until_routed_by(cluster: Cluster, checkpoint: str):
    """Ask until a request is routed by it; that route."""
    give_up_at = time.monotonic() + 60
    async with Client(cluster.bootstrap, settings=cluster.settings) as client:
        while True:
            answer = await client.ask("Who keeps the lamp?", grounding="open")
            route = await route_of(cluster, answer.interaction_id)
            if route.checkpoint == checkpoint:
                return route
            assert time.monotonic() < give_up_at, route.checkpoint


async def test_serving_processes_swap_to_what_is_in_force_and_back(cluster: Cluster) -> None:
    # given a checkpoint that is sure of whatever it sees
    untrained = Wiring(cluster.settings, SystemClock()).untrained_router.checkpoint
    sure = replace(untrained.parameters, reach=np.array(1e9, np.float32), calibration=np.array([0.0, 4.0], np.float32))
    trained = Checkpoint(untrained.arms, sure, parent=untrained.id)
    of_it = {"time": SystemClock().now(), "learner": "router"}
    sender = Sender(cluster.bootstrap, names_of(cluster.settings), source="test")
    async with connected(cluster.bootstrap, sender):
        # when it is published and put in force; then it routes, and says so
        published = CheckpointPublished(**of_it, checkpoint=trained.id, run_id="r", parameters=trained.packed())
        await sender.send([Emit(published), Emit(CheckpointChosen(**of_it, checkpoint=trained.id, reason="a test"))])
        route = await until_routed_by(cluster, trained.id)
        assert not route.fallback
        assert route.confidence > 0.9
        # and when the untrained one is put in force again; then that one does
        await sender.send([Emit(CheckpointChosen(**of_it, checkpoint=None, reason="rolled back"))])
        assert (await until_routed_by(cluster, untrained.id)).fallback
