#!/usr/bin/env bash
# ci/llama_cpp_quality.sh [CHECKPOINT...]: sets our encoders beside llama.cpp's, format by format:
# the error that each leaves in the same matrices (of models/storyteller-6m, of every CHECKPOINT,
# and of noise), and the processor time that each takes.
#
# Not part of .ci/run: the first time takes ten minutes on 2 cores, then two. ci/llama_cpp.sh builds
# llama.cpp and says what that needs. Says so and stops where the tools cannot be had.
set -euo pipefail

here=$(dirname "$0")
skip() {
  echo "ci/llama_cpp_quality.sh: SKIPPED, nothing was compared: $*" >&2
  exit 0
}

source "$here/llama_cpp.sh"
build_llama_cpp llama-quantize
cargo build --release --locked --quiet -p quantize-cli
cargo build --release --locked --quiet -p qruntime --example decode
"$venv/bin/python" "$here/llama_cpp_quality.py" "$llama/llama-quantize" \
  "$target/release/quantize" "$target/release/examples/decode" "$here/../models/storyteller-6m" "$@"
