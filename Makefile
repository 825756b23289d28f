# Every target works as the first command on a fresh machine: Python 3.11+, make and a shell.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ADMIN_SCHEMA ?=
LOAD ?=

.PHONY: demo up test test-deployment check bench lock clean
.DELETE_ON_ERROR:

$(BIN)/uv:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Shopsync needs Python 3.11 or newer; set PYTHON=")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv==0.13.9

$(VENV)/.runtime: requirements.lock pyproject.toml | $(BIN)/uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python --require-hashes -r requirements.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --editable .
	@touch $@

$(VENV)/.dev: requirements-dev.lock $(VENV)/.runtime
	$(BIN)/uv pip install --quiet --python $(BIN)/python --require-hashes -r requirements-dev.lock
	@touch $@

demo: $(VENV)/.runtime  ## three simulated stores, synced by Dagster (ARGS=--once: one round, then exit)
	$(BIN)/shopsync demo $(ARGS)

up: $(VENV)/.runtime  ## database, migrations, receiver, Dagster UI and daemon
	$(BIN)/shopsync up $(ARGS)

test: $(VENV)/.dev  ## the tests (ARGS: more for pytest; ADMIN_SCHEMA: Shopify's full schema)
	ADMIN_SCHEMA="$(ADMIN_SCHEMA)" $(BIN)/pytest -n 2 --dist worksteal -m "not deployment" $(ARGS)

test-deployment: $(VENV)/.dev  ## whole deployments of processes, and their processes killed
	$(BIN)/pytest -n 0 -m deployment $(ARGS)

check: $(VENV)/.dev  ## lint, format, types, import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(VENV)/.dev  ## ratios measured in one run (LOAD: how much for the receiver)
	$(BIN)/python -m benchmarks.pull
	$(BIN)/python -m benchmarks.drain
	$(BIN)/python -m benchmarks.receiver_load $(LOAD)

lock: $(BIN)/uv  ## resolve the pinned packages again
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
		--no-header --no-annotate --upgrade pyproject.toml -o requirements.lock
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
		--no-header --no-annotate --upgrade --extra dev -c requirements.lock pyproject.toml -o requirements-dev.lock

clean:  ## remove what make built; .shopsync with its data stays
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache
