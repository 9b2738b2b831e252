#!/usr/bin/env bash
# Installs diffstride into a virtual environment and trains a small ResNet that
# learns its strides, on textures made on the spot. Run again, it shows the
# result of the first run; remove the folder to train anew.
set -euo pipefail
source "$(dirname "$0")/environment.sh"
environment plot

workdir="${1:-runs/quickstart}"
echo "Training a small DiffStride ResNet (two minutes on two cores)"
"$VENV/bin/python" -m diffstride.train \
  --gin_file=configs/quickstart.gin --workdir="$workdir" --seed=1
echo "History, strides and sizes by epoch: $workdir/history.jsonl"
