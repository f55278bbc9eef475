#!/usr/bin/env bash
# ci/templates.sh [FOLDER]: all chat templates of llama.cpp's collection (or those of FOLDER), and
# the short ones of ci/templates.txt, beside PyPI's transformers, over many conversations: the same
# text or the same refusal.
#
# Takes some 20 s, and the first time a minute more. Needs python3 (3.11 or later) with venv, and
# PyPI the first time: transformers without PyTorch, and the source of llama-cpp-python, which
# carries the collection.
set -euo pipefail

here=$(dirname "$0")
skip() {
  echo "ci/templates.sh: SKIPPED, nothing was compared: $*" >&2
  exit 0
}

source "$here/llama_cpp.sh"
folder=${1:-}
if [ -z "$folder" ]; then
  fetch_llama_cpp
  folder=$source/models/templates
fi
environment=templates source "$here/venv.sh"
cargo build --locked --quiet -p qruntime --example render
"$venv/bin/python" "$here/templates.py" "$target/debug/examples/render" "$folder"
