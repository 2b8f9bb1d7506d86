"""The whole graph with the tiny profile's real models, over the packaged corpus (specification 4.3)."""

import pytest

from ruvllm.streams.ingest import documents_in
from ruvllm.streams.model_files import packaged_catalogue
from ruvllm.streams.proof.corpus import demo_folder
from ruvllm.streams.serial import SerialSystem
from ruvllm.streams.settings import load_settings
from tests.real_models import minilm, model_path, models_folder

pytestmark = pytest.mark.model


@pytest.fixture
async def real_system(tmp_path):
    """MiniLM and SmolLM2 behind the flow."""
    minilm(), model_path("smollm2-135m-q4_1")  # skips without them
    flags = {"profile": "tiny", "home": str(tmp_path), "models": str(models_folder()), "generation.threads": "1"}
    async with SerialSystem(load_settings(flags, environ={})) as system:
        yield system


async def test_end_to_end_query(real_system):
    # given all that is written of a place that no model knows, in memory
    await real_system.send(*documents_in([demo_folder() / "corpus"]))
    await real_system.run()
    assert real_system.memory.stats().nodes >= 60
    # when a question is asked that it answers
    response = await real_system.ask(
        "How high above the sea does the market stone of Ommerlisk stand?", session="test-session", max_tokens=48
    )
    # then there is an answer, from its sources
    assert response.error is None
    assert response.text
    assert response.confidence > 0
    assert response.sources
    assert any("2,163" in source.snippet for source in response.sources)
    # by the model of the catalogue, timed by stage
    assert response.model_sha256 == packaged_catalogue().model("smollm2-135m-q4_1").file("model.gguf").sha256
    assert response.usage.completion_tokens > 0
    assert response.latency_ms["generate"] > 0
