#!/usr/bin/env bash
# ci/large.sh FOLDER [GB]: converts a synthetic checkpoint of GB gigabytes (8) and fails where the
# converter used more memory than it promises: one largest tensor as f32, and 256 MB, whatever the
# size of the model.
#
# Prints peak resident memory, time, CPU time and speed for q4_0 (both roundings) and q8_0, and
# verifies the results. The checkpoint is like a Llama's: F16, shards and an index, hidden size
# 8192; its largest tensor is 32000 x 8192. FOLDER must not exist; it takes 2.1 times GB while this
# runs and is removed at the end. What the page cache holds is read from memory: for a figure that
# includes the disk take GB larger than the memory.
#
# Not part of .ci/run. Needs python3 and GNU time, which it installs if missing (as root, on
# Debian). 8 GB: 2 minutes on 2 cores.
set -euo pipefail

folder=${1:?folder to work in}
gigabytes=${2:-8}
if ! [ -x /usr/bin/time ]; then
  apt-get update -q >/dev/null
  apt-get install -qy --no-install-recommends time >/dev/null
fi
cargo build --release --locked --quiet -p quantize-cli
quantize=${CARGO_TARGET_DIR:-target}/release/quantize
mkdir "$folder"
trap 'rm -rf "$folder"' EXIT
mkdir "$folder/source"

python3 - "$folder/source" "$gigabytes" <<'PYTHON'
import json, random, struct, sys

folder, bytes_wanted = sys.argv[1], int(float(sys.argv[2]) * 1e9)
hidden, inner, vocabulary, kv = 8192, 28672, 32000, 1024
tensors = [("model.embed_tokens.weight", [vocabulary, hidden])]
layer = [(f"self_attn.{n}_proj.weight", [rows, hidden]) for n, rows in zip("qkvo", (hidden, kv, kv, hidden))]
layer += [(f"mlp.{n}_proj.weight", s) for n, s in (("gate", [inner, hidden]), ("up", [inner, hidden]), ("down", [hidden, inner]))]
layer += [(f"{n}_layernorm.weight", [hidden]) for n in ("input", "post_attention")]
size = lambda shape: 2 * shape[0] * (shape + [1])[1]
ends = 2 * size(tensors[0][1])
layers = max(1, round((bytes_wanted - ends) / sum(size(shape) for _, shape in layer)))
tensors += [(f"model.layers.{i}.{name}", shape) for i in range(layers) for name, shape in layer]
tensors += [("model.norm.weight", [hidden]), ("lm_head.weight", [vocabulary, hidden])]

shards, room = [[]], 2e9
for tensor in tensors:
    if shards[-1] and sum(size(shape) for _, shape in shards[-1] + [tensor]) > room:
        shards.append([])
    shards[-1].append(tensor)

# One block of numbers, over and over: its length is a prime, so no two rows are the same for a long
# while.
random.seed(1)
count = 1048583
numbers = memoryview(struct.pack(f"<{count}e", *(random.gauss(0, 0.02) for _ in range(count))))
weight_map, offset = {}, 0
for i, shard in enumerate(shards):
    name = f"model-{i + 1:05}-of-{len(shards):05}.safetensors"
    header, end = {}, 0
    for tensor, shape in shard:
        weight_map[tensor] = name
        header[tensor] = {"dtype": "F16", "shape": shape, "data_offsets": [end, end + size(shape)]}
        end += size(shape)
    header = json.dumps(header).encode()
    with open(f"{folder}/{name}", "wb") as out:
        out.write(struct.pack("<Q", len(header)) + header)
        while end:
            end -= out.write(numbers[offset : offset + end])
            offset = 0
        offset = 2 * 7919 * (i + 1)
json.dump({"weight_map": weight_map}, open(f"{folder}/model.safetensors.index.json", "w"))
PYTHON

bytes=$(du -bc "$folder"/source/*.safetensors | tail -1 | cut -f1)
largest=$((32000 * 8192 * 4))
limit=$((largest + 256000000))
echo "checkpoint: $bytes bytes in $(ls "$folder"/source/*.safetensors | wc -l) shards; limit of memory: $largest + 256000000 bytes"
printf '%-14s %10s %10s %9s %9s %14s\n' '' 'peak MB' 'limit MB' 'seconds' 'CPU s' 'GB/s of source'
for way in "q4_0 search" "q4_0 nearest" "q8_0 nearest"; do
  read -r format rounding <<<"$way"
  /usr/bin/time -o "$folder/time" -f '%M %e %U %S' \
    "$quantize" convert "$folder/source" "$folder/out" --to "$format" --rounding "$rounding" --quiet >/dev/null
  awk -v way="$way" -v bytes="$bytes" -v limit="$limit" '{
    printf "%-14s %10.0f %10.0f %9.1f %9.1f %14.2f\n", way, $1 * 1024 / 1e6, limit / 1e6, $2, $3 + $4, bytes / $2 / 1e9
    exit ($1 * 1024 > limit)
  }' "$folder/time" || { echo "ci/large.sh: more memory than promised" >&2; exit 1; }
  "$quantize" verify "$folder/out"
  rm -r "$folder/out"
done
