#!/usr/bin/env bash
# ci/aarch64.sh: tests the crate `kernels` on AArch64 under qemu, on a processor without dot product and on one with it.
#
# Needs a C cross linker and qemu, which it installs from Debian (as root), and Rust's standard library for AArch64: from
# rustup, or where that cannot be had Debian's compiler with its own. 2 minutes the first time, then 2 seconds.
# With ALLOW_SKIP=1 it is no failure if they cannot be installed.
set -euo pipefail

target=aarch64-unknown-linux-gnu
skip() {
  echo "ci/aarch64.sh: NOT RUN: $1" >&2
  [ "${ALLOW_SKIP:-}" = 1 ] && exit 0
  exit 1
}
install() {
  apt-get update -q >/dev/null && apt-get install -qy --no-install-recommends "$@" >/dev/null
}

if ! type aarch64-linux-gnu-gcc qemu-aarch64-static >/dev/null 2>&1; then
  install gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user-static || skip "cannot install gcc-aarch64-linux-gnu and qemu-user-static"
fi
if ! timeout 120 rustup target add "$target"; then
  echo "ci/aarch64.sh: no $target from rustup, using Debian's compiler" >&2
  if ! [ -x /usr/bin/rustc ] || ! ls /usr/lib/rust-*/lib/rustlib/"$target" >/dev/null 2>&1; then
    dpkg --add-architecture arm64
    install rustc-web libstd-rust-web-dev:arm64 || skip "cannot install rustc-web and libstd-rust-web-dev:arm64"
  fi
  export RUSTC=/usr/bin/rustc
fi

export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-target}/aarch64${RUSTC:+-debian}
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc
export KERNELS_TEST_SMALL=1

# test_on PROCESSOR INSTRUCTION-SETS
test_on() {
  echo "== $1: $2"
  # The library path goes into the emulated environment: -L alone lets two C libraries mix where libc6:arm64 is installed.
  CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER="qemu-aarch64-static -cpu $1 -L /usr/aarch64-linux-gnu -E LD_LIBRARY_PATH=/usr/aarch64-linux-gnu/lib" \
    EXPECT_ISA=$2 cargo test --quiet --package kernels --lib --tests --target "$target"
}
test_on cortex-a53 neon
test_on cortex-a76 neon,neon-dotprod
