#!/usr/bin/env bash
# Builds the documentation into site/. DOCS_EXECUTE=true runs the tutorials, so
# that their pages show what they print and draw (some minutes).
set -euo pipefail
source "$(dirname "$0")/environment.sh"
environment docs
export NO_MKDOCS_2_WARNING=1
"$VENV/bin/mkdocs" build --strict "$@"
