"""ci/schemes.py QUANTIZE: has other programs quantize a matrix, converts what they store with every
tensor kept, and compares the result with what they decode themselves, rounded to BF16.

compressed-tensors (packed integers, plain integers, NVFP4, MXFP4), bitsandbytes (NF4, FP4, nested
scales), MLX (affine, mxfp4, nvfp4, mxfp8).
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file

NAME = "model.layers.0.mlp.up_proj"
ROWS, COLS = 64, 256

torch.manual_seed(1)
WEIGHT = torch.randn(ROWS, COLS) * 0.1


def compressed_tensors():
    import compressed_tensors.compressors as compressors
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme

    def case(name, compressor, arguments, tensors):
        scheme = QuantizationScheme(targets=["Linear"], weights=QuantizationArgs(**arguments), format=name)
        compressor = getattr(compressors, compressor)
        stored = compressor.compress({"weight": WEIGHT.clone(), **tensors}, scheme)
        decoded = compressor.decompress(stored, scheme)["weight"]
        weights = {key: arguments.get(key) for key in ("num_bits", "type", "symmetric", "strategy", "group_size")}
        config = {"quant_method": "compressed-tensors", "format": name, "config_groups": {"group_0": {"weights": weights}}}
        return {"quantization_config": config}, stored, decoded

    for bits in (4, 8):
        half = 2 ** (bits - 1)
        for group in (32, 128):
            groups = WEIGHT.view(ROWS, COLS // group, group)
            integers = {"num_bits": bits, "type": "int", "strategy": "group", "group_size": group}
            scale = groups.abs().amax(-1) / (half - 0.5)
            zero = torch.zeros_like(scale, dtype=torch.int8)
            tensors = {"weight_scale": scale, "weight_zero_point": zero}
            symmetric = {**integers, "symmetric": True}
            yield f"w{bits} g{group}", case("pack-quantized", "PackedQuantizationCompressor", symmetric, tensors)
            low, high = groups.amin(-1), groups.amax(-1)
            scale = (high - low) / (2 * half - 1)
            zero = (torch.round(-low / scale) - half).clamp(-half, half - 1).to(torch.int8)
            tensors = {"weight_scale": scale, "weight_zero_point": zero}
            shifted = {**integers, "symmetric": False}
            yield f"w{bits} g{group} zeros", case("pack-quantized", "PackedQuantizationCompressor", shifted, tensors)
    scale = WEIGHT.abs().amax(-1, keepdim=True) / 127.5
    channel = {"num_bits": 8, "type": "int", "strategy": "channel", "symmetric": True}
    yield "int8", case("int-quantized", "IntQuantizationCompressor", channel, {"weight_scale": scale})
    largest = WEIGHT.view(ROWS, COLS // 16, 16).abs().amax(-1)
    total = 448 * 6 / WEIGHT.abs().max()
    scale = (largest / 6 * total).to(torch.float8_e4m3fn).float()
    nvfp4 = {"num_bits": 4, "type": "float", "strategy": "tensor_group", "group_size": 16, "symmetric": True}
    tensors = {"weight_scale": scale, "weight_global_scale": total.reshape(1)}
    yield "nvfp4", case("nvfp4-pack-quantized", "NVFP4PackedCompressor", nvfp4, tensors)
    largest = WEIGHT.view(ROWS, COLS // 32, 32).abs().amax(-1)
    scale = torch.exp2(torch.floor(torch.log2(largest)) - 2)
    mxfp4 = {"num_bits": 4, "type": "float", "strategy": "group", "group_size": 32, "symmetric": True}
    yield "mxfp4", case("mxfp4-pack-quantized", "MXFP4PackedCompressor", mxfp4, {"weight_scale": scale})


def bitsandbytes():
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit

    for kind in ("nf4", "fp4"):
        for nested in (False, True):
            codes, state = quantize_4bit(WEIGHT, blocksize=64, quant_type=kind, compress_statistics=nested)
            stored = {"weight": codes, **{f"weight.{key}": value for key, value in state.as_dict(packed=True).items()}}
            config = {"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}}
            yield f"{kind}{' nested' * nested}", (config, stored, dequantize_4bit(codes, state))


def mlx():
    import mlx.core as mx

    def tensor(array):
        return torch.from_numpy(np.array(array))

    weight = mx.array(WEIGHT.numpy())
    settings = [("affine", bits, group) for bits in (2, 3, 4, 5, 6, 8) for group in (32, 64, 128)]
    for mode, bits, group in [*settings, ("mxfp4", 4, 32), ("nvfp4", 4, 16), ("mxfp8", 8, 32)]:
        parts = mx.quantize(weight, group_size=group, bits=bits, mode=mode)
        decoded = mx.dequantize(*parts, group_size=group, bits=bits, mode=mode)
        stored = {key: tensor(part) for key, part in zip(("weight", "scales", "biases"), parts)}
        config = {"quantization": {"group_size": group, "bits": bits, "mode": mode}}
        yield f"{mode} {bits} bits g{group}", (config, stored, tensor(decoded.astype(mx.float32)))


def main(quantize):
    failed = 0
    for method in (compressed_tensors, bitsandbytes, mlx):
        for name, (config, stored, decoded) in method():
            with tempfile.TemporaryDirectory() as folder:
                source, out = Path(folder, "source"), Path(folder, "out")
                source.mkdir()
                (source / "config.json").write_text(json.dumps({"model_type": "llama", **config}))
                tensors = {f"{NAME}.{key}": value.contiguous() for key, value in stored.items() if value is not None}
                save_file(tensors, source / "model.safetensors")
                arguments = [quantize, "convert", source, out, "--rule", "*=keep", "--quiet"]
                subprocess.run(arguments, check=True, capture_output=True)
                found = load_file(out / "model.safetensors")
            assert list(found) == [f"{NAME}.weight"], list(found)
            [found] = found.values()
            expected = decoded.to(torch.float32).to(torch.bfloat16).reshape(ROWS, COLS)
            # What is computed in another order may be rounded to the next BF16.
            wrong = (found.float() - expected.float()).abs() > expected.float().abs() * 2**-7 + 1e-30
            same = (found == expected).float().mean().item()
            print(f"{method.__name__} {name}: {same:.2%} equal, {int(wrong.sum())} wrong")
            failed += bool(wrong.any()) or same < 0.99
    sys.exit(failed and f"{failed} cases differ")


main(sys.argv[1])
