"""ci/gguf_families.py SOURCE FOLDER: tiny models of every family, converted to GGUF by llama.cpp's own script.

SOURCE is llama.cpp's source. For every family FOLDER gets a folder: `hf` as Hugging Face has it, `f32.gguf` and `f16.gguf`. The models are
those of ci/families.py, as far as GGUF can say what they are. All weights are numbers that half precision holds, stored in single
precision: no conversion rounds them, so that all three must give the same bits.

The tokenizers are left out: every token is a text of its own. Called by ci/gguf_families.sh, which installs what it needs.
"""

import dataclasses
import json
import shutil
import sys
from pathlib import Path

import torch
import transformers

import families

SOURCE, FOLDER = Path(sys.argv[1]).resolve(), Path(sys.argv[2])
sys.path.insert(0, str(SOURCE))

import conversion  # noqa: E402
from conversion.base import ModelBase, gguf  # noqa: E402

# What GGUF cannot say, or llama.cpp's script leaves out: windows of Mistral and Qwen, Gemma's scale
# of scores and pattern of layers, weights of experts that are not those of the family, layers
# without experts, and the base of rotations of Gemma 2.
GEMMA3 = {"query_pre_attn_scalar": 24, "sliding_window_pattern": 6, "num_hidden_layers": 7}
CHANGES = {
    "llama": {},
    "llama-bias": {},
    "llama-rope-llama3": {},
    "llama-rope-linear": {},
    "llama-own-head": {},
    "mistral": {"sliding_window": None},
    "mixtral": {},
    "qwen2": {},
    "qwen2-yarn": {},
    "qwen3": {},
    "qwen2-moe": {},
    "qwen3-moe": {"mlp_only_layers": []},
    "gemma2": {"query_pre_attn_scalar": 24, "rope_theta": 10000.0},
    "gemma3": GEMMA3,
    "gemma3-capped": GEMMA3 | {"attn_logit_softcapping": None},
    "phi3": {},
    "phi3-longrope": {},
    "granite": {},
    "granitemoe": {},
    "bert-mean": {},
    "bert-cls": {},
}

# Where the choice of experts is close, rounding decides; here all compute the same.
families.MARGIN = 0.0


def draw(name, shape, model_type, random):
    """A tensor that no conversion rounds: in half precision, and with 1 added in single precision."""
    values = drawn(name, shape, model_type, random)
    if "norm" in name.lower():
        values = (values * 1024).round() / 1024
    return values.half().float()


drawn, families.draw = families.draw, draw


def make(name, folder):
    """Writes the model as Hugging Face has it."""
    family = families.FAMILIES[name]
    config = family.config | CHANGES[name]
    family = dataclasses.replace(family, config=config, dtype=torch.float32, normalize=family.pooling is not None, new_config=False)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    families.make(name, family, folder, 0)
    # llama.cpp's script counts its tokens for Gemma 3.
    vocabulary = {f"t{i}": i for i in range(config["vocab_size"])}
    families.write_json(folder / "tokenizer.json", {"model": {"vocab": vocabulary}, "added_tokens": []})
    families.write_json(folder / "generation_config.json", {"temperature": 0.6, "top_k": 20, "top_p": 0.9, "do_sample": True})


def set_vocab(model):
    """The place of a tokenizer."""
    count = model.hparams["vocab_size"]
    writer = model.gguf_writer
    if "type_vocab_size" in model.hparams:
        writer.add_token_type_count(model.hparams["type_vocab_size"])
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list([f"t{i}" for i in range(count)])
    writer.add_token_types([gguf.TokenType.NORMAL] * count)
    for add, field in (writer.add_bos_token_id, "bos_token_id"), (writer.add_eos_token_id, "eos_token_id"):
        if (token := model.hparams.get(field)) is not None:
            add(token)


def convert(folder, file, kind):
    """Converts a folder as convert_hf_to_gguf.py does."""
    architecture = json.loads((folder / "config.json").read_text())["architectures"][0]
    conversion.load_all_models()
    found = ModelBase.from_model_architecture(architecture)
    with torch.inference_mode():
        type(found.__name__, (found,), {"set_vocab": set_vocab, "model_arch": found.model_arch})(folder, kind, file, eager=True).write()


def main():
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    for name in CHANGES:
        folder = FOLDER / name
        make(name, folder / "hf")
        for kind, file in (gguf.LlamaFileType.ALL_F32, "f32.gguf"), (gguf.LlamaFileType.MOSTLY_F16, "f16.gguf"):
            convert(folder / "hf", folder / file, kind)
        print(name)


main()
