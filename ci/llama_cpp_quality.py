"""ci/llama_cpp_quality.py LLAMA_QUANTIZE QUANTIZE DECODE CHECKPOINT...: llama.cpp's encoders and ours on the same matrices.

For every format that both know: `llama-quantize --pure`, without an importance matrix, writes a GGUF file, which PyPI's `gguf` decodes;
`quantize convert` writes a model, which qruntime/examples/decode.rs decodes (ci/interop.py holds that decoder to `gguf`'s). Errors are
relative RMS over the matrices that both stored in that format: llama.cpp puts matrices whose width is no multiple of the block into others.

Two more matrices are noise: with a normal distribution, and with Student's t of 6 degrees of freedom, as heavy in the tails as weights are. On
those, which are larger, both are timed: processor time on one thread, files and all.

Called by ci/llama_cpp_quality.sh, which builds and installs what it needs.
"""

import json
import math
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFReader, GGUFWriter, quants
from safetensors.numpy import save_file

from interop import read_file, read_source, to_f32

# What llama-quantize calls a file in which every matrix has the format.
FILES = {"mxfp4": "MXFP4_MOE"}
NOISE = 2, 4096, 4096  # matrices, rows, columns


def run(*command):
    """Runs a program; returns the seconds of processor time that it took."""
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(list(map(str, command)), stdout=log, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode != 0:
            log.seek(0)
            sys.exit(f"{command}: exit status {process.returncode}\n{log.read()}")
    return usage.ru_utime + usage.ru_stime


def choices(quantize, option):
    """What our program takes for an option: it says so when it is given something else."""
    refusal = subprocess.run([quantize, "convert", option, "?"], capture_output=True, text=True).stderr
    return re.search(r"possible values: ([^\]]*)", refusal)[1].split(", ")


def write_noise(path, draw):
    """A checkpoint of noise."""
    count, *shape = NOISE
    names = [f"model.layers.{i}.mlp.up_proj.weight" for i in range(count)]
    save_file({name: (0.02 * draw(shape)).astype(np.float16) for name in names}, path)


def write_gguf(path, tensors):
    """Matrices as F16, under their own names: in a pure file neither names nor the network decide anything."""
    writer = GGUFWriter(path, "llama")
    writer.add_context_length(512)
    writer.add_embedding_length(256)
    writer.add_feed_forward_length(256)
    writer.add_block_count(1)
    writer.add_head_count(1)
    writer.add_layer_norm_rms_eps(1e-5)
    for name, weights in tensors.items():
        half = weights.astype(np.float16)
        assert np.array_equal(half, weights), f"{name}: not an F16 matrix"
        writer.add_tensor(name, half)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def pack_all(quantize, checkpoint, format):
    """The matrices that we would pack, and the rules that put every one of them into one format."""
    command = [quantize, "convert", checkpoint, "unused", "--to", format, "--dry-run", "--json"]
    plan = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    packed = {tensor["name"]: tensor["action"] for tensor in plan["tensors"] if tensor["action"] != "keep"}
    return list(packed), [f"--rule={name}={format}" for name, other in packed.items() if other != format]


def theirs(llama_quantize, gguf, format, type):
    """The matrices that llama.cpp stored in the format, decoded, and the time it took."""
    options = ["--pure", "--token-embedding-type", format, "--output-tensor-type", format]
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out.gguf"
        time = run(llama_quantize, *options, gguf, out, FILES.get(format, format.upper()), 1)
        stored = [tensor for tensor in GGUFReader(out).tensors if tensor.tensor_type == type]
        return {tensor.name: quants.dequantize(tensor.data, type) for tensor in stored}, time


def ours(quantize, decode, checkpoint, format, rounding):
    """The same of ours."""
    _, rules = pack_all(quantize, checkpoint, format)
    options = ["--to", format, "--rounding", rounding, *rules, "--threads", 1, "--quiet"]
    with tempfile.TemporaryDirectory() as folder:
        out, plain = Path(folder) / "out", Path(folder) / "plain.safetensors"
        time = run(quantize, "convert", checkpoint, out, *options)
        run(decode, out, plain)
        described = json.loads(read_file(out / "model.safetensors")[0]["qruntime"])["tensors"]
        stored = {tensor["name"] for tensor in described if tensor.get("packed", {}).get("format") == format}
        decoded = {name: tensor for name, tensor in read_file(plain)[1].items() if name in stored}
        return {name: to_f32(dtype, data).reshape(shape) for name, (dtype, shape, data, _) in decoded.items()}, time


def error(sources, decoded, names):
    """Relative RMS over the matrices that are named."""
    square = lambda array: np.square(array, dtype=np.float64).sum()
    return math.sqrt(sum(square(sources[n] - decoded[n]) for n in names) / sum(square(sources[n]) for n in names))


def compare(programs, checkpoint, timed):
    """Prints the table of a checkpoint."""
    llama_quantize, quantize, decode = programs
    names, _ = pack_all(quantize, checkpoint, "q8_0")
    tensors = read_source(checkpoint)
    sources = {name: to_f32(tensors[name][0], tensors[name][2]).reshape(tensors[name][1]) for name in names}
    count = sum(map(np.size, sources.values()))
    print(f"\n{checkpoint.stem}: {len(sources)} matrices, {count} weights\n")
    heading = "format", "bits/weight", "weights", "error, llama.cpp", "our rounding", "error", "ratio"
    heading += ("M weights/s, llama.cpp", "ours", "ratio") * timed
    print("|", " | ".join(heading), "|")
    print("|---" * len(heading) + "|")
    types = {type.name.lower(): type for type in GGMLQuantizationType}
    with tempfile.TemporaryDirectory() as folder:
        gguf = Path(folder) / "source.gguf"
        write_gguf(gguf, sources)
        for format in choices(quantize, "--to"):
            if format not in types:
                continue  # GGUF has it not.
            block, size = GGML_QUANT_SIZES[types[format]]
            their_weights, their_time = theirs(llama_quantize, gguf, format, types[format])
            for rounding in choices(quantize, "--rounding"):
                our_weights, our_time = ours(quantize, decode, checkpoint, format, rounding)
                both = their_weights.keys() & our_weights.keys()
                errors = [error(sources, weights, both) for weights in (their_weights, our_weights)]
                row = [f"`{format}`", f"{8 * size / block:.4g}", sum(sources[name].size for name in both)]
                row += [f"{errors[0]:.4%}", rounding, f"{errors[1]:.4%}", f"{errors[1] / errors[0]:.4f}"]
                speeds = f"{count / their_time / 1e6:.1f}", f"{count / our_time / 1e6:.1f}", f"{their_time / our_time:.2f}"
                print("|", " | ".join(map(str, [*row, *speeds * timed])), "|", flush=True)


def main():
    programs, checkpoints = [[Path(argument) for argument in part] for part in (sys.argv[1:4], sys.argv[4:])]
    for checkpoint in checkpoints:
        compare(programs, checkpoint, False)
    random = np.random.default_rng(1)
    for name, draw in ("normal", random.standard_normal), ("Student t(6)", lambda shape: random.standard_t(6, shape)):
        with tempfile.TemporaryDirectory() as folder:
            noise = Path(folder) / f"noise, {name}.safetensors"
            write_noise(noise, draw)
            compare(programs, noise, True)


main()
