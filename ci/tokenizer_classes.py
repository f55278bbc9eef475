"""ci/tokenizer_classes.py: which classes of tokenizers make the normalizer of their own fields, whatever `tokenizer.json` has.

Writes qruntime/tests/data/tokenizer_classes.json: for each case the files that differ from those of
qruntime/tests/data/sentence, and the tokens of TEXTS that PyPI's transformers makes then. `qruntime/tests/sentence.rs` holds
ours to them. Called by ci/sentences.sh; needs transformers alone.
"""

import json
import multiprocessing
import tempfile
from pathlib import Path

from transformers import AutoTokenizer

DATA = Path(__file__).parent.parent / "qruntime/tests/data"
TEXTS = ["The Cat sat, Éa", "mat中cat", "c\u0001at"]

PLAIN = ["BertTokenizer", "DistilBertTokenizer", "ElectraTokenizer", "FunnelTokenizer", "LayoutLMTokenizer", "LxmertTokenizer", "MPNetTokenizer",
         "MobileBertTokenizer", "SplinterTokenizer", "SqueezeBertTokenizer", "ConvBertTokenizer", "DPRContextEncoderTokenizer",
         "DPRQuestionEncoderTokenizer", "DPRReaderTokenizer", "FNetTokenizer"]
CLASSES = [*PLAIN, *(name + "Fast" for name in PLAIN), "PreTrainedTokenizerFast", "TokenizersBackend", "UnheardOfTokenizer", None]
FIELDS = [{}, {"do_lower_case": False}, {"strip_accents": False}, {"tokenize_chinese_chars": False}, {"clean_text": False}]


def cases(tokenizer, config, settings):
    """Files that differ."""
    # All else than the defaults of the classes.
    other = {"type": "BertNormalizer", "clean_text": False, "handle_chinese_chars": False, "strip_accents": True, "lowercase": False}
    named = [settings | {"tokenizer_class": name} if name else {k: v for k, v in settings.items() if k != "tokenizer_class"} for name in CLASSES]
    for one in named:
        for fields in FIELDS:
            yield {"tokenizer.json": tokenizer | {"normalizer": other}, "tokenizer_config.json": one | fields}
    for normalizer in (None, {"type": "NFC"}, {"type": "Sequence", "normalizers": [{"type": "NFD"}]}):
        for name in ("MPNetTokenizer", "ConvBertTokenizer"):
            changed = tokenizer | {"normalizer": normalizer, "pre_tokenizer": {"type": "WhitespaceSplit"}}
            yield {"tokenizer.json": changed, "tokenizer_config.json": settings | {"tokenizer_class": name}}
    for name in ("MPNetTokenizer", "PreTrainedTokenizerFast"):
        yield {"tokenizer.json": tokenizer | {"normalizer": other}, "tokenizer_config.json": named[-1], "config.json": config | {"tokenizer_class": name}}
        both = settings | {"tokenizer_class": name}
        yield {"tokenizer.json": tokenizer | {"normalizer": other}, "tokenizer_config.json": both, "config.json": config | {"tokenizer_class": "ConvBertTokenizer"}}


def answer(files):
    """The tokens of all texts."""
    with tempfile.TemporaryDirectory() as folder:
        for name, value in files.items():
            (Path(folder) / name).write_text(json.dumps(value))
        return [AutoTokenizer.from_pretrained(folder)(text)["input_ids"] for text in TEXTS]


def main():
    base = {name: json.loads((DATA / "sentence" / name).read_text()) for name in ("tokenizer.json", "config.json", "tokenizer_config.json")}
    lines = []
    changed = list(cases(*base.values()))
    # In a process of its own each: what a name means depends on the classes that were looked up
    # before.
    with multiprocessing.get_context("fork").Pool(1, maxtasksperchild=1) as pool:
        answers = pool.map(answer, [base | files for files in changed], chunksize=1)
    for files, tokens in zip(changed, answers):
        # Fields of the files that are not those of the folder: null for one that is not there.
        changes = {name: {k: value.get(k) for k in value.keys() | base[name].keys() if k not in value or base[name].get(k, ...) != value[k]}
                   for name, value in files.items()}
        lines.append(json.dumps({"changes": {name: dict(sorted(fields.items())) for name, fields in changes.items()}, "tokens": tokens}))
    text = '{"texts": ' + json.dumps(TEXTS) + ',\n"cases": [\n' + ",\n".join(lines) + "\n]}\n"
    (DATA / "tokenizer_classes.json").write_text(text)
    print(len(lines), "cases,", len({line.split('"tokens"')[1] for line in lines}), "answers")


main()
