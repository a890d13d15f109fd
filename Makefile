# Stairlock's commands. They need Python 3.11 or newer, git and make; everything they install goes into .venv.

PY ?= python3
MODEL ?= smollm2-135m-instruct-q4
TEST_LIMIT_S ?= 1500

VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt
PYTEST := $(BIN)/python -m pytest

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test check root soak format clean install install-dev model

help:
	@echo "make demo     install, get the model, run the main job: one improvement cycle and one bad candidate"
	@echo "make test     install what the tests need, get the model, run the tests ($(TEST_LIMIT_S) s at most)"
	@echo "make check    formatting, lint, types, import rules, then make test: what CI runs"
	@echo "make root     train the root again and compare it with the one that is shipped"
	@echo "make soak     the long tests that make test leaves out"
	@echo "make format   format and sort imports in place"
	@echo "make clean    remove caches and build outputs; .venv and .stairlock (models, ledger) stay"

# --resume begins a run that is not there, goes on with one that was cut off, and reports one that is done.
demo: model
	@$(BIN)/stairlock run loop/configs/demo.yaml --resume

# In a home of its own: nothing that is shipped is touched.
root: install
	@$(BIN)/stairlock root policies/roots/smollm2-135m --home .stairlock/retrained-root

test: install-dev model
	@$(PYTEST) -m "not slow" --session-timeout=$(TEST_LIMIT_S)

soak: install-dev model
	@$(PYTEST) -m slow --timeout=0

check: install-dev
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/pyright
	@$(PYTEST) -qq tests/test_import_rules.py
	@$(MAKE) --no-print-directory test

format: install-dev
	@$(BIN)/ruff check --quiet --select I --fix .
	@$(BIN)/ruff format --quiet .

clean:
	@rm -rf build dist .pytest_cache .ruff_cache .hypothesis
	@find . -path ./$(VENV) -prune -o -path ./.stairlock -prune -o -type d -name __pycache__ -exec rm -rf {} +

model: install
	@$(BIN)/stairlock model add $(MODEL)

install: $(VENV)/.installed
install-dev: $(VENV)/.installed-dev

# pip, not python: a virtual environment whose making was cut short has python already.
$(BIN)/pip:
	@$(PY) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "$(PY) is $$($(PY) --version 2>&1); Stairlock needs Python 3.11 or newer: make PY=python3.11"; exit 1; }
	@$(PY) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml constraints.txt | $(BIN)/pip
	@echo "installing into $(VENV); the first time takes a few minutes, most of them for torch"
	@$(INSTALL) torch
	@$(INSTALL) -e .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	@$(INSTALL) -e '.[dev,probes]'
	@touch $@
