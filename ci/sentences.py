"""ci/sentences.py: a tiny sentence encoder, and what sentence-transformers makes of it as its files change.

Writes qruntime/tests/data/sentence: a folder as sentence-transformers has it, with a random BERT and a tokenizer of words and letters, and `cases.json`: for
each case the files that are different (null for one that is not there), the prompt that is asked for, and the vectors of
TEXTS from PyPI's sentence-transformers in float32. `qruntime/tests/sentence.rs` holds ours to them.

The same bytes come out whenever it runs on the same machine. Called by ci/sentences.sh, which installs what it needs.
"""

import json
import shutil
import tempfile
import zlib
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from sentence_transformers import SentenceTransformer
from transformers import AutoConfig, AutoModel

FOLDER = Path(__file__).parent.parent / "qruntime/tests/data/sentence"

TEXTS = [
    "a cat",
    "The Cat sat on a mat, Éa said: cat, dog, mat.",
    "query: the dog",
    "a dog sat on the mat and the cat sat on the mat and the dog sat on a cat and a dog",
    "",
]
WORDS = "the The a cat Cat dog sat on mat and said query search text Éa".split()

CONFIG = {
    "architectures": ["BertModel"],
    "model_type": "bert",
    "vocab_size": 0,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "hidden_act": "gelu",
    "max_position_embeddings": 32,
    "type_vocab_size": 2,
    "layer_norm_eps": 0.001,
    "pad_token_id": 0,
}
TOKENIZER_CONFIG = {"tokenizer_class": "PreTrainedTokenizerFast", "cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]",
                    "unk_token": "[UNK]", "mask_token": "[MASK]"}
SENTENCE = {"max_seq_length": 32, "do_lower_case": False}
FLAGS = {"cls": "cls_token", "max": "max_tokens", "mean": "mean_tokens", "mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
         "weightedmean": "weightedmean_tokens", "lasttoken": "lasttoken"}


def modules(*types):
    """The content of modules.json."""
    places = {"Transformer": "", "Pooling": "1_Pooling"}
    return [{"idx": i, "name": str(i), "path": places.get(kind.split(".")[-1], f"{i}_Module"), "type": f"sentence_transformers.{kind}"}
            for i, kind in enumerate(types)]


def pooling(*modes, **more):
    """The content of 1_Pooling/config.json, as flags."""
    return {"word_embedding_dimension": 16} | {f"pooling_mode_{flag}": mode in modes for mode, flag in FLAGS.items()} | more


