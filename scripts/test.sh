#!/usr/bin/env bash
# Installs what the tests need into a virtual environment and runs them, on
# TensorFlow and on JAX. Arguments go to pytest: scripts/test.sh -k pooling
set -euo pipefail
source "$(dirname "$0")/environment.sh"
environment test

echo "Tests on TensorFlow and JAX"
for backend in tensorflow jax; do
  echo "== KERAS_BACKEND=$backend"
  KERAS_BACKEND="$backend" "$VENV/bin/python" -m pytest -n 2 -q "$@"
done
