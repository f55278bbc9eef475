#!/usr/bin/env bash
# ci/llama_cpp_evaluation.sh [CHECKPOINT TEXT GGUF]: sets `quantize eval` beside llama.cpp's
# `llama-perplexity --kl-divergence`, on the weights of models/storyteller-6m, or of a Llama of
# which there is a GGUF file, in every format: the very same blocks, the same tokens, the same file
# of logits.
#
# Not part of .ci/run: building llama.cpp takes some twenty minutes on 2 cores, the comparison then
# two. ci/llama_cpp.sh says what it needs. Says so and stops where the tools cannot be had.
set -euo pipefail

here=$(dirname "$0")
skip() {
  echo "ci/llama_cpp_evaluation.sh: SKIPPED, nothing was compared: $*" >&2
  exit 0
}

source "$here/llama_cpp.sh"
build_llama_cpp llama-perplexity
cargo build --release --locked --quiet -p quantize-cli
model=$here/../models/storyteller-6m
if [ $# = 0 ]; then set -- "$model" "$model/heldout.txt"; fi
"$venv/bin/python" "$here/llama_cpp_evaluation.py" "$llama/llama-perplexity" "$target/release/quantize" "$@"
