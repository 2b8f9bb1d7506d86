"""Real models for the tests marked `model`: those that `make setup` has fetched."""

import os
from pathlib import Path

import pytest

from ruvllm.errors import ModelUnavailable
from ruvllm.models.embedding import MiniLm
from ruvllm.streams.model_files import ModelStore, packaged_catalogue
from ruvllm.streams.settings import load_settings

MUST_BE_HERE = "RUVLLM_TEST_NEEDS_MODELS"
"""Set where the models have been fetched, as by `make test`: there a test fails for want of one."""


def models_folder() -> Path:
    return load_settings().models_folder


def model_path(model: str, file: str = "model.gguf") -> Path:
    """A sound file of a model; without it the test is skipped, or fails where it must be here."""
    try:
        return ModelStore(models_folder(), packaged_catalogue()).verified_path(model, file)
    except ModelUnavailable as error:
        if os.environ.get(MUST_BE_HERE):
            raise
        pytest.skip(f"{error.message}; `ruvllm models pull` brings it")


def minilm(**options: int) -> MiniLm:
    name = "minilm-l6-v2-int8"
    return MiniLm(model_path(name, "model.onnx"), model_path(name, "tokenizer.json"), **options)
