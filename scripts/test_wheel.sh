#!/usr/bin/env bash
# Builds the wheel, installs it into a fresh environment, and tries it from an
# empty folder: what users of `pip install` get, without the checkout.
set -euo pipefail
source "$(dirname "$0")/environment.sh"
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
export TF_CPP_MIN_LOG_LEVEL=3

echo "== The wheel in a fresh environment"
"$PYTHON" -m venv "$folder/venv"
python="$folder/venv/bin/python"
"$python" -m pip wheel --quiet --no-deps --wheel-dir "$folder" .
"$python" -m pip install --quiet "$folder"/diffstride-*.whl
mkdir "$folder/empty"
cd "$folder/empty"

"$python" -m diffstride.configs list papers | tail -n 1
"$python" -m diffstride.sweep configs/sweeps/table3_cifar10.toml --dry_run |
  tail -n 1
"$python" - <<'PROGRAM'
import diffstride
import keras
import numpy as np

assert "site-packages" in diffstride.__file__, diffstride.__file__
model = keras.Sequential(
    [keras.Input((16, 16, 2)), diffstride.DiffStride(2, name="pooling")]
)
model.save("model.keras")
x = np.random.default_rng(0).normal(size=(2, 16, 16, 2))
loaded = keras.models.load_model("model.keras")
assert np.array_equal(model(x), loaded(x))
print("A layer was saved and loaded.")
PROGRAM
"$python" -m diffstride.train --workdir=run --gin_file=configs/quickstart.gin \
  --gin_param="train.train.num_epochs = 1" \
  --gin_param="synthetic.synthetic.num_train = 512" | tail -n 4
test -s run/history.jsonl
echo "The wheel works."
