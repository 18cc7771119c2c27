# `make bench` and `make test` are all the set-up there is: both make .venv first.
# Options go through ARGS: make bench ARGS="--seeds 3 --device cuda"
.DEFAULT_GOAL := help
.PHONY: help setup bench quick test faults check ui report speed lock clean

PYTHON ?= python3
ARGS ?=
BIN := .venv/bin
STAMP := .venv/.installed

help:  ## Show this list
	@grep -E '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 10

setup: $(STAMP)  ## Make .venv with the pinned dependencies (PYTHON=python3.12 to choose)

$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version.split()[0]; sys.exit(sys.version_info < (3, 11) and \
	    f"bench needs Python 3.11 or later and $(PYTHON) is {v}; try: make setup PYTHON=python3.11")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

bench: setup  ## Train and compare every variant: reports/all/report.md
	$(BIN)/bench run experiments/all.yaml $(ARGS)

quick: setup  ## The same, small: minutes instead of hours
	$(BIN)/bench run experiments/all.yaml --quick $(ARGS)

test: setup  ## Run the tests (ARGS="tests/test_data.py -k digits" for some)
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder $(ARGS)

faults: setup  ## Run the slow tests: kills, full disks, lost servers; a wheel, Ray, PostgreSQL, a browser
	$(BIN)/python -m pytest -n 2 --dist loadgroup --no-loadscope-reorder -m 'faults or around' $(ARGS)

check: setup  ## Format, lint, types, known vulnerabilities of the pinned packages
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python .ci/audit.py

ui: setup  ## Open the runs in MLflow's interface
	$(BIN)/bench ui $(ARGS)

report: setup  ## Rebuild reports/all/report.md from its records
	$(BIN)/bench report experiments/all.yaml $(ARGS)

speed: setup  ## Measure training beside the usual loop and the machine's limits: reports/speed/report.md
	$(BIN)/python -m benchmarks.speed $(ARGS)

lock: setup  ## Pin the newest versions that pyproject.toml allows
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip compile --quiet --upgrade --universal --no-header --generate-hashes \
	    --extra dev pyproject.toml -o requirements.lock

clean:  ## Remove .venv and every cache; reports and runs stay
	rm -rf .venv build *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