def tokenizer(lowercase):
    """The content of tokenizer.json."""
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    letters = [chr(c) for c in range(ord("a"), ord("z") + 1)] + list("ACÉT:,.")
    vocab = specials + WORDS + ["éa", "ea"] + letters + [f"##{letter}" for letter in letters]
    vocab = {token: i for i, token in enumerate(dict.fromkeys(vocab))}
    return {
        "version": "1.0", "truncation": None, "padding": None,
        "added_tokens": [{"id": i, "content": token, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
                          "special": True} for i, token in enumerate(specials)],
        "normalizer": {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True, "strip_accents": None,
                       "lowercase": lowercase},
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {"type": "TemplateProcessing",
                           "single": [{"SpecialToken": {"id": "[CLS]", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
                                      {"SpecialToken": {"id": "[SEP]", "type_id": 0}}],
                           "pair": [{"SpecialToken": {"id": "[CLS]", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
                                    {"SpecialToken": {"id": "[SEP]", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}},
                                    {"SpecialToken": {"id": "[SEP]", "type_id": 1}}],
                           "special_tokens": {t: {"id": t, "ids": [i], "tokens": [t]} for i, t in ((2, "[CLS]"), (3, "[SEP]"))}},
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
        "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##", "max_input_chars_per_word": 100,
                  "vocab": vocab},
    }


PROMPTS = {"prompts": {"query": "query: ", "document": "search text: "}}
DEFAULT_PROMPT = PROMPTS | {"default_prompt_name": "query"}
LIMITED = {"sentence_bert_config.json": {"transformer_task": "feature-extraction"}}
OLD, NEW = ["models.Transformer", "models.Pooling"], ["base.modules.transformer.Transformer", "sentence_transformer.modules.pooling.Pooling"]

# Name, files that differ, and what is asked for.
CASES = [
    ("as it is", {}, {}),
    *((f"pooling {mode}", {"1_Pooling/config.json": pooling(mode)}, {}) for mode in FLAGS),
    *((f"pooling {mode} without the prompt", {"1_Pooling/config.json": {"embedding_dimension": 16, "pooling_mode": mode, "include_prompt": False},
       "config_sentence_transformers.json": DEFAULT_PROMPT}, {}) for mode in FLAGS),
    ("two ways of pooling", {"1_Pooling/config.json": pooling("mean", "cls")}, {}),
    ("two ways of pooling, in this order", {"1_Pooling/config.json": {"embedding_dimension": 16, "pooling_mode": ["mean", "cls"]}}, {}),
    ("no way of pooling", {"1_Pooling/config.json": pooling()}, {}),
    ("normalized", {"modules.json": modules(*OLD, "models.Dropout", "models.Normalize")}, {}),
    ("modules at their new places", {"modules.json": modules(*NEW, "base.modules.normalize.Normalize")}, {}),
    ("no modules", {"modules.json": None, "1_Pooling/config.json": pooling("cls"), "config_sentence_transformers.json": DEFAULT_PROMPT,
                    "sentence_bert_config.json": {"max_seq_length": 5}, "tokenizer_config.json": TOKENIZER_CONFIG | {"model_max_length": 9}}, {}),
    ("max_seq_length", {"sentence_bert_config.json": {"max_seq_length": 7}}, {}),
    ("max_seq_length before model_max_length", {"sentence_bert_config.json": {"max_seq_length": 12},
                                                "tokenizer_config.json": TOKENIZER_CONFIG | {"model_max_length": 7}}, {}),
    ("model_max_length", LIMITED | {"tokenizer_config.json": TOKENIZER_CONFIG | {"model_max_length": 7}}, {}),
    ("model_max_length beyond all positions", LIMITED | {"tokenizer_config.json": TOKENIZER_CONFIG | {"model_max_length": 10**30}}, {}),
    ("max_len", LIMITED | {"tokenizer_config.json": TOKENIZER_CONFIG | {"max_len": 7}}, {}),
    ("processor_kwargs", {"sentence_bert_config.json": {"max_seq_length": 12, "tokenizer_args": {"model_max_length": 7}}}, {}),
    ("another file's name", {"sentence_bert_config.json": None, "sentence_roberta_config.json": {"max_seq_length": 7}}, {}),
    ("beginnings are cut off", {"sentence_bert_config.json": {"max_seq_length": 7},
                                "tokenizer_config.json": TOKENIZER_CONFIG | {"truncation_side": "left"}}, {}),
    ("beginnings are cut off, as tokenizer.json says", {"sentence_bert_config.json": {"max_seq_length": 7}, "tokenizer.json": tokenizer(False) | {
        "truncation": {"direction": "Left", "max_length": 5, "strategy": "LongestFirst", "stride": 0}}}, {}),
    ("do_lower_case", {"sentence_bert_config.json": {"max_seq_length": 32, "do_lower_case": True}}, {}),
    ("do_lower_case of the tokenizer", {"tokenizer_config.json": TOKENIZER_CONFIG | {"tokenizer_class": "BertTokenizer", "do_lower_case": True}}, {}),
    ("do_lower_case of the tokenizer left out", {"tokenizer_config.json": TOKENIZER_CONFIG | {"tokenizer_class": "BertTokenizer"}}, {}),
    ("a tokenizer without do_lower_case", {"tokenizer.json": tokenizer(True),
                                           "tokenizer_config.json": TOKENIZER_CONFIG | {"tokenizer_class": "BertTokenizerFast", "do_lower_case": False}}, {}),
    ("strip_accents", {"tokenizer_config.json": TOKENIZER_CONFIG | {"tokenizer_class": "BertTokenizer", "do_lower_case": True, "strip_accents": False}}, {}),
    ("a default prompt", {"config_sentence_transformers.json": DEFAULT_PROMPT}, {}),
    ("prompts without a default", {"config_sentence_transformers.json": PROMPTS}, {}),
    ("a prompt by name", {"config_sentence_transformers.json": DEFAULT_PROMPT}, {"prompt_name": "document"}),
    ("a prompt by its text", {"config_sentence_transformers.json": DEFAULT_PROMPT}, {"prompt": "the Cat: "}),
    ("an empty prompt", {"config_sentence_transformers.json": DEFAULT_PROMPT}, {"prompt": ""}),
    ("a prompt that saying nothing names", {"config_sentence_transformers.json": {"prompts": {"document": None}}}, {"prompt_name": "query"}),
    ("a prompt without the tokens of its end", {"config_sentence_transformers.json": PROMPTS, "1_Pooling/config.json":
                                                {"embedding_dimension": 16, "pooling_mode": "mean", "include_prompt": False}}, {"prompt": "a cat d"}),
    ("a prompt that fills the limit", {"config_sentence_transformers.json": DEFAULT_PROMPT, "sentence_bert_config.json": {"max_seq_length": 4},
                                       "1_Pooling/config.json": pooling("mean", include_prompt=False)}, {}),
    ("is_decoder", {"config.json": {"is_decoder": True}}, {}),
]


def write(path, value):
    """Writes a file, or removes it."""
    if value is None:
        path.unlink()
        return
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(value, ensure_ascii=False, indent=1) + "\n")


def write_model(folder):
    """Writes the folder that cases change."""
    tokens = tokenizer(False)
    config = CONFIG | {"vocab_size": len(tokens["model"]["vocab"])}
    model = AutoModel.from_config(AutoConfig.for_model(**config), add_pooling_layer=False)
    tensors = {}
    for name, parameter in model.named_parameters():
        random = np.random.default_rng(zlib.crc32(name.encode()))
        values = random.standard_normal(parameter.shape).astype(np.float32)
        if name.endswith("bias"):
            values = 0.3 * values
        elif "LayerNorm" in name:
            values = 1 + 0.2 * values
        elif "embeddings" in name:
            values = 0.5 * values
        else:
            values = 1.5 * values / parameter.shape[-1] ** 0.5
        tensors[name] = torch.from_numpy(values).half()
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    files = {
        "config.json": config,
        "tokenizer.json": tokens,
        "tokenizer_config.json": TOKENIZER_CONFIG,
        "sentence_bert_config.json": SENTENCE,
        "modules.json": modules(*OLD),
        "1_Pooling/config.json": pooling("mean"),
    }
    for name, value in files.items():
        write(folder / name, value)
    return files


def vectors(files, changes, asked):
    """What sentence-transformers makes of the changed folder."""
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder) / "model"
        shutil.copytree(FOLDER, folder, ignore=shutil.ignore_patterns("cases.json"))
        for name, value in changes.items():
            write(folder / name, files[name] | value if name == "config.json" else value)
        model = SentenceTransformer(str(folder), device="cpu", model_kwargs={"dtype": torch.float32, "attn_implementation": "eager"})
        # One by one: beside longer ones, the vectors of short texts are others in the last bits.
        rows = [model.encode(text, convert_to_numpy=True, **asked) for text in TEXTS]
    return [[float(f"{x:.7g}") for x in row] for row in rows]


def main():
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(parents=True)
    files = write_model(FOLDER)
    cases = []
    for name, changes, asked in CASES:
        expected = vectors(files, changes, asked)
        changes = {file: files[file] | value if file == "config.json" else value for file, value in changes.items()}
        cases.append({"name": name, "files": changes, "asked": asked, "vectors": expected})
        same = next((case["name"] for case in cases[:-1] if case["vectors"] == expected), None)
        print(f"{name:45} {np.abs(expected).max():.3f} at most" + (f", as {same!r}" if same else ""))
    # A line for each case.
    lines = ",\n".join(json.dumps(case, ensure_ascii=False) for case in cases)
    (FOLDER / "cases.json").write_text('{"texts": ' + json.dumps(TEXTS, ensure_ascii=False) + ',\n"cases": [\n' + lines + "\n]}\n")
    print(sum(path.stat().st_size for path in FOLDER.rglob("*") if path.is_file()), "bytes")


main()
