# Two commands: `make quickstart` and `make test`. Each makes .venv if need be; re-runs install nothing.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: quickstart test lint types unit docs bench reproduce format clean

quickstart: $(VENV)/.installed
	$(BIN)/bcl quickstart $(ARGS)

test: lint types docs unit

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.installed-dev
	$(BIN)/mypy

unit: $(VENV)/.installed-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 $(ARGS)

# A warning is an error; the site works from disk: site/index.html.
docs: $(VENV)/.installed-dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet

# All benchmarks, one after the other; ARGS="--only views" runs a part, a re-run goes on.
bench: $(VENV)/.installed-dev
	$(BIN)/python benchmarks/run.py $(ARGS)

# Trains and probes the table of methods that docs/results.md is written from (benchmarks/presets);
# some presets need the data set's folder: ROOT=DIR.
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
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	touch $@

$(VENV)/.installed-dev: setup.cfg pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[all,dev,docs,examples]'
	touch $@ $(VENV)/.installed
