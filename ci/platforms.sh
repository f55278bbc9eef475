#!/usr/bin/env bash
# The platforms that are meant, but those on which tests run: everything compiles for them. A
# target's standard library is downloaded once (`rustup target add`); without a network it must be
# there already.
set -euo pipefail
cd "$(dirname "$0")/.."

# Crates for each target. The command line needs a terminal, files and signals.
check() {
  local target=$1
  shift
  rustup target list --installed | grep -qx "$target" || rustup target add "$target" >/dev/null 2>&1 || {
    echo "$0: no standard library for $target, and none could be downloaded: run 'rustup target add $target'" >&2
    exit 1
  }
  echo "$target: $*"
  cargo check --locked --quiet --target "$target" "$@"
}

check x86_64-pc-windows-msvc -p quantize-cli
check aarch64-apple-darwin -p quantize-cli
check aarch64-linux-android -p qruntime
check wasm32-unknown-unknown -p qruntime
check wasm32-unknown-unknown -p qruntime --no-default-features
