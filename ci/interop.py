"""ci/interop.py QUANTIZE DECODE CHECKPOINT: reads what `quantize` writes, with code that is not ours.

An independent reader, written from docs/file-format.md and docs/quantization.md. The file is opened by PyPI's `safetensors`, its checksums
are computed by `xxhash`, and the panels, taken apart into rows of blocks here and put together again, are set beside what `gguf` makes of
the source. For every format and way of rounding,

* `gguf.quants.dequantize` gives bit for bit what our own decoder, qruntime/examples/decode.rs, gives;
* searched blocks are not worse than blocks rounded to nearest;
* rounding to nearest gives the bytes of `gguf.quants.quantize` where gguf has one for the format, except for codes at which that rounds
  twice (see `fused_code`).

And kernels/tests/foreign.txt holds, for each format that is only read, the hash of what `gguf.quants.dequantize` makes of random blocks
(`--write` as the only argument writes the file anew).

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
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, quants
from safetensors import safe_open

ROWS = 16
# The columns of a block, the widths of its fields, and whether gguf quantizes to the format.
FORMATS = {
    "q8_0": (32, [2] + [4] * 8, True),
    "q4_0": (32, [2] + [4] * 4, True),
    "q4_1": (32, [2, 2] + [4] * 4, True),
    "q5_0": (32, [2] + [4] * 5, True),
    "q5_1": (32, [2, 2] + [4] * 5, True),
    "q2_k": (256, [4] * 20 + [2, 2], False),
    "q3_k": (256, [4] * 27 + [2], False),
    "q4_k": (256, [2, 2] + [4] * 35, False),
    "q5_k": (256, [2, 2] + [4] * 43, False),
    "q6_k": (256, [4] * 52 + [2], False),
    "iq4_nl": (32, [2] + [4] * 4, False),
    "iq4_xs": (256, [2, 2] + [4] * 33, False),
    "mxfp4": (32, [1] + [4] * 4, True),
}
# The formats that are only read: their names, and in kernels/tests/foreign.rs the number of blocks.
FOREIGN = ["iq1_s", "iq1_m", "iq2_xxs", "iq2_xs", "iq2_s", "iq3_xxs", "iq3_s", "tq1_0", "tq2_0", "nvfp4"]
FOREIGN_BLOCKS = 128
FOREIGN_HASHES = Path(__file__).resolve().parent.parent / "kernels/tests/foreign.txt"
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


def kind(format):
    """What gguf calls a format."""
    return GGMLQuantizationType[format.upper()]


def to_blocks(data, format, shape):
    """The rows of blocks that panels hold: an array of rows (of all matrices) x bytes."""
    length, widths, _ = FORMATS[format]
    *matrices, rows, cols = shape
    panels, blocks = math.prod(matrices) * -(-rows // ROWS), -(-cols // length)
    size = panels * blocks * ROWS * sum(widths)
    assert len(data) == -(-size // 64) * 64 and not data[size:].any(), "padding"
    block_of_panel = data[:size].reshape(panels, blocks, ROWS * sum(widths))
    fields, at = [], 0
    for width in widths:
        fields.append(block_of_panel[:, :, at : at + ROWS * width].reshape(panels, blocks, ROWS, width))
        at += ROWS * width
    by_row = np.concatenate(fields, axis=3).transpose(0, 2, 1, 3).reshape(math.prod(matrices), -1, blocks * sum(widths))
    assert not by_row[:, rows:].any(), "rows that are not there"
    by_row = np.ascontiguousarray(by_row[:, :rows].reshape(math.prod(matrices) * rows, -1))
    assert np.array_equal(to_panels(by_row, format, shape), data), "panels are no permutation of blocks"
    return by_row


def to_panels(by_row, format, shape):
    """The other way round: what a GGUF tensor's rows become."""
    length, widths, _ = FORMATS[format]
    *matrices, rows, cols = shape
    panels, blocks = -(-rows // ROWS), -(-cols // length)
    padded = np.zeros((math.prod(matrices), panels * ROWS, blocks, sum(widths)), np.uint8)
    padded[:, :rows] = by_row.reshape(math.prod(matrices), rows, blocks, sum(widths))
    padded = padded.reshape(-1, ROWS, blocks, sum(widths)).transpose(0, 2, 1, 3)
    ends = np.cumsum(widths)
    fields = [padded[..., end - width : end].reshape(*padded.shape[:2], -1) for end, width in zip(ends, widths)]
    data = np.concatenate(fields, axis=2).reshape(-1)
    return np.pad(data, (0, -len(data) % 64))


def codes(blocks):
    """The codes of q4_0 or q5_0 blocks, in the order of the columns."""
    packed = blocks[:, -16:]
    fifths = np.unpackbits(blocks[:, 2:-16], axis=1, bitorder="little") if blocks.shape[1] == 22 else 0
    return np.concatenate([packed & 15, packed >> 4], axis=1) | fifths << 4


def fused_code(x, inverse, zero):
    """`min(2 zero - 1, trunc(fma(x, inverse, zero + 0.5)))` in exact arithmetic, with the one rounding to binary32 that the documentation asks for.

    gguf-py rounds the product, then the sum: where the sum is within a rounding error of an integer its code may be another one.
    (ggml in C does the one or the other, as its compiler likes.)
    """
    exact = Fraction(float(x)) * Fraction(float(inverse)) + Fraction(2 * zero + 1, 2)
    ulp = Fraction(2) ** (math.frexp(exact)[1] - 24)
    return min(2 * zero - 1, math.trunc(round(exact / ulp) * ulp))


def check_nearest(weights, blocks, format):
    """Holds blocks to gguf's; returns how many codes differ for the reason above."""
    # In pieces: gguf holds 16 numbers for each weight of mxfp4.
    theirs = np.concatenate([quants.quantize(rows, kind(format)) for rows in np.array_split(weights, -(-weights.size // 2**18))])
    if np.array_equal(theirs, blocks):
        return 0
    zero = {"q4_0": 8, "q5_0": 16}.get(format)
    assert zero, f"{format}: blocks differ from gguf's"
    theirs, blocks = (rows.reshape(-1, sum(FORMATS[format][1])) for rows in [theirs, blocks])
    assert np.array_equal(theirs[:, :2], blocks[:, :2]), "scales differ from gguf's"
    x = weights.reshape(-1, 32)
    d = np.take_along_axis(x, abs(x).argmax(axis=1, keepdims=True), axis=1) / np.float32(-zero)
    ours, theirs = codes(blocks).astype(int), codes(theirs).astype(int)
    differing = np.argwhere(ours != theirs)
    for block, column in differing:
        assert ours[block, column] == fused_code(x[block, column], 1 / d[block, 0], zero), "a code is not what is documented"
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
    """Converts and checks; returns for every block the norm of its error, and how far it may be from what the encoder took it for."""
    out, plain = folder / f"{format}-{rounding}", folder / f"{format}-{rounding}.safetensors"
    arguments = [quantize, "convert", checkpoint, out, "--to", format, "--rounding", rounding]
    plan = json.loads(subprocess.run([*arguments, "--dry-run", "--json"], check=True, stdout=subprocess.PIPE).stdout)
    # Every matrix, those too that would become something else.
    packed = {tensor["name"] for tensor in plan["tensors"] if tensor["action"] != "keep"}
    rules = [f"--rule={name}={format}" for name in sorted(packed)]
    subprocess.run([*arguments, *rules, "--quiet"], check=True, stdout=subprocess.DEVNULL)
    subprocess.run([decode, out, plain], check=True)
    source = read_source(checkpoint)
    tensors, described = read_model(out / "model.safetensors")
    _, decoded = read_file(plain)
    assert source.keys() == tensors.keys() == decoded.keys()
    assert packed == {name for name in tensors if "packed" in described[name]}

    length, _, gguf_quantizes = FORMATS[format]
    norms, slacks, differing, count = [], [], 0, 0
    for name, (dtype, shape, data, _) in tensors.items():
        if name not in packed:
            assert (dtype, shape) == source[name][:2] == decoded[name][:2], name
            assert np.array_equal(data, source[name][2]) and np.array_equal(data, decoded[name][2]), name
            continue
        shape = described[name]["packed"]["shape"]
        assert described[name]["packed"]["format"] == format, name
        assert shape == source[name][1] == decoded[name][1] and decoded[name][0] == "F32", name
        cols = shape[-1]
        blocks = to_blocks(data, format, shape)
        read = quants.dequantize(blocks, kind(format))
        # As bits: a zero has a sign.
        ours = to_f32("F32", decoded[name][2]).reshape(-1, cols)
        assert np.array_equal(read[:, :cols].view("u4"), ours.view("u4")), f"{name}: decoded otherwise by gguf"

        weights = np.zeros((len(blocks), read.shape[1]), np.float32)
        weights[:, :cols] = to_f32(source[name][0], source[name][2]).reshape(-1, cols)
        if gguf_quantizes and (rounding == "nearest" or format == "q8_0"):  # which has no search
            differing += check_nearest(weights, blocks, format)
        x = weights.reshape(-1, length).astype(np.float64)
        norms.append(np.linalg.norm(x - read.reshape(-1, length), axis=1))
        # Each difference is some roundings of numbers below 4 max |x| off; the sum of their squares
        # is a factor, below.
        slacks.append(8 * 2.0**-24 * 4 * abs(x).max(axis=1) * length**0.5)
        count += weights.size
    ties = f", {differing} codes differ from gguf's by its second rounding" if differing else ""
    print(f"{checkpoint.name} {format} {rounding}: {len(tensors)} tensors, {len(packed)} packed, {count} codes{ties}")
    return np.concatenate(norms), np.concatenate(slacks)


def random_bytes(seed, count):
    """What kernels/tests/support/random.rs gives for a seed."""
    with np.errstate(over="ignore"):
        z = np.uint64(seed) + np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E37_79B9_7F4A_7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58_476D_1CE4_E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D0_49BB_1331_11EB)
    return (z ^ (z >> np.uint64(31))).astype(np.uint8)


def foreign_hashes():
    """A line for each format that is only read: its name, and FNV-1a over the bits of what random blocks decode to, 32 at a time."""
    for format in FOREIGN:
        blocks = random_bytes(kind(format), FOREIGN_BLOCKS * GGML_QUANT_SIZES[kind(format)][1])
        with np.errstate(invalid="ignore"):
            weights = quants.dequantize(blocks.reshape(FOREIGN_BLOCKS, -1), kind(format)).astype(np.float32)
        weights[np.isnan(weights)] = np.uint32(0x7FC0_0000).view(np.float32)
        hash = 0xCBF2_9CE4_8422_2325
        for bits in weights.reshape(-1).view("<u4").tolist():
            hash = (hash ^ bits) * 0x100_0000_01B3 % 2**64
        yield f"{format} {hash:016x}\n"


def main():
    hashes = "# Written by ci/interop.py --write: see kernels/tests/foreign.rs.\n" + "".join(foreign_hashes())
    if sys.argv[1:] == ["--write"]:
        FOREIGN_HASHES.write_text(hashes)
        return
    assert FOREIGN_HASHES.read_text() == hashes, f"{FOREIGN_HASHES} is not what gguf decodes"
    print(f"{len(FOREIGN)} formats that are only read: {FOREIGN_HASHES.name} is what gguf decodes")
    quantize, decode, checkpoint = sys.argv[1:]
    with tempfile.TemporaryDirectory() as folder:
        for format, (length, *_) in FORMATS.items():
            before, after = (check(quantize, decode, Path(checkpoint), Path(folder), format, way) for way in ["nearest", "search"])
            (before, slack), (after, _) = before, after
            # A sum of that many squares in binary32.
            factor = 1 + (length + 2) * 2.0**-24
            assert (after <= before * factor + 2 * slack).all(), f"{format}: search is worse than nearest"
            if np.array_equal(before, after):  # There is no search.
                continue
            better = np.count_nonzero(after < before)
            print(f"{Path(checkpoint).name} {format}: search is better on {better} of {len(before)} blocks and worse on none; "
                  f"squared error {(after @ after) / (before @ before):.4f} of nearest's")


if __name__ == "__main__":
    main()
