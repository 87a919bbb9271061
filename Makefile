# Ringpit: every command of the project. `make` prints them.
#
# Nothing here needs to be installed beforehand but Python 3.11: `setup` makes .venv, and the brokers come by
# `brokers`. Everything that is made lies in build/ or .venv/. `make clean` removes it.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
BROKERS_FOLDER := $(CURDIR)/build/brokers
TEST_BROKERS_FOLDER := $(CURDIR)/build/test-brokers
KERNEL_FOLDERS := engine ipc wal shards perf tests/support
SOURCES := pyproject.toml $(foreach folder,$(KERNEL_FOLDERS),$(sort $(wildcard $(folder)/*.py)))
UNIT_TESTS := $(wildcard tests/engine tests/ipc tests/wal tests/shards)

# Numba's cache sees edits only in the file that holds a function: the folder's name must see them all.
export NUMBA_CACHE_DIR := $(CURDIR)/build/numba/$(shell cat $(SOURCES) | sha256sum | cut -c1-12)

# Runs $(1) with the brokers of folder $(2): started if they do not run, and stopped again if they were started here.
define with_brokers
started=; \
$(PYTHON) deploy/brokers status --folder $(2) >/dev/null || { started=1; }; \
finish() { status=$$?; trap - EXIT; [ -z "$$started" ] || \
  $(PYTHON) deploy/brokers down --folder $(2) > build/brokers-down.log 2>&1 || { cat build/brokers-down.log; status=1; }; \
  exit $$status; }; \
mkdir -p build; trap finish EXIT; trap 'exit 130' INT; trap 'exit 143' TERM; \
$(PYTHON) deploy/brokers up --folder $(2); \
set -a; . $(2)/brokers.env; set +a; \
$(1)
endef

##@ Use

.PHONY: help
help: ## print this
	@awk 'BEGIN { FS = ":.*## " } /^##@/ { printf "\n%s\n", substr($$0, 5) } \
	  /^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo

.PHONY: setup
setup: $(VENV)/.stamp ## make .venv with everything in it (PYTHON=python3.12 to choose)

# setuptools of its own: an environment comes with an old one, and a test builds the wheel in it.
$(VENV)/.stamp: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "$(PYTHON) must be Python 3.11 or later: make setup PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || $(MAKE) install-venv
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check 'setuptools>=77' --editable '.[dev]'
	@touch $@

.PHONY: install-venv
install-venv:
	@if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	  apt-get -q -o DPkg::Lock::Timeout=300 update && \
	  DEBIAN_FRONTEND=noninteractive apt-get -q -o DPkg::Lock::Timeout=300 install -y --no-install-recommends python3-venv; \
	else \
	  echo "$(PYTHON) cannot make environments: apt-get install python3-venv (as root), then make setup" >&2; exit 1; \
	fi

.PHONY: run
run: setup ## watch orders go through every stage; BROKERS=1: over a real RabbitMQ and a real Kafka
ifeq ($(BROKERS),1)
	@$(call with_brokers,$(BIN)/ringpit demo --brokers,$(BROKERS_FOLDER))
else
	@$(BIN)/ringpit demo
endif

.PHONY: brokers
brokers: ## start a real RabbitMQ and a real Kafka on loopback
	@$(PYTHON) deploy/brokers up --folder $(BROKERS_FOLDER)

.PHONY: brokers-down
brokers-down: ## stop them and remove their data
	@$(PYTHON) deploy/brokers down --folder $(BROKERS_FOLDER)

.PHONY: brokers-status
brokers-status: ## say whether they run and where
	@$(PYTHON) deploy/brokers status --folder $(BROKERS_FOLDER)

##@ Test

# Each step runs whatever the others said; what a failed one said last is printed again at the very end. Whole exchanges wait half
# of the time, so the unit tests run beside them: in this order, each shown when all are done.
UNIT_STEPS := test-compiled test-py test-bounds
.PHONY: test
test: setup ## everything: lint, types, whole exchanges with the real brokers; unit tests compiled, interpreted, bounds-checked
	@mkdir -p build; rm -f build/failed; beside=; trap 'kill $$beside 2>/dev/null || true' EXIT; \
	step() { echo "== $$1"; $(MAKE) $$1 2>&1 | tee build/$$1.log || echo $$1 >> build/failed; }; \
	units() { for step in $(UNIT_STEPS); do $(MAKE) $$step > build/$$step.log 2>&1 || echo $$step >> build/failed; done; }; \
	step lint; step types; step warm; units & beside=$$!; step test-brokers; wait $$beside; \
	for step in $(UNIT_STEPS); do echo "== $$step, which ran beside it"; cat build/$$step.log; done; \
	[ -e build/failed ] || exit 0; failed=$$(xargs < build/failed); \
	for step in $$failed; do echo "== the end of $$step, which failed"; tail -n 80 build/$$step.log; done; \
	echo "make test failed in: $$failed" >&2; exit 1

.PHONY: test-brokers
test-brokers: warm ## whole exchanges, and all that needs the real brokers, which this starts and stops
	@$(call with_brokers,$(BIN)/python -m pytest tests -m 'brokers or whole' --durations 30 --continue-on-collection-errors,$(TEST_BROKERS_FOLDER))

.PHONY: test-compiled
test-compiled: warm ## the unit tests compiled, and the simulation
	@RINGPIT_NO_BROKERS=1 $(BIN)/python -m pytest tests -m 'not brokers and not whole' --durations 30 -q

.PHONY: test-quick
test-quick: warm ## all tests that need no broker, compiled
	@RINGPIT_NO_BROKERS=1 $(BIN)/python -m pytest tests -m 'not brokers' -q

.PHONY: test-py
test-py: setup ## the unit tests interpreted, with branch coverage
	@NUMBA_DISABLE_JIT=1 $(BIN)/python -m coverage run -m pytest $(UNIT_TESTS) -m 'not brokers' -q
	@$(BIN)/python -m coverage report --skip-empty

.PHONY: test-bounds
test-bounds: setup ## engine and rings with every index checked (a read out of range is silent otherwise)
	@NUMBA_BOUNDSCHECK=1 NUMBA_CACHE_DIR=$(NUMBA_CACHE_DIR)-bounds \
	  $(BIN)/python -m pytest $(wildcard tests/engine tests/ipc) -m 'not brokers' -q

.PHONY: soak
soak: warm ## the long tests
	@$(call with_brokers,$(BIN)/python -m pytest tests --soak --timeout 3600,$(TEST_BROKERS_FOLDER))

.PHONY: lint
lint: setup ## ruff: rules and format
	@$(BIN)/ruff check . && $(BIN)/ruff format --check .

# Editable installs are import hooks that mypy cannot follow: it gets a view of the namespace made of links.
.PHONY: types
types: setup ## mypy
	@mkdir -p build/typing/ringpit && cd build/typing/ringpit && \
	  for folder in engine ipc wal shards perf; do ln -sfn ../../../$$folder $$folder; done && \
	  ln -sfn ../../../tests/support testing
	@MYPYPATH=build/typing $(BIN)/mypy -p ringpit.engine -p ringpit.ipc -p ringpit.wal -p ringpit.shards \
	  -p ringpit.testing -p ringpit.perf

.PHONY: check
check: lint types test-quick ## what to run before a commit: a few minutes, no broker

##@ Measure

.PHONY: bench
bench: setup ## list the benchmarks, or run one: NAME=ring
	@$(BIN)/python -m ringpit.perf $(NAME)

# The records lie where the page's plots do not: a run of any benchmark with --save SAVED=FOLDER replaces what is there of it.
SAVED := docs/measured
.PHONY: performance
performance: setup ## make docs/performance.md again from saved records: SAVED=docs/measured
	@$(BIN)/python -m ringpit.perf report $(SAVED)

.PHONY: measure
measure: setup ## measure what the page shows, some minutes on a quiet machine: SAVED=docs/measured
	@mkdir -p $(SAVED); $(BIN)/ringpit doctor --json --seconds 10 > $(SAVED)/doctor.jsonl || true
	@for name in ring latency worker router referee exchange_core events book snapshot recovery; do \
	  $(BIN)/python -m ringpit.perf $$name --save $(SAVED) || true; done
	@$(BIN)/ringpit load --own --find-knee --save $(SAVED) && rm -f $(SAVED)/load-*.png # the page draws its own

.PHONY: warm
warm: setup ## compile every kernel into the cache
	@$(BIN)/python -c 'from ringpit.shards.compiling import ready; print(f"every kernel is ready after {ready(print):.1f} s")'

.PHONY: clean
clean: brokers-down ## remove everything that was made
	@$(PYTHON) deploy/brokers down --folder $(TEST_BROKERS_FOLDER)
	rm -rf build $(VENV) *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
