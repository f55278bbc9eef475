#!/usr/bin/env python3
"""Train "storyteller-6m", the small Llama-style language model in this repository.

The model (5.8 M parameters) is trained from scratch on a CPU, on TinyStories and a
collection of old English novels, and is written in Hugging Face form.

    pip install -r requirements.txt

    # train (continues from the last checkpoint in WORK with --resume), then export
    python train.py --stories STORIES.txt --novels NOVELS.tar.xz \\
        --work WORK --out storyteller-6m --steps 5000 [--resume]

    # export the last checkpoint without training; evaluate an exported model
    python train.py --stories ... --novels ... --work WORK --out storyteller-6m --export-only
    python train.py --stories ... --novels ... --work WORK --out storyteller-6m --evaluate

STORIES is a text file with `<|endoftext|>` between the stories, NOVELS a folder or tar
archive of *.txt files, one novel each. WORK keeps the tokenizer, the token caches and the
checkpoint. The learning-rate schedule (warm-up, constant, linear decay over the last part)
counts steps, not time: a run may be paused, or ended early by stopping it (SIGTERM saves a
checkpoint) and resuming with a smaller --steps, and still gets its decay phase.
"""
import argparse, json, math, os, re, signal, tarfile, time
from pathlib import Path

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

EOT = "<|endoftext|>"  # both beginning and end of text; id 0
HELD_OUT_NOVELS = ("Doyle_Hound_1902", "Forster_View_1908")  # never trained on
CONFIG = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 4096,
    "hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 6,
    "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 32,
    "max_position_embeddings": 512, "hidden_act": "silu", "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0, "rope_scaling": None, "attention_bias": False,
    "attention_dropout": 0.0, "mlp_bias": False, "pretraining_tp": 1,
    "initializer_range": 0.02, "tie_word_embeddings": True, "use_cache": True,
    "bos_token_id": 0, "eos_token_id": 0, "torch_dtype": "float16",
}
CONTEXT = CONFIG["max_position_embeddings"]


# ---------------------------------------------------------------- text and tokens

def clean(text):
    """Plain quotes and dashes, LF line ends."""
    for a, b in (("\ufeff", ""), ("\r\n", "\n"), ("\r", "\n"), ("â€œ", '"'), ("â€\x9d", '"'), ("â€™", "'"),
                 ("“", '"'), ("”", '"'), ("‘", "'"), ("’", "'"), ("—", "--"), ("–", "-"),
                 ("…", "..."), ("\u00a0", " "), ("_", "")):
        text = text.replace(a, b)
    return re.sub(r"[ \t]+", " ", text)


