# Everything from an empty clone: each target installs what it needs first, the system packages (bindep.txt) included.
# A run that finds its packages in place needs no root.

PYTHON ?= python3
ARGS ?=
# Further arguments for pytest: make test-unit PYTEST_ARGS='-k states -x'
PYTEST_ARGS ?=
# Processes for the unit tests, by pytest-xdist: 0 for none. It hangs where a conftest.py patches the standard library for
# greenthreads, so it is not the default.
JOBS ?= 0

# Processes for the tests with real brokers and hypervisors, each with its own of both.
WORKERS ?= 2

VENV := .venv
BIN ?= $(VENV)/bin
CONSTRAINTS := requirements/constraints-py311.txt
INSTALLED := $(VENV)/.installed
PYTEST = $(BIN)/python -m pytest $(PYTEST_ARGS)
# The layers with real brokers and hypervisors, as far as they are there, cheapest first
REAL_LAYERS = $(wildcard tests/functional tests/lab tests/chaos)

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help packages venv demo test test-unit test-functional test-lab test-chaos chaos bench bench-migration \
	lint lint-only format generate clean dist

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

packages: ## Install the missing system packages (with sudo where needed)
	@tools/install-packages test lab

venv: $(INSTALLED) ## Make .venv with the exact versions of requirements/

# The packages come first, but their check alone is no reason to make the environment again.
$(INSTALLED): pyproject.toml $(CONSTRAINTS) | packages
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "$(PYTHON) is no Python 3.11 or newer; name one: make PYTHON=/usr/bin/python3" >&2; exit 1; }
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install -q --disable-pip-version-check -c $(CONSTRAINTS) -e '.[dev]'
	@touch $@

demo: $(INSTALLED) ## A guest through the whole way, on a private broker and hypervisor (ARGS=--once to end by itself)
	$(BIN)/python -m tests.rig.demo $(ARGS)

test: test-unit $(INSTALLED) ## All tests, those marked long left out
	$(PYTEST) -m 'not long' -n $(WORKERS) --dist loadfile $(REAL_LAYERS)

test-unit: $(INSTALLED) ## Tests without broker or hypervisor
	$(PYTEST) -n $(JOBS) tests/unit

test-functional: $(INSTALLED) ## Tests of one agent with a real broker and a real hypervisor
	$(PYTEST) tests/functional

test-lab: $(INSTALLED) ## Tests with several hosts or whole guest systems, the long ones too
	$(PYTEST) tests/lab

test-chaos: $(INSTALLED) ## Crashes, kills and outages at every point, the long ones too
	$(PYTEST) tests/chaos

chaos: $(INSTALLED) ## Crash at every point (ARGS=spawn for one verb)
	$(BIN)/python -m tests.chaos $(ARGS)

bench: $(INSTALLED) ## Measure against the floor, interleaved
	$(BIN)/python -m tests.bench $(ARGS)

bench-migration: $(INSTALLED) ## Live migration beside libvirt's own call, interleaved (ARGS=--own-storage)
	$(BIN)/python -m tests.lab.measure $(ARGS)

lint: $(INSTALLED) lint-only ## Style, format, types, layers, generated files

# Without the environment of its own, for tox.
lint-only: | $(if $(filter $(VENV)/bin,$(BIN)),$(INSTALLED))
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/python -m mypy
	$(BIN)/lint-imports
	$(BIN)/python tools/generate.py --check

format: $(INSTALLED) ## Mend what ruff can mend
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

generate: $(INSTALLED) ## Write the generated files anew (sample configuration, reference, schemas)
	$(BIN)/python tools/generate.py

dist: $(INSTALLED) ## Build the wheel and the source distribution into dist/
	$(BIN)/python -m build --outdir dist .

clean: ## Remove what the other targets made
	rm -rf $(VENV) build dist htmlcov .coverage .coverage.* .hypothesis .import_linter_cache \
		.mypy_cache .pytest_cache .ruff_cache .tox
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
