#!/usr/bin/env bash
# ci/interop.sh CHECKPOINT...: converts checkpoints (safetensors files or folders) and has other people's code read the results:
# ci/interop.py, with PyPI's gguf, safetensors and xxhash.
#
# Needs python3 (3.11 or later) with venv, and PyPI the first time; the virtual environment is target/interop. A few seconds
# for models of some 20 M weights.
set -euo pipefail

: "${1:?checkpoint to convert}"
target=${CARGO_TARGET_DIR:-target}
requirements=$(dirname "$0")/requirements.txt
if ! cmp -s "$requirements" "$target/interop/requirements.txt"; then
  rm -rf "$target/interop"
  python3 -m venv "$target/interop"
  "$target/interop/bin/pip" install --quiet --disable-pip-version-check --no-deps -r "$requirements"
  "$target/interop/bin/pip" check >/dev/null # the list is complete
  cp "$requirements" "$target/interop/requirements.txt"
fi
cargo build --release --locked --quiet -p quantize-cli
cargo build --release --locked --quiet -p qruntime --example decode
for checkpoint; do
  "$target/interop/bin/python" "$(dirname "$0")/interop.py" "$target/release/quantize" "$target/release/examples/decode" "$checkpoint"
done
