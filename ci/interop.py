"""ci/interop.py QUANTIZE DECODE CHECKPOINT: reads what `quantize` writes, with code that is not ours.

An independent reader, written from docs/file-format.md and docs/quantization.md. The file is opened by PyPI's `safetensors`, its checksums
are computed by `xxhash`, and the panels, taken apart into rows of blocks here, are set beside what `gguf` makes of the source:

* rounding to nearest gives the bytes of `gguf.quants.quantize`, except for codes at which that rounds twice (see `fused_code`);
* `gguf.quants.dequantize` gives bit for bit what our own decoder, qruntime/examples/decode.rs, gives;
* searched scales are on no block worse than rounding to nearest.

Called by ci/interop.sh, which installs what it needs.
"""

import json
import math
import subprocess
import sys
import tempfile
from fractions import Fraction
from pathlib import Path

import numpy as np
import xxhash
from gguf import GGMLQuantizationType, quants
from safetensors import safe_open

ROWS, BLOCK = 16, 32
# The format of GGUF, and the widths of the fields of a block: the scale, then four bytes of codes at a time.
FORMATS = {"q8_0": (GGMLQuantizationType.Q8_0, [2] + [4] * 8), "q4_0": (GGMLQuantizationType.Q4_0, [2] + [4] * 4)}
# In bytes; of what a checkpoint may hold and numpy has no name for, BF16 is all we need.
WIDTHS = {"F64": 8, "I64": 8, "U64": 8, "F32": 4, "I32": 4, "U32": 4, "F16": 2, "BF16": 2, "I16": 2, "U16": 2}


def read_file(path):
    """The metadata of a safetensors file, and of every tensor its type, shape, bytes and place in the file."""
    file = np.memmap(path, np.uint8, "r")
    header_end = 8 + int(file[:8].view("<u8")[0])
    header = json.loads(bytes(file[8:header_end]))
    metadata = header.pop("__metadata__", {})
    tensors = {}
    for name, entry in header.items():
        begin, end = (header_end + offset for offset in entry["data_offsets"])
        tensors[name] = entry["dtype"], entry["shape"], file[begin:end], begin
    return metadata, tensors


def read_source(path):
    """The tensors of a checkpoint, whatever its files."""
    index = path / "model.safetensors.index.json"
    if index.exists():
        files = {path / file for file in json.loads(index.read_text())["weight_map"].values()}
    else:
        files = path.glob("*.safetensors") if path.is_dir() else [path]
    return {name: tensor for file in files for name, tensor in read_file(file)[1].items()}


def to_f32(dtype, data):
    if dtype == "BF16":
        return (data.view("<u2").astype(np.uint32) << 16).view(np.float32)
    return data.view({"F16": "<f2", "F32": "<f4"}[dtype]).astype(np.float32)


