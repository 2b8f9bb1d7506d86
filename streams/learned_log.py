"""What was learnt by now, read from the log once: for commands, which do not follow it."""

from __future__ import annotations

from ruvllm.agents.rankers import Rankers
from ruvllm.agents.routers import Routers
from ruvllm.streams.guard import read
from ruvllm.streams.log_reader import read_to_end
from ruvllm.streams.topology import topic
from ruvllm.streams.wiring import Wiring

TRAINING = "training.recorded"


async def learned_so_far(bootstrap: str, wiring: Wiring) -> tuple[Rankers, Routers]:
    """The folds of `training.recorded`. Raises BrokerUnavailable."""
    rankers, routers = Rankers(), Routers(wiring.untrained_router)
    async for record in read_to_end(bootstrap, wiring.names.topic(TRAINING)):
        event = read(record, topic(TRAINING).events)
        rankers.apply(event)
        routers.apply(event)
    return rankers, routers
