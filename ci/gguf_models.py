"""ci/gguf_models.py QUANTIZE MODEL.gguf: inspects, converts, compares, runs and evaluates a GGUF file.

The blocks of the converted model, taken out of its panels by ci/interop.py, are those that PyPI's `gguf` reads in the file, in the order of
rows that Hugging Face's checkpoints have. Called by ci/gguf_models.sh.
"""

import json
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

# This file has the name of the package.
HERE = Path(__file__).resolve().parent
sys.path = [path for path in sys.path if Path(path or ".").resolve() != HERE]
from gguf import GGUFReader  # noqa: E402

sys.path.append(str(HERE))
import interop  # noqa: E402

TEXT = HERE.parent / "models/storyteller-6m/heldout.txt"
# What Hugging Face calls the matrices of a layer.
LAYER = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def run(*arguments):
    return subprocess.run(arguments, check=True, stdout=subprocess.PIPE, text=True).stdout


def hugging_face_name(name):
    if name == "token_embd.weight":
        return "model.embed_tokens.weight"
    _, layer, part, weight = name.split(".")
    return f"model.layers.{layer}.{LAYER[part]}.{weight}"


def rows_in_order(reader, tensor):
    """The rows of a tensor's blocks; those of queries and keys, where llama.cpp rotates neighbours, with the halves of each head apart."""
    rows = tensor.data.reshape(tensor.data.shape[0], -1)
    architecture = reader.get_field("general.architecture").contents()
    part = {"attn_q": "head_count", "attn_k": "head_count_kv"}.get(tensor.name.split(".")[-2])
    if architecture != "llama" or part is None:
        return rows
    heads = reader.get_field(f"llama.attention.{part}").contents()
    return rows.reshape(heads, len(rows) // heads // 2, 2, -1).swapaxes(1, 2).reshape(rows.shape)


def main():
    quantize, model = sys.argv[1:]
    reader = GGUFReader(model)
    types = Counter(tensor.tensor_type.name.lower() for tensor in reader.tensors)
    report = json.loads(run(quantize, "inspect", model, "--json"))
    assert {kind["storage"]: kind["tensors"] for kind in report["scheme"]} == types, report["scheme"]
    assert len(report["tensors"]) == len(reader.tensors)
    print(run(quantize, "inspect", model), end="")
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out"
        done = json.loads(run(quantize, "convert", model, str(out), "--json"))
        assert not done["warnings"] and done["relative_rms"] is None, done["warnings"]
        run(quantize, "verify", str(out))
        compared = json.loads(run(quantize, "compare", model, str(out), "--json"))
        assert not compared["mismatches"] and not compared["converted"], compared
        assert all(tensor["relative_rms"] == 0 for tensor in compared["packed"])

        tensors, described = interop.read_model(out / "model.safetensors")
        packed = 0
        for tensor in reader.tensors:
            format = tensor.tensor_type.name.lower()
            if format not in interop.FORMATS:
                continue
            name = hugging_face_name(tensor.name)
            assert described[name]["packed"]["format"] == format, name
            blocks = interop.to_blocks(tensors[name][2], format, described[name]["packed"]["shape"])
            assert (blocks == rows_in_order(reader, tensor)).all(), f"{name}: other blocks"
            packed += 1
        assert packed == len(compared["packed"])
        print(f"{packed} tensors of blocks, bit for bit as gguf reads them")

        print(run(quantize, "run", str(out), "--prompt", "Once upon a time", "--temperature", "0", "--max-tokens", "24"))
        evaluated = json.loads(run(quantize, "eval", str(out), "--text", str(TEXT), "--windows", "2", "--json"))
        assert evaluated["not_a_number"] == 0
        print(f"perplexity {evaluated['model']['perplexity']:.3f} on {evaluated['predictions']} predictions of {TEXT.name}")


main()
