"""ci/random_llama.py FOLDER [--size SIZE]: a Llama with random weights in half precision, twice: FOLDER/f16, as Hugging Face has it
(config.json and shards of safetensors), and FOLDER/f16.gguf, the same weights as llama.cpp wants them.

For measuring speed: it has the shapes of a real model and says nothing. Weights are normal, of a size that keeps activations near one;
the same seed gives the same files. Memory stays below two layers. Called by ci/network_speed.sh; needs PyPI's numpy, safetensors and gguf.
"""

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from gguf import GGUFWriter, LlamaFileType
from safetensors.numpy import load_file, save_file

EPSILON, ROPE_BASE, CONTEXT = 1e-5, 10000.0, 2048


@dataclass
class Size:
    """What TinyLlama's config.json calls them."""

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    vocab_size: int


SIZES = {"1.1b": Size(2048, 5632, 22, 32, 4, 32000), "tiny": Size(256, 768, 2, 4, 2, 512)}


def layer_shapes(size):
    """Tensors of one layer: name, name in GGUF, shape, and for rotated ones the number of heads."""
    hidden, inner = size.hidden_size, size.intermediate_size
    kv = hidden // size.num_attention_heads * size.num_key_value_heads
    return [
        ("self_attn.q_proj", "attn_q", (hidden, hidden), size.num_attention_heads),
        ("self_attn.k_proj", "attn_k", (kv, hidden), size.num_key_value_heads),
        ("self_attn.v_proj", "attn_v", (kv, hidden), None),
        ("self_attn.o_proj", "attn_output", (hidden, hidden), None),
        ("mlp.gate_proj", "ffn_gate", (inner, hidden), None),
        ("mlp.up_proj", "ffn_up", (inner, hidden), None),
        ("mlp.down_proj", "ffn_down", (hidden, inner), None),
        ("input_layernorm", "attn_norm", (hidden,), None),
        ("post_attention_layernorm", "ffn_norm", (hidden,), None),
    ]


def shards(size):
    """The tensors of each file: name, name in GGUF, shape, heads."""
    for i in range(size.num_hidden_layers):
        yield [(f"model.layers.{i}.{name}.weight", f"blk.{i}.{gguf}.weight", *rest) for name, gguf, *rest in layer_shapes(size)]
    table = (size.vocab_size, size.hidden_size)
    yield [("model.embed_tokens.weight", "token_embd.weight", table, None), ("lm_head.weight", "output.weight", table, None)]
    # Apart: a shard is what is in memory at a time.
    yield [("model.norm.weight", "output_norm.weight", (size.hidden_size,), None)]


def draw(random, shape):
    """Norms near one; matrices that give outputs as large as their inputs."""
    noise = random.standard_normal(shape, np.float32)
    return (1 + 0.1 * noise if len(shape) == 1 else noise / np.float32(shape[1] ** 0.5)).astype(np.float16)


def write_folder(folder, size):
    """Writes the checkpoint."""
    folder.mkdir(parents=True)
    random = np.random.default_rng(1)
    places, total, files = {}, 0, list(shards(size))
    for number, tensors in enumerate(files, 1):
        file = f"model-{number:05}-of-{len(files):05}.safetensors"
        arrays = {name: draw(random, shape) for name, _, shape, _ in tensors}
        save_file(arrays, folder / file, {"format": "pt"})
        places |= dict.fromkeys(arrays, file)
        total += sum(array.nbytes for array in arrays.values())
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(places.items()))}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")
    config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu", "rms_norm_eps": EPSILON}
    config |= {"rope_theta": ROPE_BASE, "max_position_embeddings": CONTEXT, "tie_word_embeddings": False, "torch_dtype": "float16"}
    config |= {"bos_token_id": 1, "eos_token_id": 2} | vars(size)
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")


def rotated_pairs(weights, heads):
    """Rows in GGUF's order: the two numbers that are rotated together beside each other, not half a head apart."""
    rows, columns = weights.shape
    return weights.reshape(heads, 2, rows // heads // 2, columns).swapaxes(1, 2).reshape(rows, columns)


def write_gguf(path, folder, size):
    """Writes the checkpoint's weights as GGUF, without a vocabulary."""
    writer = GGUFWriter(path, "llama")
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(size.hidden_size)
    writer.add_feed_forward_length(size.intermediate_size)
    writer.add_block_count(size.num_hidden_layers)
    writer.add_head_count(size.num_attention_heads)
    writer.add_head_count_kv(size.num_key_value_heads)
    writer.add_layer_norm_rms_eps(EPSILON)
    writer.add_rope_dimension_count(size.hidden_size // size.num_attention_heads)
    writer.add_rope_freq_base(ROPE_BASE)
    writer.add_vocab_size(size.vocab_size)
    writer.add_file_type(LlamaFileType.MOSTLY_F16)
    writer.add_tokenizer_model("no_vocab")
    type_of = lambda shape: np.dtype(np.float32 if len(shape) == 1 else np.float16)
    for tensors in shards(size):
        for _, name, shape, _ in tensors:
            kind = type_of(shape)
            writer.add_tensor_info(name, shape, kind, int(np.prod(shape)) * kind.itemsize)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    files = sorted(folder.glob("*.safetensors"))
    for file, tensors in zip(files, shards(size), strict=True):
        arrays = load_file(file)
        for name, _, shape, heads in tensors:
            weights = arrays[name] if heads is None else rotated_pairs(arrays[name], heads)
            writer.write_tensor_data(np.ascontiguousarray(weights, type_of(shape)))
    writer.close()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--size", choices=SIZES, default="1.1b")
    arguments = parser.parse_args()
    size = SIZES[arguments.size]
    write_folder(arguments.folder / "f16", size)
    write_gguf(arguments.folder / "f16.gguf", arguments.folder / "f16", size)


main()
