#!/usr/bin/env bash
# ci/codegen.sh [TARGET]: reads the machine code of the crate `kernels` and fails where a kernel
# lost its instruction set.
#
# A generic function that is not inlined into its kernel's gateway is compiled without the
# instruction set and runs ten times slower, with every test green. So every gateway must call
# nothing but panics and memory copies, and every product must have a loop for one row and one for a
# quad of rows of activations, each with all its multiplications.
#
# Prints for each format and instruction set the length of the two loops in instructions per row of
# activations and 256 weights (16 rows x 16 columns): "one-row loop, quad loop", the one with the
# unpacking of a tile, the other without.
#
# TARGET is x86_64-unknown-linux-gnu (default) or aarch64-unknown-linux-gnu, whose standard library
# must be installed. Needs objdump, which it installs if missing (as root). 20 s.
set -euo pipefail

target=${1:-x86_64-unknown-linux-gnu}
case $target in
  x86_64-*) objdump=objdump isas=3 networks=2 ;;
  aarch64-*) objdump=aarch64-linux-gnu-objdump isas=2 networks=0 ;; # NEON without extensions is every function's instruction set
  *) echo "ci/codegen.sh: no instructions to look for on $target" >&2; exit 2 ;;
esac
if ! command -v "$objdump" >/dev/null; then
  apt-get update -q >/dev/null
  apt-get install -qy --no-install-recommends binutils binutils-aarch64-linux-gnu >/dev/null
fi

