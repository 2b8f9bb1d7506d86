# `make demo` shows the service at work, `make test` checks it; both bring what they need.
# What a machine must have, and the exit code for each thing that is missing: streams/preflight.py

PYTHON  ?= python3
PROFILE ?= $(if $(filter test,$(MAKECMDGOALS)),tiny,small)

BIN   := .venv/bin
UV    := $(or $(shell command -v uv),build/tools/bin/uv)
# Names what the environment was made of: another lock, project file or place makes another one.
STAMP := .venv/made-of-$(shell { pwd; cat requirements.lock pyproject.toml; } | cksum | cut -d' ' -f1)
ROOMS := schemas models agents streams

export PYTHONUNBUFFERED = 1

.DEFAULT_GOAL := setup
.PHONY: setup demo test lint unit docs lock clean preflight environment tree models kafka

setup: models kafka          ## everything that running needs: environment, models, Kafka

demo: setup                  ## start all, ingest, ask, show, stop
	$(BIN)/ruvllm --profile $(PROFILE) demo

test: setup lint             ## lint, then every layer of tests with the coverage gate
	RUVLLM_TEST_NEEDS_MODELS=1 $(BIN)/pytest --cov --cov-report=term

unit: environment            ## the tests that need no broker and no model
	$(BIN)/pytest tests/unit -m "not model"

lint: environment tree
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	cd build/tree && ../../$(BIN)/lint-imports --no-cache --config ../../pyproject.toml

# --- the parts of setup ---

preflight:
	@$(PYTHON) -I streams/preflight.py

environment: $(STAMP)

$(STAMP): | preflight $(UV)
	test -x $(BIN)/python || $(UV) venv --quiet --python $(PYTHON) .venv
	$(UV) pip sync --quiet --python $(BIN)/python --require-hashes requirements.lock
	$(UV) pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	rm -f .venv/made-of-* && touch $@

build/tools/bin/uv: | preflight
	$(PYTHON) -m venv build/tools
	build/tools/bin/pip install --quiet uv

# The package as its users see it (ruvllm.schemas, ...), for the tools that read files, not imports; a
# copy, for import-linter follows no links.
tree:
	@rm -rf build/tree && mkdir -p build/tree/ruvllm
	@cp -a ruvllm/*.py ruvllm/py.typed $(ROOMS) build/tree/ruvllm/

models: environment
	@$(BIN)/ruvllm --profile $(PROFILE) models pull

kafka: environment
	@$(BIN)/ruvllm broker install

# --- housekeeping ---

lock: | $(UV)                ## choose versions anew; tests/unit/test_setup.py holds the lock to its rules
	$(UV) pip compile --quiet --universal --python-version 3.11 --upgrade \
	  --extra train --extra dev --generate-hashes \
	  --custom-compile-command "make lock" --output-file requirements.lock pyproject.toml

docs: environment            ## write the generated reference anew; a test fails when it is stale
	$(BIN)/python -m ruvllm.streams.describe docs/reference

clean:                       ## what can be made again; models, Kafka and its log stay in the home folder
	rm -rf .venv build dist *.egg-info .coverage* .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
