#!/usr/bin/env bash
# Runs the tests with the oldest versions that setup.py allows, in a virtual
# environment of its own, `.venv-oldest`. Arguments are those of test.sh:
#
#   scripts/test_oldest.sh -k pooling
set -euo pipefail
cd "$(dirname "$0")/.."
export VENV="${VENV:-.venv-oldest}"
# "keras>=3.8" in setup.py becomes the line keras==3.8. Pip reads the variable.
PIP_CONSTRAINT="$(mktemp)"
export PIP_CONSTRAINT
grep -oE '"[A-Za-z0-9_-]+>=[0-9.]+' setup.py | tr -d '"' | sed 's/>=/==/' |
  sort -u >"$PIP_CONSTRAINT"
exec bash scripts/test.sh "$@"
