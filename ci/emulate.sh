#!/usr/bin/env bash
# ci/emulate.sh: tests the crate `kernels`, and the shipped model from end to end, on every
# instruction set that this processor may lack.
#
#   x86-64 under Bochs (ci/bochs.sh) AVX-VNNI, and AVX-512 VNNI; natively where the processor has
#   them, unless FORCE_EMULATION=1 AArch64 under qemu without dot product, with it, and with matrix
#   multiplication; and its machine code (ci/codegen.sh)
#
# Beside the compilers this takes 4 minutes of processor time, and 3 more once to build Bochs. Needs
# Debian packages, which it installs (as root): a C cross linker and qemu for AArch64, for Bochs see
# there; and Rust's standard library for AArch64 from rustup, or where that cannot be had Debian's
# compiler with its own. What cannot be installed or run is named at the end, and the script fails;
# with ALLOW_SKIP=1 it does not.
set -euo pipefail
cd "$(dirname "$0")/.."

export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-target}/emulate KERNELS_TEST_SMALL=1
skipped=()

# skip INSTRUCTION-SETS WHY
skip() {
  skipped+=("$1: $2")
  echo "== NOT RUN: $1: $2" >&2
}
install() {
  apt-get update -q >/dev/null && apt-get install -qy --no-install-recommends "$@" >/dev/null
}
# build_for TARGET: prints the paths of the test programs
build_for() {
  local options=(--quiet --locked --target "$1" --no-run --message-format=json-render-diagnostics)
  {
    cargo test "${options[@]}" --package kernels --lib --tests &&
      cargo test "${options[@]}" --package qruntime --no-default-features --test shipped
  } | sed -n 's/.*"executable":"\([^"]*\)".*/\1/p'
}
# has FLAG...: whether this processor has all of them
has() {
  local flag
  for flag; do grep -qw "$flag" /proc/cpuinfo || return 1; done
}

# x86 MODEL INSTRUCTION-SETS FLAG...
x86() {
  local model=$1
  export EXPECT_ISA=$2
  shift 2
  echo "== $EXPECT_ISA ($(date -u +%H:%M:%S))"
  if has "$@" && [ "${FORCE_EMULATION:-}" != 1 ]; then
    for program in $programs; do "$program" --quiet; done
  else
    # shellcheck disable=SC2086 # a list of paths without spaces
    PASS_ENV="EXPECT_ISA KERNELS_TEST_SMALL" CARGO_TARGET_DIR=${CARGO_TARGET_DIR%/emulate} ci/bochs.sh "$model" $programs || {
      [ $? = 77 ] || exit 1
      skip "$EXPECT_ISA" "no emulator"
    }
  fi
}
if [ "$(uname -m)" = x86_64 ]; then
  # The guest has no shared libraries. The target is named so that the flags are not for build
  # scripts and macros.
  programs=$(RUSTFLAGS="-C target-feature=+crt-static" build_for x86_64-unknown-linux-gnu)
  x86 arrow_lake avx-vnni,avx2 avx_vnni
  x86 tigerlake avx512-vnni,avx2 avx512bw avx512vl avx512_vnni
else
  skip avx2,avx-vnni,avx512-vnni "needs an x86-64 host"
fi

# arm PROCESSOR INSTRUCTION-SETS
arm() {
  export EXPECT_ISA=$2
  echo "== $EXPECT_ISA ($(date -u +%H:%M:%S))"
  # The library path goes into the emulated environment: -L alone lets two C libraries mix where
  # libc6:arm64 is installed.
  for program in $programs; do
    qemu-aarch64-static -cpu "$1" -L /usr/aarch64-linux-gnu -E LD_LIBRARY_PATH=/usr/aarch64-linux-gnu/lib "$program" --quiet
  done
}
# Finds what AArch64 needs, or says what is missing.
prepare_arm() {
  if ! type aarch64-linux-gnu-gcc qemu-aarch64-static >/dev/null 2>&1 &&
    ! install gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user-static; then
    echo "cannot install gcc-aarch64-linux-gnu and qemu-user-static"
    return 1
  fi
  if ! timeout 120 rustup target add aarch64-unknown-linux-gnu >/dev/null 2>&1; then
    echo "ci/emulate.sh: no aarch64-unknown-linux-gnu from rustup, using Debian's compiler" >&2
    if ! [ -x /usr/bin/rustc ] || ! ls /usr/lib/rust-*/lib/rustlib/aarch64-unknown-linux-gnu >/dev/null 2>&1; then
      dpkg --add-architecture arm64
      install rustc-web libstd-rust-web-dev:arm64 || { echo "cannot install rustc-web and libstd-rust-web-dev:arm64"; return 1; }
    fi
    debian_rust=1
  fi
}
if missing=$(mktemp) && prepare_arm >"$missing"; then
  [ -z "${debian_rust:-}" ] || export RUSTC=/usr/bin/rustc CARGO_TARGET_DIR=$CARGO_TARGET_DIR-debian
  export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc
  ci/codegen.sh aarch64-unknown-linux-gnu # here, because it needs the same compiler
  programs=$(build_for aarch64-unknown-linux-gnu)
  arm cortex-a53 neon
  arm cortex-a76 neon,neon-dotprod
  arm max neon,neon-dotprod,neon-i8mm
else
  skip neon,neon-dotprod,neon-i8mm "$(cat "$missing")"
fi
rm -f "$missing"

echo "== done ($(date -u +%H:%M:%S))"
if [ ${#skipped[@]} != 0 ]; then
  printf 'NOT RUN: %s\n' "${skipped[@]}" >&2
  [ "${ALLOW_SKIP:-}" = 1 ]
fi
