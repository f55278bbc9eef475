#!/usr/bin/env bash
# ci/schemes.sh: has compressed-tensors, bitsandbytes and MLX quantize a matrix, and compares what
# the converter makes of their files with what they decode themselves (ci/schemes.py). A minute, and
# PyTorch from PyPI the first time.
set -euo pipefail

environment=torch
source "$(dirname "$0")/venv.sh"
cargo build --release --locked --quiet -p quantize-cli
"$venv/bin/python" "$(dirname "$0")/schemes.py" "$target/release/quantize"