def clean_novel(text):
    """One paragraph a line: hard-wrapped lines are joined, empty lines dropped."""
    lines = [line.strip() for line in clean(text).split("\n")]
    lengths = sorted(len(line) for line in lines if line)
    width = lengths[len(lengths) * 9 // 10]
    if width < 100:  # hard-wrapped: a nearly full line continues on the next
        text = "".join(s + (" " if len(s) > 0.6 * width else "\n") if s else "\n" for s in lines)
        lines = [line.strip() for line in text.split("\n")]
    return "\n".join(line for line in lines if line)


def load_texts(args):
    """Returns (train stories, held-out stories, train novels, held-out novels)."""
    raw = Path(args.stories).read_text(encoding="utf-8", errors="replace")
    stories = [clean(s).strip() for s in raw.split(EOT)[:-1]]  # the last one may be cut off
    stories = [s for s in stories if len(s) > 50]
    cut = len(stories) * 95 // 100
    novels, path = {}, Path(args.novels)
    if path.is_dir():
        for f in path.rglob("*.txt"):
            novels[f.stem] = f.read_text(encoding="utf-8", errors="replace")
    else:
        with tarfile.open(path) as tar:
            for m in tar:
                if m.isfile() and m.name.endswith(".txt"):
                    novels[Path(m.name).stem] = tar.extractfile(m).read().decode("utf-8", "replace")
    novels = {name: clean_novel(novels[name]) for name in sorted(novels)}
    return (stories[:cut], stories[cut:], [t for n, t in novels.items() if n not in HELD_OUT_NOVELS],
            [novels[n] for n in HELD_OUT_NOVELS])


def train_tokenizer(stories, novels):
    """Byte-level BPE (GPT-2 splitting): any text survives the round trip."""
    tok = Tokenizer(models.BPE())
    tok.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tok.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=CONFIG["vocab_size"], special_tokens=[EOT], show_progress=False,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    sample = stories * 3 + [line for n in novels for line in n[:120_000].split("\n")]
    tok.train_from_iterator(sample, trainer)
    tok.post_processor = processors.Sequence([  # encoding puts <|endoftext|> first
        processors.ByteLevel(trim_offsets=True),
        processors.TemplateProcessing(single=f"{EOT} $A", pair=f"{EOT} $A {EOT} $B", special_tokens=[(EOT, 0)])])
    return tok


def prepare(args):
    """Tokenizes everything once; returns the tokenizer and a dict of arrays (cached in WORK)."""
    work = Path(args.work)
    work.mkdir(parents=True, exist_ok=True)
    if not (work / "tokens.npz").exists():
        stories, held_stories, novels, held_novels = load_texts(args)
        tok = train_tokenizer(stories, novels)
        tok.save(str(work / "tokenizer.json"))
        data = {}
        for name, texts in (("stories", stories), ("held_stories", held_stories),
                            ("novels", novels), ("held_novels", held_novels)):
            ids = [e.ids for e in tok.encode_batch(texts)]  # each begins with <|endoftext|>
            data[name] = np.array([t for doc in ids for t in doc], dtype=np.uint16)
            data[name + "_starts"] = np.cumsum([0] + [len(doc) for doc in ids])
        newline = tok.token_to_id("Ċ")  # a paragraph starts after each newline token
        data["paragraphs"] = np.flatnonzero(data["novels"] == newline) + 1
        np.savez(work / "tokens.npz", **data)
        (work / "heldout.txt").write_text(f"\n{EOT}\n".join(held_stories[:40]) + f"\n{EOT}\n", encoding="utf-8")
    return Tokenizer.from_file(str(work / "tokenizer.json")), dict(np.load(work / "tokens.npz"))


def batch(data, step, args, decaying):
    """The training rows of one step: a function of (seed, step) alone.

    A story row is <|endoftext|> story <|endoftext|> story ... cut to length; a novel row is
    <|endoftext|> and then the text from a random paragraph on. Most steps use short rows;
    every fourth step, and all of the decay phase, use rows of the full context length."""
    rng = np.random.default_rng([args.seed, step])
    length = CONTEXT if decaying or step % 4 == 3 else 256
    rows = np.zeros((args.batch_tokens // length, length + 1), dtype=np.int64)
    share = args.decay_stories if decaying else args.stable_stories
    starts, paragraphs = data["stories_starts"], data["paragraphs"]
    for i, row in enumerate(rows):
        if i < round(share * len(rows)):
            fill = 0
            while fill < length + 1:
                s = rng.integers(len(starts) - 1)
                part = data["stories"][starts[s]:starts[s + 1]][:length + 1 - fill]
                row[fill:fill + len(part)] = part
                fill += len(part)
        else:
            s = paragraphs[rng.integers(len(paragraphs) - 1)]
            s = min(s, len(data["novels"]) - length)
            row[1:] = data["novels"][s:s + length]
    rows = torch.from_numpy(rows)
    return rows[:, :-1], rows[:, 1:]


# ---------------------------------------------------------------- the model (names as in Hugging
# Face)

class Attention(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.heads, self.kv, self.dim = c["num_attention_heads"], c["num_key_value_heads"], c["head_dim"]
        self.q_proj = nn.Linear(c["hidden_size"], self.heads * self.dim, bias=False)
        self.k_proj = nn.Linear(c["hidden_size"], self.kv * self.dim, bias=False)
        self.v_proj = nn.Linear(c["hidden_size"], self.kv * self.dim, bias=False)
        self.o_proj = nn.Linear(self.heads * self.dim, c["hidden_size"], bias=False)

    def forward(self, x, cos, sin):
        b, t, _ = x.shape
        q = self.q_proj(x).view(b, t, self.heads, self.dim).transpose(1, 2)
        k = self.k_proj(x).view(b, t, self.kv, self.dim).transpose(1, 2)
        v = self.v_proj(x).view(b, t, self.kv, self.dim).transpose(1, 2)

        def rope(u):  # rotate-half form
            a, c = u.chunk(2, dim=-1)
            return u * cos.to(u.dtype) + torch.cat((-c, a), dim=-1) * sin.to(u.dtype)

        group = self.heads // self.kv  # several query heads share a key/value head
        k, v = rope(k).repeat_interleave(group, dim=1), v.repeat_interleave(group, dim=1)
        y = F.scaled_dot_product_attention(rope(q), k, v, is_causal=True)
        return self.o_proj(y.transpose(1, 2).reshape(b, t, -1))


class MLP(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.gate_proj = nn.Linear(c["hidden_size"], c["intermediate_size"], bias=False)
        self.up_proj = nn.Linear(c["hidden_size"], c["intermediate_size"], bias=False)
        self.down_proj = nn.Linear(c["intermediate_size"], c["hidden_size"], bias=False)

    def forward(self, x):
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Layer(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.input_layernorm = nn.RMSNorm(c["hidden_size"], c["rms_norm_eps"])
        self.self_attn = Attention(c)
        self.post_attention_layernorm = nn.RMSNorm(c["hidden_size"], c["rms_norm_eps"])
        self.mlp = MLP(c)

    def forward(self, x, cos, sin):
        x = x + self.self_attn(self.input_layernorm(x), cos, sin)
        return x + self.mlp(self.post_attention_layernorm(x))


class Llama(nn.Module):
    def __init__(self, c=CONFIG):
        super().__init__()
        self.model = nn.Module()
        self.model.embed_tokens = nn.Embedding(c["vocab_size"], c["hidden_size"])
        self.model.layers = nn.ModuleList(Layer(c) for _ in range(c["num_hidden_layers"]))
        self.model.norm = nn.RMSNorm(c["hidden_size"], c["rms_norm_eps"])
        angle = torch.outer(torch.arange(c["max_position_embeddings"]).float(),
                            c["rope_theta"] ** (-torch.arange(0, c["head_dim"], 2).float() / c["head_dim"]))
        self.register_buffer("cos", torch.cat((angle, angle), 1).cos(), persistent=False)
        self.register_buffer("sin", torch.cat((angle, angle), 1).sin(), persistent=False)
        for name, p in self.named_parameters():
            if p.dim() == 2:
                out = name.endswith(("o_proj.weight", "down_proj.weight"))
                nn.init.normal_(p, std=0.02 / (math.sqrt(2 * c["num_hidden_layers"]) if out else 1))

    def forward(self, ids, targets=None):
        x, t = self.model.embed_tokens(ids), ids.shape[1]
        for layer in self.model.layers:
            x = layer(x, self.cos[:t], self.sin[:t])
        logits = F.linear(self.model.norm(x), self.model.embed_tokens.weight)  # tied
        if targets is None:
            return logits
        return F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), reduction="none").view_as(targets)


# ---------------------------------------------------------------- evaluation

def story_windows(docs, starts):
    """Each story by itself, <|endoftext|> first, cut to the context length."""
    return [docs[a:b][:CONTEXT] for a, b in zip(starts[:-1], starts[1:])]


def novel_windows(docs, starts):
    """<|endoftext|> and 511 tokens, then <|endoftext|> and the next 511 tokens, and so on."""
    step, out = CONTEXT - 1, []
    for a, b in zip(starts[:-1], starts[1:]):
        out += [np.concatenate(([0], docs[s:min(s + step, b)])) for s in range(a + 1, b, step)]
    return out


@torch.no_grad()
def nll(model, windows):
    """Summed negative log likelihood (nats) and count; every token after the first is a target."""
    total, ids = 0.0, []
    for w in windows:
        w = torch.from_numpy(w.astype(np.int64))[None]
        total += model(w[:, :-1], w[:, 1:]).double().sum().item()
        ids.append(w[0, 1:].numpy())
    return total, np.concatenate(ids)


def evaluate(args, tok, data):
    """Held-out perplexity of the EXPORTED float16 weights, computed in float32."""
    model = Llama()
    model.load_state_dict({k: v.float() for k, v in load_file(Path(args.out) / "model.safetensors").items()})
    model.eval()
    # in the byte-level alphabet every character of a token stands for one byte
    size = np.array([0 if i == 0 else len(tok.id_to_token(i)) for i in range(CONFIG["vocab_size"])])
    stories = story_windows(data["held_stories"], data["held_stories_starts"])
    shipped = [e.ids for e in tok.encode_batch([s.strip() for s in (Path(args.work) / "heldout.txt").read_text(
        encoding="utf-8").split(EOT) if s.strip()])]
    shipped = [np.array(s[:CONTEXT]) for s in shipped]
    results = {}
    for name, windows in (("stories", stories), ("heldout.txt", shipped),
                          ("novels", novel_windows(data["held_novels"], data["held_novels_starts"]))):
        total, ids = nll(model, windows)
        results[name] = dict(windows=len(windows), tokens=len(ids), nll=round(total / len(ids), 5),
                             perplexity=round(math.exp(total / len(ids)), 4),
                             bits_per_byte=round(total / math.log(2) / size[ids].sum(), 4))
        print(name, json.dumps(results[name]), flush=True)
    return results


# ---------------------------------------------------------------- training and export

def train(args, data):
    torch.manual_seed(args.seed)
    model, ckpt_path = Llama(), Path(args.work) / "checkpoint.pt"
    # Muon for the matrices of the blocks, AdamW for the (tied) embedding and the norms
    matrices = [p for n, p in model.named_parameters() if p.dim() == 2 and "embed" not in n]
    others = [p for n, p in model.named_parameters() if p.dim() != 2 or "embed" in n]
    opts = [torch.optim.Muon(matrices, lr=args.muon_lr, momentum=0.95, weight_decay=0.1,
                             adjust_lr_fn="match_rms_adamw"),
            torch.optim.AdamW(others, lr=args.adam_lr, betas=(0.9, 0.95), weight_decay=0.0)]
    base_lr = [args.muon_lr, args.adam_lr]
    step, decay_start = 0, int(args.steps * (1 - args.decay))
    if args.resume and ckpt_path.exists():
        ckpt = torch.load(ckpt_path)
        model.load_state_dict(ckpt["model"])
        for o, s in zip(opts, ckpt["opts"]):
            o.load_state_dict(s)
        step = ckpt["step"]  # a resumed run never starts its decay phase in the past
        decay_start = max(decay_start, step) if step <= ckpt["decay_start"] else ckpt["decay_start"]
    print(f"parameters {sum(p.numel() for p in model.parameters())}, story tokens {len(data['stories'])}, "
          f"novel tokens {len(data['novels'])}, steps {step}..{args.steps}, decay from {decay_start}", flush=True)
    held = {"stories": story_windows(data["held_stories"], data["held_stories_starts"])[:48],
            "novels": novel_windows(data["held_novels"], data["held_novels_starts"])[::12]}
    stop = []
    signal.signal(signal.SIGTERM, lambda *_: stop.append(1))
    losses, since, seen = [], time.time(), 0
    while step < args.steps and not stop:
        decaying = step >= decay_start
        scale = min(1.0, (step + 1) / args.warmup)
        if decaying:  # linear, to 1 % of the peak
            scale *= 1 - 0.99 * (step - decay_start + 1) / max(1, args.steps - decay_start)
        for o, lr in zip(opts, base_lr):
            for group in o.param_groups:
                group["lr"] = lr * scale
        x, y = batch(data, step, args, decaying)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=args.bf16):
            loss = model(x, y).mean()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for o in opts:
            o.step()
            o.zero_grad(set_to_none=True)
        losses.append(loss.item())
        step, seen = step + 1, seen + x.numel()
        if step % 20 == 0 or step == args.steps:
            print(f"step {step} loss {np.mean(losses):.4f} lr x{scale:.3f} {seen / (time.time() - since):.0f} tok/s "
                  f"{time.strftime('%H:%M:%S', time.gmtime())}", flush=True)
            losses, since, seen = [], time.time(), 0
        if step % 250 == 0 or step == args.steps:
            model.eval()
            scores = {k: nll(model, w) for k, w in held.items()}
            print("held out at", step, {k: round(t / len(i), 4) for k, (t, i) in scores.items()}, flush=True)
            model.train()
            since = time.time()
        if step % 100 == 0 or step == args.steps or stop:
            torch.save(dict(model=model.state_dict(), opts=[o.state_dict() for o in opts], step=step,
                            decay_start=decay_start), str(ckpt_path) + ".tmp")
            os.replace(str(ckpt_path) + ".tmp", ckpt_path)
    return not stop


def export(args, tok):
    """Writes the last checkpoint in Hugging Face form, weights rounded to float16."""
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    ckpt = torch.load(Path(args.work) / "checkpoint.pt")
    tensors = {k: v.to(torch.float16).contiguous() for k, v in ckpt["model"].items()}
    for name, t in tensors.items():
        assert torch.isfinite(t).all() and t.float().abs().max() < 1000, name
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
    os.chmod(out / "model.safetensors", 0o644)
    tok.save(str(out / "tokenizer.json"))
    for name, content in (
            ("config.json", CONFIG),
            ("generation_config.json", dict(bos_token_id=0, eos_token_id=0, pad_token_id=0,
                                            do_sample=True, temperature=0.8, max_length=CONTEXT)),
            ("tokenizer_config.json", dict(
                tokenizer_class="PreTrainedTokenizerFast", model_max_length=CONTEXT, bos_token=EOT, eos_token=EOT,
                unk_token=EOT, pad_token=EOT, add_bos_token=True, add_eos_token=False,
                clean_up_tokenization_spaces=False, added_tokens_decoder={"0": dict(
                    content=EOT, lstrip=False, normalized=False, rstrip=False, single_word=False, special=True)}))):
        (out / name).write_text(json.dumps(content, indent=2) + "\n")
    print(f"exported step {ckpt['step']} to {out}")


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--stories", required=True, help="text file, stories separated by <|endoftext|>")
    p.add_argument("--novels", required=True, help="folder or tar archive of *.txt")
    p.add_argument("--work", required=True, help="folder for token caches and the checkpoint")
    p.add_argument("--out", default="storyteller-6m", help="folder for the exported model")
    p.add_argument("--steps", type=int, default=5000)
    p.add_argument("--resume", action="store_true", help="continue from the checkpoint in WORK")
    p.add_argument("--export-only", action="store_true")
    p.add_argument("--evaluate", action="store_true", help="held-out perplexity of the exported model")
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--batch-tokens", type=int, default=4096)
    p.add_argument("--warmup", type=int, default=100)
    p.add_argument("--decay", type=float, default=0.3, help="share of the steps in the decay phase")
    p.add_argument("--muon-lr", type=float, default=4e-3)
    p.add_argument("--adam-lr", type=float, default=3e-3)
    p.add_argument("--stable-stories", type=float, default=0.3, help="share of story rows before the decay")
    p.add_argument("--decay-stories", type=float, default=0.5, help="share of story rows in the decay phase")
    p.add_argument("--bf16", action=argparse.BooleanOptionalAction, default=True, help="bfloat16 autocast")
    args = p.parse_args()
    torch.set_num_threads(args.threads)
    tok, data = prepare(args)
    if not args.evaluate and (args.export_only or train(args, data)):
        export(args, tok)
    if args.evaluate:
        evaluate(args, tok, data)


if __name__ == "__main__":
    main()
