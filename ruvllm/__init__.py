"""RuvLLM: a self-learning LLM service whose learning is a fold over a Kafka log.

The front door: a program that asks questions needs what is named here and nothing else.

    from ruvllm import Client

    async with Client() as client:
        answer = await client.ask("Who keeps the lamp?")

Importing this package imports neither Kafka nor a model; `Client` loads what it needs when used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ruvllm.errors import RuvllmError

if TYPE_CHECKING:
    from ruvllm.schemas.request import Constraints, Message, Response, Source
    from ruvllm.streams.client import Client
    from ruvllm.streams.sync_client import SyncClient

__version__ = "0.1.0"
__all__ = [
    "Client",
    "Constraints",
    "Message",
    "Response",
    "RuvllmError",
    "Source",
    "SyncClient",
    "__version__",
]

_HOMES = {
    "Client": "ruvllm.streams.client",
    "SyncClient": "ruvllm.streams.sync_client",
    "Constraints": "ruvllm.schemas.request",
    "Message": "ruvllm.schemas.request",
    "Response": "ruvllm.schemas.request",
    "Source": "ruvllm.schemas.request",
}


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'ruvllm' has no attribute {name!r}")
    from importlib import import_module  # noqa: PLC0415  late on purpose: see the docstring

    return getattr(import_module(home), name)
