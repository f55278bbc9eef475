"""ci/llama_cpp_evaluation.py LLAMA_PERPLEXITY QUANTIZE CHECKPOINT TEXT [GGUF]: the same weights, evaluated by llama.cpp and by us.

CHECKPOINT (a Llama with a byte-level tokenizer: models/storyteller-6m; or any Llama of which there is a GGUF file) becomes a GGUF file as it is, and one for every format: not by llama.cpp's
encoder, but with the very blocks that `quantize convert` wrote, its panels taken apart by ci/interop.py. `llama-perplexity` writes its file of logits
with the original, and compares each format with it; `quantize eval` does the same with the same file. Then the other way round: our file of
logits, read by `llama-perplexity`. What is left between the two columns is activations: llama.cpp's are rounded in other places, and its cache.

Called by ci/llama_cpp_evaluation.sh, which builds and installs what it needs.
"""

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from gguf import GGUFReader, GGUFValueType, GGUFWriter, TokenType

from interop import kind, read_model, read_source, to_blocks, to_f32

CTX = 256
WINDOWS = 40
FORMATS = ["q8_0", "q6_k", "q5_k", "q4_1", "q4_k", "iq4_nl", "iq4_xs", "q4_0", "mxfp4"]
LONG = ["q6_k", "q5_k", "q4_k", "iq4_xs"]
NAMES = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def gguf_name(name):
    """What llama.cpp calls a tensor of a Llama."""
    if layer := re.fullmatch(r"model\.layers\.(\d+)\.(.*)\.weight", name):
        return f"blk.{layer[1]}.{NAMES[layer[2]]}.weight"
    return {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight"}[name]


def rope_order(rows, heads):
    """llama.cpp rotates pairs of neighbours, Hugging Face's Llama a number and the one half a head away: rows in another order."""
    return np.arange(rows).reshape(heads, 2, -1).swapaxes(1, 2).reshape(-1)


def copy_description(writer, gguf):
    """What a GGUF file says of its model and its tokens."""
    for field in GGUFReader(gguf).fields.values():
        if not field.name.startswith("GGUF.") and field.name != "general.architecture":
            kind = field.types[0]
            items = field.types[-1] if kind == GGUFValueType.ARRAY else None
            writer.add_key_value(field.name, field.contents(), kind, items)


def describe(writer, folder, config):
    """The same of a folder whose tokenizer is byte-level."""
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_rope_dimension_count(config["head_dim"])
    writer.add_rope_freq_base(config["rope_theta"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])
    tokens = sorted(tokenizer["model"]["vocab"], key=tokenizer["model"]["vocab"].get)
    special = {token["content"] for token in tokenizer["added_tokens"]}
    merges = tokenizer["model"]["merges"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([TokenType.CONTROL if token in special else TokenType.NORMAL for token in tokens])
    writer.add_token_merges([merge if isinstance(merge, str) else " ".join(merge) for merge in merges])
    writer.add_bos_token_id(config["bos_token_id"])
    writer.add_eos_token_id(config["eos_token_id"])
    writer.add_add_bos_token(True)


def write_gguf(path, folder, gguf, tensors):
    """`tensors` yields name, rows (numbers or blocks) and what gguf calls their format, None for numbers."""
    config = json.loads((folder / "config.json").read_text())
    writer = GGUFWriter(path, "llama")
    if gguf:
        copy_description(writer, gguf)
    else:
        describe(writer, folder, config)
    heads = {"q_proj": config["num_attention_heads"], "k_proj": config["num_key_value_heads"]}
    for name, rows, format in tensors:
        for part, count in heads.items():
            if part in name:
                rows = rows[rope_order(len(rows), count)]
        writer.add_tensor(gguf_name(name), np.ascontiguousarray(rows), raw_dtype=format)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def original(checkpoint):
    for name, (dtype, shape, data, _) in read_source(checkpoint).items():
        numbers = to_f32(dtype, data).reshape(shape)
        yield name, numbers if len(shape) == 1 else numbers.astype(np.float16), None


def converted(path):
    tensors, described = read_model(path / "model.safetensors")
    for name, (dtype, shape, data, _) in tensors.items():
        if packed := described[name].get("packed"):
            yield name, to_blocks(data, packed["format"], packed["shape"]), kind(packed["format"])
        else:
            yield name, to_f32(dtype, data).reshape(shape), None


def run(*command):
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{command}: exit status {done.returncode}\n{done.stdout}\n{done.stderr}")
    return done.stdout + done.stderr


def theirs(perplexity, model, base):
    names = ["Mean PPL(Q)", "Mean    KLD", "Median  KLD", "99.9%   KLD", "RMS Δp    ", "Same top p"]
    for _ in range(5):  # now and then the end of what it prints is lost
        said = run(perplexity, "-m", model, "--kl-divergence", "--kl-divergence-base", base, "-c", CTX, "-t", 2)
        found = [re.search(rf"{re.escape(name)}\s*:\s*(-?[\d.]+)", said) for name in names]
        if all(found):
            return [float(figure[1]) for figure in found]
    sys.exit(f"figures are missing in\n{said}")


def ours(quantize, model, base):
    found = json.loads(run(quantize, "eval", model, "--reference-logits", base, "--json"))
    kld = found["kld"]
    return [
        found["model"]["perplexity"], kld["mean"], kld["median"], kld["p999"], 100 * found["rms_change"], 100 * found["same_top"]
    ]


def tokens(base):
    """The tokens of a file of logits, but for each window's first: llama.cpp keeps the text's own there, we the one that is fed."""
    ctx, _, windows = np.fromfile(base, np.uint32, 3, offset=8)
    return np.fromfile(base, np.int32, ctx * windows, offset=20).reshape(windows, ctx)[:, 1:]


def main():
    perplexity, quantize, checkpoint, text, *gguf = sys.argv[1:]
    checkpoint, gguf = Path(checkpoint), next(iter(gguf), None)
    # A GGUF file's rows are whole blocks.
    config = json.loads((checkpoint / "config.json").read_text())
    uneven = [] if config["intermediate_size"] % 256 == 0 else ["--rule", "*down_proj*=keep"]
    formats = [format for format in FORMATS if config["hidden_size"] % 256 == 0 or format not in LONG]
    columns = ["perplexity", "KLD", "median", "99.9 %", "RMS change", "same token"]
    print("| weights | " + " | ".join(f"{column}, llama.cpp | ours" for column in columns) + " |")
    print("|---" * (1 + 2 * len(columns)) + "|")
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        # llama.cpp reads the mark between documents as letters, we as the token that it is.
        plain_text = folder / "text"
        plain_text.write_text(Path(text).read_text().replace("<|endoftext|>", ""))
        text = plain_text
        plain = folder / "original.gguf"
        write_gguf(plain, checkpoint, gguf, original(checkpoint))
        bases = {"their base": folder / "theirs", "our base": folder / "ours"}
        run(perplexity, "-m", plain, "-f", text, "--kl-divergence-base", bases["their base"], "-c", CTX, "--chunks", WINDOWS, "-t", 2)
        options = ["--ctx", CTX, "--windows", WINDOWS, "--no-noise-floor", "--save-logits", bases["our base"]]
        run(quantize, "eval", checkpoint, "--reference", checkpoint, "--text", text, *options)
        if not np.array_equal(*map(tokens, bases.values())):
            sys.exit("the two files of logits have other tokens")

        rows = [("original", plain, checkpoint)]
        for format in formats:
            model, theirs_too = folder / format, folder / f"{format}.gguf"
            run(quantize, "convert", checkpoint, model, "--to", format, "--rule", f"*_proj*={format}", *uneven, "-q")
            write_gguf(theirs_too, checkpoint, gguf, converted(model))
            rows.append((format, theirs_too, model))
        for name, base in bases.items():
            for format, theirs_too, model in rows:
                pairs = zip(theirs(perplexity, theirs_too, base), ours(quantize, model, base))
                cells = [f"{float(f'{number:.4g}'):g}" for pair in pairs for number in pair]
                print(f"| {format}, {name} | " + " | ".join(cells) + " |", flush=True)


main()
