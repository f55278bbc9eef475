"""ci/references.py DATA: what others make of real models, for the tests of qruntime that have DATA (../shared/data).

* qruntime/tests/data/minilm.safetensors: PyPI's `sentence-transformers` with DATA/all-MiniLM-L6-v2 in float32. Token ids and embeddings of
  a hundred sentences of STS-B dev (the first sentence of every 15th pair), and the rank correlation of cosine and score over all pairs and
  over every fifth.
* qruntime/tests/data/stories260K.safetensors: PyPI's `transformers` with DATA/stories260K/hf-float32. Token ids of the first hundred stories of
  the TinyStories file (split at `<|endoftext|>`, stripped, encoded with BOS, cut to 512), and the sum of -ln p over every id after BOS.

Called by ci/references.sh, which installs what it needs.
"""

import sys
from pathlib import Path

import numpy as np
import sentence_transformers
import torch
import transformers
from safetensors.numpy import save_file
from scipy.stats import spearmanr
from sentence_transformers import SentenceTransformer
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM

EXPECTED = Path(__file__).parent.parent / "qruntime/tests/data"
OPTIONS = {"dtype": torch.float32, "attn_implementation": "eager"}


def save(name, sequences, made_by, **tensors):
    """Writes sequences of token ids, one after the other, and tensors."""
    ids = {"ids": np.concatenate(sequences), "lengths": np.array([len(ids) for ids in sequences])}
    tensors |= {name: array.astype(np.uint16) for name, array in ids.items()}
    save_file(tensors, EXPECTED / f"{name}.safetensors", {"made_by": f"{made_by}, torch {torch.__version__}"})


def minilm(data):
    """Embeddings of sentences."""
    model = SentenceTransformer(str(data / "all-MiniLM-L6-v2"), device="cpu", model_kwargs=OPTIONS)
    rows = [line.split("\t") for line in (data / "text/stsbenchmark/sts-dev.csv").read_text(encoding="utf-8").splitlines()]
    first, second = ([row[column] for row in rows] for column in (5, 6))
    embeddings = [model.encode(sentences, show_progress_bar=False) for sentences in (first, second)]
    cosines = (embeddings[0] * embeddings[1]).sum(1, dtype=np.float64)
    scores = np.array([float(row[4]) for row in rows])
    correlations = {every: float(spearmanr(cosines[::every], scores[::every]).statistic) for every in (1, 5)}

    sentences = first[::15]
    ids = [model.tokenizer(sentence)["input_ids"] for sentence in sentences]
    # One at a time: a batch would be padded, which changes the last bits.
    alone = np.concatenate([model.encode([sentence], show_progress_bar=False) for sentence in sentences])
    made_by = f"sentence-transformers {sentence_transformers.__version__}"
    ranks = {f"rank_correlation.{every}": np.array([correlation]) for every, correlation in correlations.items()}
    save("minilm", ids, made_by, embeddings=alone, **ranks)
    print(f"all-MiniLM-L6-v2: {len(sentences)} sentences, rank correlation over pairs: {correlations}")


def stories260k(data):
    """Perplexity on stories."""
    folder = data / "stories260K/hf-float32"
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    text = (data / "text/tinystories/tinystories_train_2MB_endoftext.txt").read_text(encoding="utf-8")
    stories = [story.strip() for story in text.split("<|endoftext|>")[:100]]
    ids = [tokenizer.encode(story).ids[:512] for story in stories]
    assert all(story[0] == 1 for story in ids), "a story without BOS"
    model = AutoModelForCausalLM.from_pretrained(folder, **OPTIONS)
    nll = 0.0
    with torch.no_grad():
        for story in map(torch.tensor, ids):
            logits = model(story[None], use_cache=False).logits[0, :-1]
            nll += torch.nn.functional.cross_entropy(logits.double(), story[1:], reduction="sum").item()
    save("stories260K", ids, f"transformers {transformers.__version__}", nll=np.array([nll]))
    targets = sum(map(len, ids)) - len(ids)
    print(f"stories260K: {targets} targets, nll {nll / targets:.6f}, perplexity {np.exp(nll / targets):.5f}")


def main():
    torch.set_num_threads(1)
    transformers.logging.disable_progress_bar()
    data = Path(sys.argv[1])
    minilm(data)
    stories260k(data)


main()
