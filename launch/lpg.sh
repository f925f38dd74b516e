#!/bin/sh
# The command `lpg` of a checkout; `make venv` copies it to .venv/bin.
bin=$(CDPATH='' cd "$(dirname "$0")" && pwd)
root=$(dirname "$(dirname "$bin")")
PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH} \
  exec "$bin/python" -m lpg_distributed "$@"
