# The two commands are `make meta-train` and `make test`; each makes the
# virtual environment that it needs, and neither does anything twice.

PYTHON := .venv/bin/python
CURRENT_PYTHON := .venv-current/bin/python
SEED ?= 0
# The tests of a file share what they have compiled. The order of files is that
# of tests/conftest.py.
NUM_PROCESSES ?= 2
PYTEST := --numprocesses=$(NUM_PROCESSES) --dist=loadfile --no-loadscope-reorder --durations=30
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help venv venv-current meta-train test test-main test-current lint \
  clean

help:
	@echo 'make meta-train  meta-trains a small rule on this machine, in minutes'
	@echo 'make test        runs all tests, and the style checks'
	@echo 'make lint        runs the style checks'
	@echo 'make clean       removes the environments and what Python leaves'

venv:
	@launch/venv.sh .venv requirements.txt 3.10
	@cmp -s launch/lpg.sh .venv/bin/lpg || install launch/lpg.sh .venv/bin/lpg

venv-current:
	@launch/venv.sh .venv-current tests/requirements-current.txt 3.13 3.12

meta-train: venv
	$(PYTHON) -m lpg_distributed meta-train --preset=demo --launch_type=local_mp \
	  --seed=$(SEED) $(ARGS)

# Processes that wait for each other leave time to the tests of test-current,
# whose output comes at the end.
test: lint
	@output=$$(mktemp); current=; \
	trap 'kill $$current 2> /dev/null; rm -f "$$output"' EXIT; \
	trap 'exit 130' INT TERM; \
	nice $(MAKE) test-current NUM_PROCESSES=1 > "$$output" 2>&1 & \
	current=$$!; \
	$(MAKE) test-main; main=$$?; \
	wait $$current; code=$$?; current=; \
	cat "$$output"; exit $$((main ? main : code))

test-main: venv
	$(PYTHON) -m pytest tests $(PYTEST) $(ARGS)

# What needs no Launchpad on a newer Python and JAX: the rule, the environments,
# meta-training in one process, meta-testing and the accelerator's benchmark.
test-current: venv-current
	$(CURRENT_PYTHON) -m pytest tests/core tests/envs tests/store \
	  tests/meta_testing tests/figures tests/test_config.py \
	  tests/test_public_interface.py tests/launch/test_main.py \
	  tests/benchmarks/test_accelerator.py \
	  $(PYTEST) $(ARGS)

lint: venv venv-current
	$(PYTHON) -m ruff check .
	$(CURRENT_PYTHON) -m mypy
	sh -n launch/venv.sh launch/lpg.sh

clean:
	rm -rf .venv .venv-current .libtpu .pytest_cache .ruff_cache
	find . -name __pycache__ -prune -exec rm -rf {} +