def to_blocks(data, format, shape):
    """The rows of blocks that panels hold: an array of rows (of all matrices) x bytes."""
    _, widths = FORMATS[format]
    *matrices, rows, cols = shape
    panels, blocks = math.prod(matrices) * -(-rows // ROWS), -(-cols // BLOCK)
    size = panels * blocks * ROWS * sum(widths)
    assert len(data) == -(-size // 64) * 64 and not data[size:].any(), "padding"
    fields, at = [], 0
    for width in widths:
        columns = data[:size].reshape(panels, blocks, ROWS * sum(widths))[:, :, at : at + ROWS * width]
        fields.append(columns.reshape(panels, blocks, ROWS, width))
        at += ROWS * width
    by_row = np.concatenate(fields, axis=3).transpose(0, 2, 1, 3).reshape(math.prod(matrices), -1, blocks * sum(widths))
    assert not by_row[:, rows:].any(), "rows that are not there"
    return np.ascontiguousarray(by_row[:, :rows].reshape(math.prod(matrices) * rows, -1))


def codes(blocks):
    """The codes of q4_0 blocks, in the order of the columns."""
    packed = blocks.reshape(-1, 18)[:, 2:]
    return np.concatenate([packed & 15, packed >> 4], axis=1)


def fused_code(x, inverse):
    """`min(15, trunc(fma(x, inverse, 8.5)))` in exact arithmetic, with the one rounding to binary32 that the documentation asks for.

    gguf-py rounds the product, then the sum: where the sum is within a rounding error of an integer its code may be another one.
    (ggml in C does the one or the other, as its compiler likes.)
    """
    exact = Fraction(float(x)) * Fraction(float(inverse)) + Fraction(17, 2)
    ulp = Fraction(2) ** (math.frexp(exact)[1] - 24)
    return min(15, math.trunc(round(exact / ulp) * ulp))


def check_nearest(weights, blocks, format):
    """Holds blocks to gguf's; returns how many codes differ for the reason above."""
    theirs = quants.quantize(weights, FORMATS[format][0])
    if np.array_equal(theirs, blocks):
        return 0
    assert format == "q4_0", "blocks differ from gguf's"
    assert np.array_equal(theirs.reshape(-1, 18)[:, :2], blocks.reshape(-1, 18)[:, :2]), "scales differ from gguf's"
    x = weights.reshape(-1, BLOCK)
    d = np.take_along_axis(x, abs(x).argmax(axis=1, keepdims=True), axis=1) / np.float32(-8)
    ours, theirs = codes(blocks).astype(int), codes(theirs).astype(int)
    differing = np.argwhere(ours != theirs)
    for block, column in differing:
        assert ours[block, column] == fused_code(x[block, column], 1 / d[block, 0]), "a code is not what is documented"
        assert abs(ours[block, column] - theirs[block, column]) == 1, "a code is not near gguf's"
    return len(differing)


def read_model(path):
    """Opens a converted model as anybody would and checks what the format promises. Returns its tensors and their descriptions."""
    metadata, tensors = read_file(path)
    description = json.loads(metadata["qruntime"])
    assert description["version"] == 1
    described = {tensor["name"]: tensor for tensor in description["tensors"]}
    assert described.keys() == tensors.keys()
    with safe_open(path, "np") as file:
        assert set(file.keys()) == tensors.keys()
        for name, (dtype, shape, data, at) in tensors.items():
            assert xxhash.xxh3_64_hexdigest(data) == described[name]["xxh3"], f"{name}: checksum"
            view = file.get_slice(name)
            assert view.get_shape() == shape and view.get_dtype() == dtype, name
            if dtype != "BF16":  # which numpy has not
                assert file.get_tensor(name).tobytes() == data.tobytes(), name
            if "packed" in described[name]:
                assert dtype == "U8" and len(shape) == 1 and at % 64 == 0, name
                assert described[name]["packed"]["layout"] == "panel16", name
            else:
                assert at % WIDTHS.get(dtype, 1) == 0, name
    return tensors, described


def check(quantize, decode, checkpoint, folder, format, rounding):
    """Converts and checks; returns the squared error of every block in the format, by tensor."""
    out, plain = folder / f"{format}-{rounding}", folder / f"{format}-{rounding}.safetensors"
    arguments = ["convert", checkpoint, out, "--to", format, "--rounding", rounding, "--quiet"]
    subprocess.run([quantize, *arguments], check=True, stdout=subprocess.DEVNULL)
    subprocess.run([decode, out, plain], check=True)
    source = read_source(checkpoint)
    tensors, described = read_model(out / "model.safetensors")
    _, decoded = read_file(plain)
    assert source.keys() == tensors.keys() == decoded.keys()

    errors, packed, differing, count = {}, 0, 0, 0
    for name, (dtype, shape, data, _) in tensors.items():
        if "packed" not in described[name]:
            assert (dtype, shape) == source[name][:2] == decoded[name][:2], name
            assert np.array_equal(data, source[name][2]) and np.array_equal(data, decoded[name][2]), name
            continue
        stored, shape = described[name]["packed"]["format"], described[name]["packed"]["shape"]
        assert shape == source[name][1] == decoded[name][1] and decoded[name][0] == "F32", name
        cols = shape[-1]
        blocks = to_blocks(data, stored, shape)
        read = quants.dequantize(blocks, FORMATS[stored][0])
        assert not read[:, cols:].any(), f"{name}: padding of a row is not zero"
        # As bits: a zero has a sign.
        ours = to_f32("F32", decoded[name][2]).reshape(-1, cols)
        assert np.array_equal(read[:, :cols].view("u4"), ours.view("u4")), f"{name}: decoded otherwise by gguf"

        weights = np.zeros((len(blocks), read.shape[1]), np.float32)
        weights[:, :cols] = to_f32(source[name][0], source[name][2]).reshape(-1, cols)
        if rounding == "nearest" or stored == "q8_0":  # which has no search
            differing += check_nearest(weights, blocks, stored)
        if stored == format:
            difference = weights.astype(np.float64) - read
            errors[name] = (difference.reshape(-1, BLOCK) ** 2).sum(axis=1)
        packed += 1
        count += weights.size
    ties = f", {differing} codes differ from gguf's by its second rounding" if rounding == "nearest" else ""
    print(f"{checkpoint.name} {format} {rounding}: {len(tensors)} tensors, {packed} packed, {count} codes{ties}")
    return errors


def main():
    quantize, decode, checkpoint = sys.argv[1:]
    with tempfile.TemporaryDirectory() as folder:
        run = lambda *way: check(quantize, decode, Path(checkpoint), Path(folder), *way)
        run("q8_0", "nearest")
        nearest, search = run("q4_0", "nearest"), run("q4_0", "search")
    # The encoder compares sums of 32 squares in binary32: each is off by at most 34 roundings.
    slack = 1 + 2 * 34 * 2.0**-24 * (1 + 1e-5)
    for name in nearest:
        assert (search[name] <= nearest[name] * slack).all(), f"{name}: search is worse than nearest"
    before, after = (np.concatenate(list(errors.values())) for errors in (nearest, search))
    better = np.count_nonzero(after < before)
    print(f"{Path(checkpoint).name} q4_0: search is better on {better} of {len(before)} blocks and worse on none; "
          f"squared error {after.sum() / before.sum():.4f} of nearest's")


main()
