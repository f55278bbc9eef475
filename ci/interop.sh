#!/usr/bin/env bash
# ci/interop.sh CHECKPOINT...: converts checkpoints (safetensors files or folders) and has other
# people's code read the results: ci/interop.py, with PyPI's gguf, safetensors and xxhash.
#
# Needs python3 (3.11 or later) with venv, and PyPI the first time; the virtual environment is
# target/interop. Less than a minute for a model of 6 M weights.
set -euo pipefail

: "${1:?checkpoint to convert}"
source "$(dirname "$0")/venv.sh"
cargo build --release --locked --quiet -p quantize-cli
cargo build --release --locked --quiet -p qruntime --example decode
for checkpoint; do
  "$venv/bin/python" "$(dirname "$0")/interop.py" "$target/release/quantize" "$target/release/examples/decode" "$checkpoint"
done
