# Every target is one line of real commands; `make` alone lists them.
.DEFAULT_GOAL := help
.PHONY: help setup lint test check demo bench drill docs clean

BIN := .venv/bin
PYTHONS := python3 python3.14 python3.13 python3.12 python3.11
# Made anew when a pin or the project's own metadata changes.
STAMP := .venv/.installed

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP) ## Make .venv and install everything, with pinned versions and hashes

$(STAMP): requirements.txt pyproject.toml
	@test -x $(BIN)/pip || { \
	  for python in $(PYTHONS); do \
	    if $$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
	      exec $$python -m venv .venv; \
	    fi; \
	  done; \
	  echo "error: no Python >= 3.11 among: $(PYTHONS)" >&2; \
	  echo "fix: install one, or make .venv with one yourself: /path/to/python -m venv .venv" >&2; \
	  exit 4; }
	@echo 'Installing the pinned packages into .venv, about a minute the first time'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r requirements.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-build-isolation --no-deps -e .
	@touch $@

# Two at once, a file each: most of the time passes in waiting for servers that come up, freeze or die. In the order of
# their folders, so that the long ones begin first and the thousand short ones fill what is left.
test: lint ## Run every check and every test
	$(BIN)/pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder --durations 25

check: lint ## Run the fast part: lint, types, layers, tests without servers
	$(BIN)/pytest tests/unit tests/property tests/contract

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

demo: setup ## Start a real Kafka and Valkey, send traffic, show a list before and after the boost
	$(BIN)/clickwell demo

# The longest come last; each says on its own line which bar it missed.
BENCHMARKS := sink freshness boost_reads exclusion pairs lake_reads signals api run

bench: setup ## Measure throughput, latency and memory on this machine, about half an hour
	@missed=0; for one in $(BENCHMARKS); do \
	  echo "== benchmarks/$$one.py"; $(BIN)/python benchmarks/$$one.py || missed=$$?; \
	done; exit $$missed

# How long faults strike, and which.
SECONDS := 600
SEED := 1

drill: setup ## Break a real stack under traffic, SECONDS=600 SEED=1, and look for what is lost or counted twice
	$(BIN)/python -m tests.drill --seconds $(SECONDS) --seed $(SEED)

docs: setup ## Write what is generated: JSON Schemas and the reference pages
	$(BIN)/python -m clickwell.schemas.generate
	$(BIN)/python docs/generate.py

clean: ## Remove .venv, caches and build output; data in .clickwell stays
	rm -rf .venv build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
