#!/usr/bin/env bash
# ci/gguf_families.sh: GGUF files of every family, made by llama.cpp's own script, are read as the
# networks that they were made of, bit for bit (ci/gguf_families.py and the tests in
# qruntime/tests/gguf_families.rs).
#
# Not part of .ci/run, which tests with what is committed. Needs what ci/families.sh needs, and the
# source distribution of llama-cpp-python from PyPI.
set -euo pipefail

here=$(dirname "$0")
skip() {
  echo "$1" >&2
  exit 1
}
source "$here/llama_cpp.sh"
fetch_llama_cpp
environment=torch source "$here/venv.sh"
made=$target/gguf_families
rm -rf "$made"
PYTHONPATH=$here "$venv/bin/python" "$here/gguf_families.py" "$source" "$made" >"$target/gguf_families.log" 2>&1 || {
  tail "$target/gguf_families.log" >&2
  exit 1
}
GGUF_FAMILIES=$(realpath "$made") cargo test -p qruntime --test gguf_families
