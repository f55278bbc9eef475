#!/usr/bin/env bash
# ci/network_speed.sh [ARGUMENT...]: a whole Llama of 1.1 billion random weights, ours beside
# llama.cpp's and candle's: tokens per second of a prompt and of generation, the time to the first
# token, memory. ARGUMENTs go to the program (benches/peers/src/bin/network): --threads 1,2 --format
# q4_0,q4_k,f16 --rounds 5 --json, ... What it prints goes to standard output.
#
# SIZE=tiny makes a model of two small layers instead, to see whether everything works. The models
# are made the first time, in target/network: 6 GB, of which `rm -r target/network` gets rid.
#
# Not part of .ci/run. Needs what benches/peers needs (cmake, a C++ compiler, libclang), python3
# with venv, and PyPI. On two cores the first time takes half an hour, then a quarter of an hour for
# each format.
set -euo pipefail

here=$(dirname "$0")
source "$here/venv.sh"
size=${SIZE:-1.1b}
folder=$target/network/$size
formats=q4_0,q4_k
for ((i = 1; i < $#; i++)); do
  if [ "${!i}" = --format ]; then
    next=$((i + 1))
    formats=${!next}
  fi
done

if ! [ -e "$folder/made" ]; then
  echo "making the model in $folder" >&2
  rm -rf "$folder"
  "$venv/bin/python" "$here/random_llama.py" "$folder" --size "$size"
  touch "$folder/made"
fi
cargo build --release --locked --quiet -p quantize-cli
for format in ${formats//,/ }; do
  if ! [ -d "$folder/$format" ]; then
    "$target/release/quantize" convert "$folder/f16" "$folder/$format" --to "$format" --quiet >&2
  fi
done
folder=$(realpath "$folder")
cd "$here/../benches/peers" # for its .cargo/config.toml
cargo run --release --locked --quiet --bin network -- "$folder" "$@"
