# Set-up is pip in a virtual environment; running a target again reuses it.
PYTHON ?= python3.11
VENV   ?= .venv
BIN     = $(VENV)/bin
STAMP   = $(VENV)/.installed

.PHONY: up test check lint format types clean

up: $(STAMP)            ## a real local federation, one job, a report, a model in MLflow
	$(BIN)/fed up

test: $(STAMP)          ## everything, with one real NVFlare federation
	$(BIN)/python -m pytest

check: lint             ## for every commit: lint and the fast tests, under two minutes
	$(BIN)/python -m pytest -q -m "not federation" -p no:cacheprovider

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy crypto aggregator silo_agent jobs

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# torch first: the pinned release, so that a CPU build already at hand is enough and nothing newer is fetched.
$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet -c constraints.txt torch==2.13.0
	$(BIN)/pip install --quiet -c constraints.txt -e ".[dev]"
	touch $@

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache
