"""The whole service in this process: echo in place of models, hashed words in place of meanings, a held clock."""

import pytest

from ruvllm.streams.serial import SerialSystem
from ruvllm.streams.settings import load_settings
from tests.manual_clock import ManualClock

FLAGS = {
    "profile": "tiny",
    "generation.backend": "echo",
    "router.exploration": "0",
    "retrieval.embedder": "hashing",
    "retrieval.floor": "0.2",  # hashed words of a question and its passage are at 0.3 and above
    "limits.tenants": '["default", "harbour"]',
    "limits.reply_to": '["answers.harbour"]',
    "limits.prompt_chars": "400",
    "limits.document_chars": "20000",
}


@pytest.fixture
def clock():
    return ManualClock()


@pytest.fixture
def open_system(clock, tmp_path):
    """Makes systems on one clock; keywords as `SerialSystem`'s, and `flags` over the usual ones."""

    def make(*, file=None, flags=None, without=()):
        given = {**FLAGS, "home": str(tmp_path / "home"), **(flags or {})}
        return SerialSystem(load_settings(given, environ={}), file=file, clock=clock, without=without)

    return make


@pytest.fixture
async def system(open_system):
    async with open_system() as opened:
        yield opened
