#!/bin/sh
# Stands in for a node's Python interpreter: the node runs under a supervisor.
# Isolated (-I), since modules of this directory have names of the library's.
exec "$LPG_PYTHON" -S -I "${0%/*}/supervisor.py" "$@"
