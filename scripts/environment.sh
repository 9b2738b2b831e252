# Sourced by the other scripts: a virtual environment beside the checkout, made
# once and brought up to date when setup.py or the checkout changed. Set VENV to put
# it elsewhere, PYTHON to choose the interpreter.
#
#   environment EXTRAS    e.g. environment plot

cd "$(dirname "${BASH_SOURCE[0]}")/.."
VENV="${VENV:-.venv}"
PYTHON="${PYTHON:-python3}"

environment() {
  local extras="$1" stamp wanted
  "$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 10))' || {
    echo "Python 3.10 or newer is needed. Set PYTHON to its path." >&2
    return 1
  }
  [ -x "$VENV/bin/python" ] || {
    echo "Making a virtual environment in $VENV"
    "$PYTHON" -m venv "$VENV"
  }
  stamp="$VENV/.installed-$extras"
  wanted="$(pwd && cat setup.py)"
  if [ "$(cat "$stamp" 2>/dev/null)" != "$wanted" ]; then
    echo "Installing diffstride[$extras] into $VENV (a few minutes, once)"
    "$VENV/bin/python" -m pip install --quiet --editable ".[$extras]"
    echo "$wanted" >"$stamp"
  fi
  export TF_CPP_MIN_LOG_LEVEL="${TF_CPP_MIN_LOG_LEVEL:-3}"
}
