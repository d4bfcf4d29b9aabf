# make test | make lint | make demo: each creates .venv, installs the pinned packages, does its job.
# A second call finds the stamps in .venv and starts at once. PYTHON=python3.12 picks another Python.

PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3.14 python3; do \
	command -v $$p >/dev/null && $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	&& echo $$p && break; done)
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet -c constraints.txt
PYTEST_ARGS ?=

.PHONY: test lint unit demo clean

test: lint unit

lint: .venv/stamp-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

unit: .venv/stamp-test
	$(BIN)/python -m pytest $(PYTEST_ARGS)

demo: .venv/stamp-run
	$(BIN)/python -m train.demo

.venv/bin/python:
	@test -n "$(PYTHON)" || { echo "No Python 3.11 or newer was found; install one or say make PYTHON=/path/to/python"; exit 1; }
	$(PYTHON) -m venv .venv || { rm -rf .venv; echo "$(PYTHON) cannot create a virtual environment; on Debian: apt-get install python3-venv"; exit 1; }

.venv/stamp-run: pyproject.toml constraints.txt | .venv/bin/python
	$(PIP) -e .
	@touch $@

.venv/stamp-test: pyproject.toml constraints.txt | .venv/bin/python
	$(PIP) -e '.[test,data]'
	@touch $@ .venv/stamp-run

clean:
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist
