# The two commands are `make meta-train` and `make test`; each makes the
# virtual environment that it needs, and neither does anything twice.

PYTHON := .venv/bin/python
CURRENT_PYTHON := .venv-current/bin/python
SEED ?= 0
# The tests of a file run in one process, for they share what they set up. The
# order of files is that of tests/conftest.py: the longest first.
NUM_PROCESSES ?= 2
# Long tests wait for processes of theirs much of the time.
NUM_LONG_PROCESSES ?= 3
PYTEST = --numprocesses=$(NUM_PROCESSES) --dist=loadfile --no-loadscope-reorder --durations=15
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help venv venv-current venv-docs meta-train test test-all test-main \
  test-current test-long test-long-main test-long-current test-light lint docs \
  clean

help:
	@echo 'make meta-train  meta-trains a small rule on this machine, in minutes'
	@echo 'make test        checks the style and runs the tests, in minutes;'
	@echo '                 with ARGS="tests/core -k bandit" only those'
	@echo 'make test-all    runs the long tests too'
	@echo 'make lint        runs the style checks and the type checker'
	@echo 'make docs        builds the documentation in docs/_build'
	@echo 'make clean       removes the environments and what Python leaves'

venv:
	@launch/venv.sh .venv requirements.txt 3.10
	@cmp -s launch/lpg.sh .venv/bin/lpg || install launch/lpg.sh .venv/bin/lpg

venv-current:
	@launch/venv.sh .venv-current tests/requirements-current.txt 3.13 3.12

venv-docs:
	@launch/venv.sh .venv-docs docs/requirements.txt 3.13 3.12

meta-train: venv
	$(PYTHON) -m lpg_distributed meta-train --preset=demo --launch_type=local_mp \
	  --seed=$(SEED) $(ARGS)

# One set of tests after the other: each keeps all processes busy.
ifeq ($(strip $(ARGS)),)
test: lint test-main test-current
else
test: venv
	$(PYTHON) -m pytest $(ARGS)
endif

test-all: test test-long

# What needs no Launchpad is tested on a newer Python and JAX too: the rule, the
# environments, meta-training in one process, meta-testing and the accelerator's
# benchmark. `make test` runs these tests there alone, `make test-long` on the
# pinned Python.
LIGHT := tests/core tests/envs tests/store tests/meta_testing tests/figures \
  tests/test_config.py tests/test_public_interface.py tests/test_policies.py \
  tests/test_notebooks.py tests/launch/test_main.py \
  tests/benchmarks/test_accelerator.py

test-main: venv
	$(PYTHON) -m pytest tests -m 'not long' --run-elsewhere='$(LIGHT)' $(PYTEST)

test-current: venv-current
	$(CURRENT_PYTHON) -m pytest $(LIGHT) -m 'not long and not pinned' $(PYTEST)

# Slurm, kills at random, installing the package, and whatever else takes long by
# itself.
test-long: test-long-main test-long-current test-light

test-long-main: NUM_PROCESSES = $(NUM_LONG_PROCESSES)
test-long-main: venv venv-current
	$(PYTHON) -m pytest tests -m long $(PYTEST)

test-long-current: venv-current
	$(CURRENT_PYTHON) -m pytest tests/test_notebooks.py \
	  tests/test_public_interface.py -m long $(PYTEST)

test-light: venv
	$(PYTHON) -m pytest $(LIGHT) -m 'not long and not pinned' $(PYTEST)

lint: venv venv-current
	$(PYTHON) -m ruff check .
	$(CURRENT_PYTHON) -m mypy
	sh -n launch/venv.sh launch/lpg.sh

# Any warning, such as a link that leads nowhere, is an error.
docs: venv-docs
	.venv-docs/bin/python -m sphinx -W --keep-going -q docs docs/_build
	@echo 'docs/_build/index.html'

clean:
	rm -rf .venv .venv-current .venv-docs .libtpu docs/_build docs/_generated docs/jupyter_execute \
	  .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -prune -exec rm -rf {} +
