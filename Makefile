# FedPlug. `make help` lists what can be done; every target makes and reuses its own .venv.
# Needs: Python 3.11 or newer, make, git, and a package index that pip can reach. `make demo PYTHON=python3.12` picks another Python.

PYTHON ?= python3
# Processes that run tests side by side: one more than cores, for many tests wait for nodes of their own.
WORKERS ?= 3
# Each of some hundred Pythons would compile all that it imports anew where this is set, as in many containers.
unexport PYTHONDONTWRITEBYTECODE
VENV := .venv
BIN := $(VENV)/bin
PIP := PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore PIP_NO_INPUT=1 $(BIN)/python -m pip -qq
# pip compiles all that it installs, which takes as long as the rest of it; Python compiles what it imports, once.
INSTALL := $(PIP) install --no-compile -c constraints/ci.txt
# Whole files go to a process each, in the order that conftest.py gives: the long ones first. Sets of words have the
# same order in each run, so that a red run is red again.
PYTEST = PYTHONHASHSEED=0 $(BIN)/pytest -q -n $(WORKERS) --dist loadfile --no-loadscope-reorder
PLUGINS := $(sort $(wildcard plugins/*/pyproject.toml))
EDITABLE := $(foreach file,$(PLUGINS),-e $(dir $(file)))
FIRST_RUN := -e plugins/fedplug-torch -e plugins/fedplug-scaffold -e plugins/fedplug-zmq
PROJECTS := pyproject.toml $(PLUGINS) constraints/ci.txt

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup dev demo test test-all lint types bench bench-peers docs clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):[^#]*## */\1\t/' | awk -F'\t' '{printf "  make %-11s %s\n", $$1, $$2}'

demo: $(VENV)/.runtime  ## three hospitals train one model, here and now
	@$(BIN)/fedplug demo

test: $(VENV)/.dev  ## all tests but the slow ones (8 to 15 minutes)
	@echo "==> tests: unit, properties, plugins, integration, wheels; usually 8 to 15 minutes on 2 cores"
	@$(PYTEST) -m "not slow"

test-all: $(VENV)/.dev  ## every test, the slow ones too
	@echo "==> all tests, the slow ones too; usually 25 to 60 minutes on 2 cores"
	@HYPOTHESIS_PROFILE=thorough $(PYTEST)

lint: $(VENV)/.dev  ## ruff, the import contracts, versions in lockstep
	@echo "==> ruff, import-linter, version check; a few seconds"
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/lint-imports --no-logo
	@$(BIN)/python scripts/check_versions.py

types: $(VENV)/.dev  ## mypy --strict on fedplug/, plugins and scripts
	@echo "==> mypy --strict; up to a minute the first time"
	@$(BIN)/mypy

bench: $(VENV)/.dev  ## the benchmarks, one JSON line each
	@echo "==> benchmarks; usually a few minutes, best on a quiet machine"
	@$(BIN)/python -m benchmarks

bench-peers: $(VENV)/.dev  ## the same on Flower, pfl and blazefl, each in an environment of its own
	@echo "==> benchmarks of peers; 15 to 30 minutes, and some more the first time, for their downloads"
	@$(BIN)/python -m benchmarks.peers

docs: $(VENV)/.dev  ## check that the documentation is true: links, code blocks, generated pages
	@echo "==> documentation checks; under a minute"
	@$(BIN)/pytest -q tests/docs

setup: $(VENV)/.runtime  ## only make .venv, with what a first run needs
dev: $(VENV)/.dev  ## only make .venv, with all tools of a developer

clean:  ## remove .venv, caches and built files
	rm -rf $(VENV) .cache .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache build dist wheelhouse
	find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "FedPlug needs Python 3.11 or newer; '$(PYTHON)' is not. Name one: make $(MAKECMDGOALS) PYTHON=python3.11" >&2; exit 1; }
	@echo "==> making a virtual environment in $(VENV); a few seconds"
	@$(PYTHON) -m venv $(VENV) || { \
	  echo "The venv module did not work. On Debian and Ubuntu: apt install python3-venv" >&2; rm -rf $(VENV); exit 1; }

# hatchling first and no build isolation: otherwise pip would fetch it anew for each of our packages.
$(VENV)/.runtime: $(PROJECTS) | $(BIN)/python
	@echo "==> installing FedPlug, PyTorch and TensorBoard; usually 1 to 4 minutes, mostly PyTorch's download"
	@$(INSTALL) hatchling
	@$(INSTALL) --no-build-isolation -e ".[demo]" $(FIRST_RUN)
	@touch $@

$(VENV)/.dev: $(VENV)/.runtime
	@echo "==> installing the tools for tests and checks; usually under a minute"
	@$(INSTALL) --no-build-isolation -e ".[all,dev]" $(EDITABLE)
	@touch $@
