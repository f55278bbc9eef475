#!/usr/bin/env bash
# ci/llama_cpp_logits.sh STORIES260K.gguf TINYSTORIES: writes
# quantize-cli/tests/data/llama_cpp.logits, what llama.cpp says of the first 600 bytes of a text.
#
# Not part of .ci/run: ci/llama_cpp.sh builds llama.cpp and says what that needs. Says so and stops
# where the tools cannot be had.
set -euo pipefail

here=$(dirname "$0")
skip() {
  echo "ci/llama_cpp_logits.sh: SKIPPED, nothing was written: $*" >&2
  exit 0
}

source "$here/llama_cpp.sh"
build_llama_cpp llama-perplexity
text=$(mktemp)
trap 'rm -f "$text"' EXIT
head -c 600 "$2" >"$text"
"$llama/llama-perplexity" -m "$1" -f "$text" --kl-divergence-base "$here/../quantize-cli/tests/data/llama_cpp.logits" -c 16 --chunks 3 -t 1
