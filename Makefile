# Two commands: `make quickstart` and `make test`. Each makes .venv if need be; re-runs install nothing.
# `make reproduce PRESET=cpu ROOT=DIR` trains and probes the table of methods that docs/results.md is
# written from (benchmarks/presets).
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: quickstart test lint types unit format clean reproduce

quickstart: $(VENV)/.installed
	$(BIN)/bcl quickstart $(ARGS)

test: lint types unit

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.installed-dev
	$(BIN)/mypy

unit: $(VENV)/.installed-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 $(ARGS)

PRESET ?= cpu
reproduce: $(VENV)/.installed-dev
	$(BIN)/python benchmarks/reproduce.py --preset $(PRESET) $(if $(ROOT),--root $(ROOT)) $(ARGS)

format: $(VENV)/.installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) build dist *.egg-info

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: setup.cfg pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	touch $@

$(VENV)/.installed-dev: setup.cfg pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[all,dev]'
	touch $@ $(VENV)/.installed
