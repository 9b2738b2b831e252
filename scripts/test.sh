#!/usr/bin/env bash
# Installs what the tests need into a virtual environment and runs them, on each
# of the backends that `--backends` names. By default these are TensorFlow and
# JAX; torch must be installed by hand. Other arguments go to pytest:
#
#   scripts/test.sh -k pooling
#   scripts/test.sh --backends torch -k pooling
#   scripts/test.sh --backends "tensorflow jax torch"
set -euo pipefail
backends="tensorflow jax"
arguments=()
while [ $# -gt 0 ]; do
  case "$1" in
    --backends)
      backends="${2:?--backends needs a value, such as \"tensorflow jax\"}"
      shift 2
      ;;
    --backends=*)
      backends="${1#*=}"
      shift
      ;;
    *)
      arguments+=("$1")
      shift
      ;;
  esac
done
for backend in $backends; do
  case "$backend" in
    tensorflow | jax | torch) ;;
    *)
      echo "--backends must name tensorflow, jax or torch." \
        "Received: $backend" >&2
      exit 2
      ;;
  esac
done

source "$(dirname "$0")/environment.sh"
environment test

if [[ " $backends " == *" torch "* ]] &&
  ! "$VENV/bin/python" -c "import torch" 2>/dev/null; then
  echo "torch is not installed, because it is large. Install it with" \
    "\`$VENV/bin/python -m pip install torch\`." >&2
  exit 1
fi

for backend in $backends; do
  echo "== KERAS_BACKEND=$backend"
  KERAS_BACKEND="$backend" "$VENV/bin/python" -m pytest -n 2 --dist worksteal -q \
    ${arguments[@]+"${arguments[@]}"}
done