# Today's compiler may inline a function that the next one leaves alone: what takes an instruction
# set says `#[inline(always)]`, or `#[inline(never)]` where only the portable set calls it.
missing=$(find kernels/src -name '*.rs' -exec awk '
  /fn .*(S: Simd|: S[,)])/ { at = FILENAME ":" FNR ": no #[inline(always)]: " $0; bare = previous !~ /#\[inline\((always|never)\)\]/ }
  at && /[{;]$/ { if (bare && /{$/) print at; at = "" }  # the end of a signature; one that ends in ; has no body
  { previous = $0 }' {} +)
if [ -n "$missing" ]; then
  echo "$missing"
  exit 1
fi

# The library before linking: there every call still has a name. v0 names say which kernel a gateway
# is for.
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-target}/codegen RUSTFLAGS="-C symbol-mangling-version=v0"
cargo build --quiet --release -p kernels --lib --target "$target"
formats=$(sed -n '/^formats! {$/,/^}$/p' kernels/src/format/mod.rs | grep -c ' = "')

"$objdump" -dr --demangle --no-show-raw-insn "$CARGO_TARGET_DIR/$target/release/libkernels.rlib" | awk -v formats="$formats" -v isas="$isas" -v expected="$networks" '
  BEGIN {
    # For each instruction set: how many multiplications and how many fused multiply-adds a tile and
    # a row of activations take.
    dots["Avx2"] = 16;      fmas["Avx2"] = 2
    dots["AvxVnni"] = 16;   fmas["AvxVnni"] = 2
    dots["Avx512Vnni"] = 8; fmas["Avx512Vnni"] = 1
    dots["NeonDot"] = 32;   fmas["NeonDot"] = 4
    dots["NeonI8mm"] = 32;  fmas["NeonI8mm"] = 4
    # Formats with an offset have two fused multiply-adds for each accumulator.
    affine = "<(Q4_1|Q5_1|Q2K|Q4K|Q5K)>"
    # Constants, panics, memory.
    allowed = "^(\\.L|\\.rodata|\\.data\\.rel\\.ro|core::panicking::|core::slice::index::|core::option::expect_failed|mem(cpy|move|set)$)"
  }
  function fail(why) {
    failed = 1
    if (!said[isa, kernel, why]++) print "FAILED: " isa " " kernel ": " why
  }
  # `smmla` does the work of two `sdot`.
  function multiplications(op) {
    if (isa == "Avx2") return op == "vpmaddubsw"
    if (isa ~ /Vnni$/) return op == "vpdpbusd"
    return op == "sdot" ? 1 : op == "smmla" ? 2 : 0
  }
  # Finds the loops: where a jump leads to an instruction and comes from it, all that is on the way
  # and is not reached otherwise.
  function find_loops(   i, head, from, k, body, node, returns) {
    split("", before); split("", heads); split("", in_loop); split("", length_of); split("", d_of); split("", f_of)
    for (i = 1; i <= n; i++) {
      if (i < n && !(i in ends)) before[i + 1] = before[i + 1] " " i
      if ((i in target) && (target[i] in at)) { before[at[target[i]]] = before[at[target[i]]] " " i; heads[at[target[i]]] }
    }
    for (head in heads) {
      k = split(before[head], from, " ")
      for (i = 1; i <= k; i++) {
        split("", body)
        waiting = " " from[i]; returns = 0
        while (sub(/^ /, "", waiting)) {
          node = waiting; sub(/ .*/, "", node); sub(/^[0-9]+/, "", waiting)
          if (node == head) returns = 1
          if (node == head || (node in body)) continue
          body[node]
          if (node == 1) break  # the beginning: reached otherwise
          waiting = before[node] waiting
        }
        if (!returns || (1 in body)) continue
        body[head]
        for (node in body) if (!((node, head) in in_loop)) {
          in_loop[node, head]
          length_of[head]++; d_of[head] += d[node]; f_of[head] += f[node]
        }
      }
      if (!d_of[head]) delete length_of[head]
    }
  }
  # The length, per tile and row, of the loop over tiles with `rows` rows, or 0 if there is none
  # that has all its multiplications. The one-row loop is alone. In a loop with that of a quad there
  # is another one, for the rows that are left over.
  function loop_with(rows,   loop, i, tiles, length_, best) {
    for (loop in length_of) {
      if (!innermost(loop) || (rows == 1) != alone(loop)) continue
      # So many rows and tiles as it has multiplications, or where these are in a loop of their own,
      # multiply-adds.
      tiles[1] = d_of[loop] / dots[isa] / rows; tiles[2] = f_of[loop] / accumulate() / rows
      for (i in tiles) {
        if (!(length_ = length_if(loop, tiles[i], rows))) continue
        if (!best || length_ < best) best = length_
      }
    }
    return best
  }
  function accumulate() { return fmas[isa] * (kernel ~ affine ? 2 : 1) }
  # Whether no other loop with multiply-adds is in it.
  function innermost(loop,   other) {
    for (other in length_of) if (within(other, loop) && f_of[other]) return 0
    return 1
  }
  # Whether no loop around it has other multiplications.
  function alone(loop,   other) {
    for (other in length_of) if (within(loop, other) && d_of[other] != d_of[loop]) return 0
    return 1
  }
  # Whether no other loop with multiplications is in it.
  function whole(loop,   other) {
    for (other in length_of) if (within(other, loop)) return 0
    return 1
  }
  function within(inner, outer) { return inner != outer && ((inner, outer) in in_loop) }
  # The length of a loop per tile and row, if it holds so many.
  function length_if(loop, tiles, rows,   other, outer, inside, times, length_) {
    if (tiles < 1 || tiles != int(tiles) || f_of[loop] < tiles * rows * accumulate()) return 0
    length_ = length_of[loop]
    if ((times = tiles * rows * dots[isa] / d_of[loop]) != 1) {
      # The compiler left loops over groups of columns in it, or one in a loop over the two halves
      # of a tile: the missing multiplications say how often these run.
      if (times != int(times)) return 0
      inside = 0
      for (other in length_of) if (within(other, loop) && whole(other)) {
        inside += d_of[other]
        for (outer in length_of) if (within(outer, loop) && within(other, outer)) break
        if (within(outer, loop) && within(other, outer)) {
          if (times % 2 || d_of[outer] != d_of[other]) return 0
          length_ += length_of[outer] + (times - 2) * length_of[other]
        } else length_ += (times - 1) * length_of[other]
      }
      if (inside != d_of[loop]) return 0
    }
    return length_ / tiles / rows
  }

  # The end of a gateway: judge what was counted.
  function judge(   one, quad) {
    if (!isa) return
    if (kernel ~ /^MultiplyAs/) {
      products[isa]++
      find_loops()
      one = loop_with(1); quad = loop_with(4)
      # A tile is 512 weights.
      format = kernel; sub(/.*</, "", format); sub(/>$/, "", format)
      lengths[format, isa] = sprintf("%.0f, %.0f", one / 2, quad / 2)
      if (!(format in known)) { known[format]; order[++format_count] = format }
      if (!one) fail("no loop with the multiplications of one row")
      if (!quad) fail("no loop with the multiplications of a quad")
    }
    if (kernel ~ /^MultiplyExactAs/ && total < 4 * fmas[isa]) fail("too few multiplications")
    # Tiles of at least 6 sums of 16 lanes, and of at least 8, several times.
    if (kernel ~ /^MultiplyPlainAs/ && total < 6 * fmas[isa]) fail("too few multiplications")
    if (kernel ~ /^Attend/ && total < 16 * fmas[isa]) fail("too few multiplications")
    if (kernel ~ /^MultiplyPlainAs/) plain[isa]++
    if (kernel ~ /^Attend/) attentions[isa]++
    isa = ""
  }

  /^[0-9a-f]+ <.*>:$/ {  # a function begins
    judge()
    if (!/::run::gateway::</) next
    symbol = $0; sub(/^[0-9a-f]+ /, "", symbol); sub(/>:$/, "", symbol)
    isa = $0; sub(/>::run::gateway.*/, "", isa); sub(/.*::/, "", isa)
    # NEON without extensions needs no gateway: what is not inlined into one has the instruction set
    # all the same.
    if (isa == "Neon") { isa = ""; next }
    kernel = $0; sub(/.*gateway::</, "", kernel); sub(/>>:$/, "", kernel); gsub(/[a-z_0-9]+::/, "", kernel)
    n = total = 0; split("", at); split("", target); split("", ends); split("", d); split("", f)
  }
  isa && /^ +[0-9a-f]+:\t[a-z{]/ {  # an instruction
    op = $2 == "{vex}" ? $3 : $2
    address = $1; sub(/:/, "", address)
    at[address] = ++n
    d[n] = multiplications(op)
    f[n] = op ~ /^(vfmadd|fmla)/
    total += f[n]
    if (op ~ /^(jmp|ret|ud2|b|br|brk)$/) ends[n]
    if (op ~ /^(j|b|cb|tb)/ && (i = index($0, " " symbol "+"))) {  # a jump within the function
      target[n] = substr($0, 1, i - 1); sub(/.*[ \t]/, "", target[n])
    }
  }
  isa && /[ \t]R_[A-Z0-9_]+\t/ {  # a reference to another symbol
    used = $0; sub(/.*R_[A-Z0-9_]+\t/, "", used); sub(/[-+]0x[0-9a-f]+$/, "", used)
    if (used !~ allowed) fail("uses " used)
    if (used ~ /^core::/) ends[n]  # a panic does not return
  }

  END {
    judge()
    printf "%-8s", ""
    for (isa in products) printf " %12s", isa
    print ""
    for (i = 1; i <= format_count; i++) {
      printf "%-8s", order[i]
      for (isa in products) printf " %12s", lengths[order[i], isa]
      print ""
    }
    for (isa in products) {
      isas--
      kernel = "products"
      if (products[isa] != formats) fail(products[isa] " gateways for " formats " formats")
    }
    # Of a processor with VNNI and without they are the same; NEON needs no gateway for them.
    for (isa in plain) {
      kernel = "networks"
      if (plain[isa] != 3) fail(plain[isa] " gateways for 3 types of plain weights")
      if (attentions[isa] != 2) fail(attentions[isa] " gateways for attention to 2 kinds of caches")
      networks++
    }
    if (networks != expected) { print "FAILED: plain products of some instruction set were not found"; failed = 1 }
    if (isas != 0) { print "FAILED: the products of some instruction set were not found"; failed = 1 }
    exit failed
  }
'
