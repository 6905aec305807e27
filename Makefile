# What can be done here. Two commands for a start: make demo, make test.
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null && echo $$p && break; done)
UV ?= $(shell command -v uv 2>/dev/null)
VENV ?= .venv
PHOENIX ?= .venv-phoenix
BIN := $(VENV)/bin
PORT ?= 3000
PYTEST := $(BIN)/python -m pytest -n 4
export EVALVAULT_PROFILE ?= offline

.PHONY: help setup setup-dev setup-phoenix phoenix demo test test-long check audit format dev bench drill simulate-gate simulate-alerts test-containers docs lock clean

help: ## this list
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 15

setup: $(VENV)/.setup ## make .venv with the `evalvault` command in it

setup-dev: $(VENV)/.setup-dev ## the same with the tools for development

demo: setup ## score the Korean demo dataset through Dagster and print the report
	EVALVAULT_PROFILE=offline $(BIN)/evalvault backfill insurance_qa --from 2026w47 --cases 5

test: setup-dev ## run the tests, but those that take minutes
	$(PYTEST) -m "not long"

test-long: setup-dev ## run the tests that take minutes each: what is killed, and goes on
	$(PYTEST) -m long

check: setup-dev ## format, lint, types, tests, docs
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python docs/generate.py --check
	$(PYTEST)

audit: setup-dev ## what it is built from: locks, licences, bill of materials, known vulnerabilities
	$(BIN)/python -m audit --phoenix $(PHOENIX) $(AUDIT)

format: setup-dev ## format and mend what the linter can
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

dev: setup ## open the Dagster UI on http://127.0.0.1:3000
	@$(BIN)/dagster job execute -m evalvault_pipeline.definitions -j register_snapshots_job >data/dev.log 2>&1 || sed -n 's/^dagster.*Failure: //p' data/dev.log | sort -u
	$(BIN)/evalvault webserver --daemon --port $(PORT)

setup-phoenix: $(PHOENIX)/.setup ## make .venv-phoenix with a Phoenix server in it (700 MB), apart from ours

phoenix: $(PHOENIX)/.setup ## start Phoenix on http://127.0.0.1:6006, for this machine alone
	PHOENIX_WORKING_DIR=$${PHOENIX_WORKING_DIR:-$(CURDIR)/data/.phoenix} $(PHOENIX)/bin/python deploy/start_phoenix.py

bench: setup-dev ## measure speed and memory, print the tables of docs/benchmarks.md
	$(BIN)/python -m benchmarks

drill: setup-dev ## kill each part of production in a backfill, print the table of docs/reliability.md
	$(BIN)/python -m benchmarks.kill_drill

simulate-gate: setup-dev ## measure how often the gate is wrong, print the tables of docs/verdicts.md
	$(BIN)/python -m benchmarks.simulate_gate

simulate-alerts: setup-dev ## replay a year of weekly runs, print the tables of docs/alerts.md
	$(BIN)/python -m benchmarks.simulate_alerts

test-containers: setup-dev ## build the images and bring the compose stack up for real, as root on Debian (docs/deployment.md)
	$(BIN)/python -m evalvault_pipeline_tests.containers

docs: setup-dev ## write the generated pages of docs/ again
	$(BIN)/python docs/generate.py

lock: setup-dev ## pin every dependency with its hash; UPGRADE=--upgrade takes newer ones
	$(or $(UV),$(BIN)/uv) pip compile $(LOCK) --extra korean pyproject.toml -o requirements.lock
	$(or $(UV),$(BIN)/uv) pip compile $(LOCK) --extra korean --extra celery --extra kubernetes --extra aws --extra vault pyproject.toml -o requirements-image.lock
	$(or $(UV),$(BIN)/uv) pip compile $(LOCK) --extra korean --extra local-judge --extra celery --extra kubernetes --extra aws --extra vault --extra dev pyproject.toml -o requirements-dev.lock
	printf 'hatchling>=1.27\nsetuptools>=80\nuv>=0.9\n' | $(or $(UV),$(BIN)/uv) pip compile $(LOCK) - -o requirements-build.lock
	echo 'arize-phoenix>=20,<21' | $(or $(UV),$(BIN)/uv) pip compile $(LOCK) - -o requirements-phoenix.lock

LOCK = --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate $(UPGRADE)

clean: ## remove what runs and builds have written
	rm -rf $(VENV) $(PHOENIX) build data/results data/.dagster data/.phoenix data/dev.log .tmp_dagster_home_* .mypy_cache .ruff_cache .pytest_cache .hypothesis

$(VENV)/bin/python:
	@test -n "$(PYTHON)" || { echo "Python 3.11, 3.12 or 3.13 is needed. Install one, or name it: make PYTHON=/path/to/python3.12"; exit 2; }
	$(if $(UV),$(UV) venv --quiet --allow-existing --python $(PYTHON) $(VENV),$(PYTHON) -m venv $(VENV))

$(PHOENIX)/.setup: requirements-phoenix.lock
	@test -n "$(PYTHON)" || { echo "Python 3.11, 3.12 or 3.13 is needed. Name it: make PYTHON=/path/to/python3.12"; exit 2; }
	$(if $(UV),$(UV) venv --quiet --allow-existing --python $(PYTHON) $(PHOENIX),$(PYTHON) -m venv $(PHOENIX))
	$(if $(UV),$(UV) pip install --quiet --python $(PHOENIX)/bin/python --compile-bytecode,$(PHOENIX)/bin/python -m pip install --quiet --disable-pip-version-check) --no-deps --require-hashes -r requirements-phoenix.lock
	@touch $@

$(VENV)/.setup: requirements.lock pyproject.toml | $(VENV)/bin/python
	$(if $(UV),$(UV) pip install --quiet --python $(BIN)/python --compile-bytecode,$(BIN)/python -m pip install --quiet --disable-pip-version-check) --no-deps --require-hashes -r requirements.lock
	$(if $(UV),$(UV) pip install --quiet --python $(BIN)/python,$(BIN)/python -m pip install --quiet --disable-pip-version-check) --no-deps -e .
	@touch $@

$(VENV)/.setup-dev: requirements-dev.lock $(VENV)/.setup
	$(if $(UV),$(UV) pip install --quiet --python $(BIN)/python --compile-bytecode,$(BIN)/python -m pip install --quiet --disable-pip-version-check) --no-deps --require-hashes -r requirements-dev.lock
	@touch $@
