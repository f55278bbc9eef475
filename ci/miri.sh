#!/usr/bin/env bash
# ci/miri.sh: interprets code with Miri, which finds undefined behaviour that tests do not show.
#
#   kernels     every entry point: the portable reference, and on x86-64 what Miri knows of AVX2
#   qruntime    the threads that help a caller (parallel/crew.rs), and the reader of files
#
# Needs a nightly compiler, which it installs by rustup. Not part of .ci/run.
set -euo pipefail
cd "$(dirname "$0")/.."

toolchain=${MIRI_TOOLCHAIN:-nightly-2026-05-20}
rustup toolchain list | grep -q "^$toolchain\b" ||
  rustup toolchain install "$toolchain" --profile minimal --component miri,rust-src
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-target}/miri
# rayon's queues break the rules of Stacked Borrows, and its threads outlive the tests.
export MIRIFLAGS="-Zmiri-disable-isolation -Zmiri-tree-borrows -Zmiri-ignore-leaks"

cargo "+$toolchain" miri test --quiet --locked -p kernels --test interpreted
cargo "+$toolchain" miri test --quiet --locked -p qruntime --no-default-features --lib crew
cargo "+$toolchain" miri test --quiet --locked -p qruntime --no-default-features --test hostile
