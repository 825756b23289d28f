# Every target works as the first command on a fresh machine: Python 3.11+, make and a shell.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ADMIN_SCHEMA ?=
BULK ?=
TICK ?=
GROWTH ?=
LOAD ?=
ROWS ?=
KILLS ?=
HISTORIES ?= 1000
HEAVY := faults or histories or kills or deployment or celery or proxy or pages

.PHONY: demo up test test-faults test-histories test-kills test-deployment test-celery test-proxy test-pages check audit bench lock clean
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
	ADMIN_SCHEMA="$(ADMIN_SCHEMA)" $(BIN)/pytest -n 3 --dist worksteal -m "not ($(HEAVY))" $(ARGS)

test-faults: $(VENV)/.dev  ## what stores, servers, disks and sockets may do, each in each way it meets us
	$(BIN)/pytest -n 2 --dist worksteal -m faults $(ARGS)

test-histories: $(VENV)/.dev  ## generated histories of stores, webhooks and runs (HISTORIES: how many)
	HISTORIES="$(HISTORIES)" $(BIN)/pytest -n 2 -m histories $(ARGS)

test-kills: $(VENV)/.dev  ## receiver and engine killed at random moments and at each crash point (KILLS: how often)
	KILLS="$(KILLS)" $(BIN)/pytest -n 2 --dist worksteal -m kills $(ARGS)

test-deployment: $(VENV)/.dev  ## whole deployments, whose processes are killed (KILLS: how often)
	KILLS="$(KILLS)" $(BIN)/pytest -n 0 -m deployment $(ARGS)

test-celery: $(VENV)/.dev  ## two Celery workers, one of them killed; needs redis-server on the PATH
	@command -v redis-server >/dev/null || { echo "test-celery needs Redis: install the package redis-server (macOS: redis)" >&2; exit 1; }
	$(BIN)/pytest -n 0 -m celery $(ARGS)

test-proxy: $(VENV)/.dev  ## the reverse proxy before Dagster's UI; needs nginx on the PATH
	@command -v nginx >/dev/null || { echo "test-proxy needs nginx: install the package nginx" >&2; exit 1; }
	$(BIN)/pytest -n 0 -m proxy $(ARGS)

test-pages: $(VENV)/.dev  ## the customers page in a browser; needs chromium on the PATH
	@command -v chromium >/dev/null || { echo "test-pages needs Chromium: install the package chromium, so that the command chromium is on the PATH" >&2; exit 1; }
	$(BIN)/pytest -n 0 -m pages $(ARGS)

check: $(VENV)/.dev  ## lint, format, types, import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

audit: $(VENV)/.dev  ## known vulnerabilities of the locked packages; asks PyPI
	.ci/audit

bench: $(VENV)/.dev  ## ratios measured in one run (BULK, TICK, GROWTH, LOAD, ROWS: how much of each)
	$(BIN)/python -m benchmarks.pull
	$(BIN)/python -m benchmarks.incremental
	$(BIN)/python -m benchmarks.bulk $(BULK)
	$(BIN)/python -m benchmarks.tick $(TICK)
	$(BIN)/python -m benchmarks.dagster_growth $(GROWTH)
	$(BIN)/python -m benchmarks.against_dlt
	$(BIN)/python -m benchmarks.drain
	$(BIN)/python -m benchmarks.receiver_load $(LOAD)
	$(BIN)/python -m benchmarks.customers_page $(ROWS)

COMPILE := pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	--no-header --no-annotate

lock: $(BIN)/uv  ## resolve the pinned packages again
	$(BIN)/uv $(COMPILE) --upgrade pyproject.toml -o requirements.lock
	$(BIN)/uv $(COMPILE) --upgrade --extra celery --extra kubernetes -c requirements.lock pyproject.toml \
		-o requirements-deploy.lock
	$(BIN)/uv $(COMPILE) --upgrade --extra dev --extra celery -c requirements-deploy.lock pyproject.toml \
		-o requirements-dev.lock
	$(BIN)/uv $(COMPILE) --upgrade benchmarks/dlt_requirements.in -o benchmarks/dlt_requirements.lock

clean:  ## remove what make built; .shopsync with its data stays
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache
