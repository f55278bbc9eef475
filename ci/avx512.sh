#!/usr/bin/env bash
# ci/avx512.sh: tests the crate `kernels` with AVX-512 VNNI: on this processor if it has that, else on an emulated one (ci/bochs.sh).
# FORCE_EMULATION=1 emulates in any case. 1 minute the first time; emulated, 1 minute more.
set -euo pipefail

export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-target}/avx512
export EXPECT_ISA=avx512-vnni,avx2
has() { grep -qw "$1" /proc/cpuinfo; }

if has avx512bw && has avx512vl && has avx512_vnni && [ "${FORCE_EMULATION:-}" != 1 ]; then
  exec cargo test --quiet --package kernels --lib --tests
fi

target=x86_64-unknown-linux-gnu # named, so that the flags are not for build scripts and macros
export RUSTFLAGS="-C target-feature=+crt-static" # the guest has no shared libraries
export KERNELS_TEST_SMALL=1 PASS_ENV="EXPECT_ISA KERNELS_TEST_SMALL"
programs=$(cargo test --quiet --package kernels --lib --tests --target "$target" --no-run --message-format=json |
  sed -n 's/.*"executable":"\([^"]*\)".*/\1/p')
mapfile -t programs <<<"$programs"
exec "$(dirname "$0")/bochs.sh" "${programs[@]}"
