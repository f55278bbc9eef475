#!/usr/bin/env bash
# ci/codegen.sh [TARGET]: reads the machine code of the crate `kernels` and fails where a kernel lost its instruction set.
#
# A generic function that is not inlined into its kernel's gateway is compiled without the instruction set and runs ten times
# slower, with every test green. So every gateway must call nothing but panics and memory copies, and every product must hold
# the multiplications of at least four rows of activations. The table's last column is the length of the inner loops in
# instructions per row of activations and block of 16 x 32 weights, for the numbers of rows that are multiplied at a time.
#
# TARGET is x86_64-unknown-linux-gnu (default) or aarch64-unknown-linux-gnu, whose standard library must be installed.
# Needs objdump, which it installs if missing (as root). 20 s.
set -euo pipefail

target=${1:-x86_64-unknown-linux-gnu}
case $target in
  x86_64-*) objdump=objdump isas=2 ;;
  aarch64-*) objdump=aarch64-linux-gnu-objdump isas=1 ;; # NEON without extensions is every function's instruction set
  *) echo "ci/codegen.sh: no instructions to look for on $target" >&2; exit 2 ;;
esac
if ! command -v "$objdump" >/dev/null; then
  apt-get update -q >/dev/null
  apt-get install -qy --no-install-recommends binutils binutils-aarch64-linux-gnu >/dev/null
fi

# Today's compiler may inline a function that the next one leaves alone: what takes an instruction set says `#[inline(always)]`.
missing=$(find kernels/src -name '*.rs' -exec awk '
  /fn .*(S: Simd|: S[,)])/ { at = FILENAME ":" FNR ": no #[inline(always)]: " $0; bare = previous !~ /#\[inline\(always\)\]/ }
  at && /[{;]$/ { if (bare && /{$/) print at; at = "" }  # the end of a signature; one that ends in ; has no body
  { previous = $0 }' {} +)
if [ -n "$missing" ]; then
  echo "$missing"
  exit 1
fi

# The library before linking: there every call still has a name. v0 names say which kernel a gateway is for.
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-target}/codegen RUSTFLAGS="-C symbol-mangling-version=v0"
cargo build --quiet --release -p kernels --lib --target "$target"
formats=$(grep -c ', ggml [0-9]*, in ' kernels/src/format/mod.rs)

"$objdump" -dr --demangle --no-show-raw-insn "$CARGO_TARGET_DIR/$target/release/libkernels.rlib" | awk -v formats="$formats" -v isas="$isas" '
  BEGIN {
    # For each instruction set: its multiplication, how many of them and how many fused multiply-adds a row of activations takes.
    dot["Avx2"] = "vpmaddubsw";     dots["Avx2"] = 16;      fmas["Avx2"] = 2
    dot["Avx512Vnni"] = "vpdpbusd"; dots["Avx512Vnni"] = 8; fmas["Avx512Vnni"] = 1
    dot["NeonDot"] = "sdot";        dots["NeonDot"] = 32;   fmas["NeonDot"] = 4
    # Constants, panics, memory.
    allowed = "^(\\.L|\\.rodata|\\.data\\.rel\\.ro|core::panicking::|core::slice::index::|core::option::expect_failed|mem(cpy|move|set)$)"
    printf "%-11s %-28s %12s %5s %5s  %s\n", "", "kernel", "instructions", "dot", "fma", "inner loops"
  }
  function fail(why) {
    failed = 1
    if (!said[isa, kernel, why]++) print "FAILED: " isa " " kernel ": " why
  }

  # The end of a gateway: judge what was counted.
  function judge(   loops, i, j, nested, rows) {
    if (!isa) return
    for (i in tail) for (j in tail)  # keeps the loops with products that hold no other such loop
      if (i != j && d[tail[i]] > d[i] && d[tail[j]] > d[j] && i + 0 <= j + 0 && tail[j] <= tail[i]) nested[i]
    for (i = 1; i <= n; i++)
      if ((i in tail) && !(i in nested) && d[tail[i]] > d[i] && (rows = (f[tail[i]] - f[i]) / fmas[isa]) >= 1)
        loops = loops sprintf("%s%.0f (%d)", loops ? ", " : "", (tail[i] - i + 1) / rows, rows)
    printf "%-11s %-28s %12d %5d %5d  %s\n", isa, kernel, n, d[n], f[n], loops
    if (kernel ~ /^MultiplyAs/) {
      products[isa]++
      if (d[n] < 4 * dots[isa] || f[n] < 4 * fmas[isa]) fail("too few multiplications")
    }
    if (kernel ~ /^MultiplyExactAs/ && f[n] < 4 * fmas[isa]) fail("too few multiplications")
    isa = ""
  }

  /^[0-9a-f]+ <.*>:$/ {  # a function begins
    judge()
    if (!/::run::gateway::</) next
    symbol = $0; sub(/^[0-9a-f]+ /, "", symbol); sub(/>:$/, "", symbol)
    isa = $0; sub(/>::run::gateway.*/, "", isa); sub(/.*::/, "", isa)
    kernel = $0; sub(/.*gateway::</, "", kernel); sub(/>>:$/, "", kernel); gsub(/[a-z_0-9]+::/, "", kernel)
    n = 0; split("", at); split("", tail); split("", d); split("", f)
  }
  isa && /^ +[0-9a-f]+:\t[a-z]/ {  # an instruction
    at[$1] = ++n
    d[n] = d[n - 1] + ($2 == dot[isa])
    f[n] = f[n - 1] + ($2 ~ /^(vfmadd|fmla)/)
    if ($2 ~ /^(j|b|cb|tb)/ && (i = index($0, " " symbol "+"))) {  # a jump within the function
      to = substr($0, 1, i - 1); sub(/.*[ \t]/, "", to)
      if ((to ":") in at) tail[at[to ":"]] = n
    }
  }
  isa && /[ \t]R_[A-Z0-9_]+\t/ {  # a reference to another symbol
    used = $0; sub(/.*R_[A-Z0-9_]+\t/, "", used); sub(/[-+]0x[0-9a-f]+$/, "", used)
    if (used !~ allowed) fail("uses " used)
  }

  END {
    judge()
    for (isa in products) {
      isas--
      kernel = "products"
      if (products[isa] != formats) fail(products[isa] " gateways for " formats " formats")
    }
    if (isas != 0) { print "FAILED: the products of some instruction set were not found"; failed = 1 }
    exit failed
  }
'
