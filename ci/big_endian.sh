#!/usr/bin/env bash
# ci/big_endian.sh: the formats and their readers on a big-endian processor (64-bit PowerPC under
# qemu).
#
# Files are little-endian everywhere. A cast of bytes to numbers that forgets this gives other
# results here, or other logits of the shipped model, whose hashes the tests know. (qemu 7.2, which
# Debian 12 has, multiplies wrongly on s390x: `f64::from(a) * f64::from(b)`, its MDEBR.)
#
# Needs a C cross compiler, its C library and qemu from Debian, which it installs (as root), and
# Rust's standard library for PowerPC from rustup. Beside compiling, two minutes.
#
# AltiVec is off: under Linux its vectors of floats flush subnormal numbers to zero, which no other
# processor here does, and the compiler would use them by itself.
set -euo pipefail
cd "$(dirname "$0")/.."

export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-target}/emulate KERNELS_TEST_SMALL=1
if ! type powerpc64-linux-gnu-gcc qemu-ppc64-static >/dev/null 2>&1; then
  apt-get update -q >/dev/null
  apt-get install -qy --no-install-recommends gcc-powerpc64-linux-gnu libc6-dev-ppc64-cross qemu-user-static >/dev/null
fi
target=powerpc64-unknown-linux-gnu
rustup target add "$target" >/dev/null 2>&1
export CARGO_TARGET_POWERPC64_UNKNOWN_LINUX_GNU_LINKER=powerpc64-linux-gnu-gcc
export CARGO_TARGET_POWERPC64_UNKNOWN_LINUX_GNU_RUSTFLAGS="-C target-feature=-altivec,-vsx"
# The library path goes into the emulated environment (see ci/emulate.sh).
export CARGO_TARGET_POWERPC64_UNKNOWN_LINUX_GNU_RUNNER="qemu-ppc64-static -L /usr/powerpc64-linux-gnu -E LD_LIBRARY_PATH=/usr/powerpc64-linux-gnu/lib"
cargo test --quiet --locked --target "$target" --package kernels --lib --tests
cargo test --quiet --locked --target "$target" --package qruntime --no-default-features \
  --test file_format --test hostile --test round_trip --test fuzz_corpus --test shipped
