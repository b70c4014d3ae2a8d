# `make fast` while working, `make test` before a change is done. Each creates .venv on first use.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist worksteal

.PHONY: quickstart fast test lint types unit docs fuzz bench reproduce format clean

quickstart: $(VENV)/.installed
	$(BIN)/bcl quickstart $(ARGS)

# Lint and the quick tests, in about a minute.
fast: lint
	$(PYTEST) -m "not slow and not gpu" tests/bcl tests/cacr tests/datamodules \
		tests/project/test_architecture.py $(ARGS)

test: lint
	$(MAKE) -j 2 types docs
	$(MAKE) unit

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell

types: $(VENV)/.installed-dev
	$(BIN)/mypy

# Part of the tests: make unit ARGS="tests/bcl/losses -k golden"
unit: $(VENV)/.installed-dev
	$(PYTEST) $(ARGS)

# Warnings are errors. The site opens from disk: site/index.html
docs: $(VENV)/.installed-dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet

# Random calls against float64 formulas for ten minutes; less with ARGS="--minutes 1".
fuzz: $(VENV)/.installed-dev
	$(BIN)/python benchmarks/fuzz.py $(ARGS)

# All benchmarks, one after the other; ARGS="--only views" runs a part. A second run continues.
bench: $(VENV)/.installed-dev
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[bench]'
	$(BIN)/python benchmarks/run.py $(ARGS)

# Train and probe the methods that docs/results.md compares (benchmarks/presets).
# Some presets need the folder of a data set: ROOT=DIR
PRESET ?= cpu
reproduce: $(VENV)/.installed-dev
	$(BIN)/python benchmarks/reproduce.py --preset $(PRESET) $(if $(ROOT),--root "$(ROOT)") $(ARGS)

format: $(VENV)/.installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) build dist site *.egg-info

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: setup.cfg pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[cli,report]'
	touch $@

$(VENV)/.installed-dev: setup.cfg pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[all,dev,docs,examples]'
	touch $@ $(VENV)/.installed
