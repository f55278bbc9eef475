"""ci/families.py [NAME...]: tiny random models of every family that we run, and what `transformers` makes of them.

For every family a folder as Hugging Face has it (config.json, model.safetensors) and `expected.safetensors`: input ids, and the outputs
of PyPI's `transformers` in float32 with its eager attention. `qruntime/tests/families.rs` holds ours to them.

Two outputs are recorded for each input. `logits` is what the model is. `logits_f16_cache` is the same with keys and values rounded to
half precision before attention, as our cache keeps them: from that we may differ by the rounding of `f32` alone, so a wrong epsilon or
scale cannot hide behind the rounding of the cache. For encoders `embedding` and `embedding_f16_cache`.

The models are random, but of a size at which everything matters: activations near one, logits of a few units, norms around one, large
epsilons, windows and original contexts shorter than the inputs, soft caps in reach of the scores. An expert's place among the chosen is
never decided by less than MARGIN, because there rounding would decide. The same bytes come out whenever it runs on the same machine.

Called by ci/families.sh, which installs what it needs.
"""

import copy
import json
import shutil
import sys
import tempfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import AttentionInterface, AttentionMaskInterface, AutoConfig, AutoModel, AutoModelForCausalLM
from transformers.masking_utils import eager_mask

FOLDER = Path(__file__).parent.parent / "qruntime/tests/data/families"

# Least distance between the scores of the last expert that is chosen and the first that is not. The
# rounding of the cache moves scores by some thousandths.
MARGIN = 0.02


@dataclass
class Family:
    """One model: its configuration as hubs have it, how it is stored, and the lengths of its inputs."""

    config: dict
    dtype: torch.dtype = torch.float16
    lengths: tuple = (30,)
    # Names and config.json as transformers 5 holds them: experts in one tensor, `rope_parameters`,
    # `dtype`.
    new_names: bool = False
    new_config: bool = False
    # The file has an output head, whatever config.json says.
    own_head: bool = False
    # An encoder's pooling, and whether it normalizes.
    pooling: str | None = None
    normalize: bool = False


def decoder(architecture, model_type, **changes):
    """A configuration that most decoders share: grouped-query attention, head sizes that are no multiple of 16."""
    config = {
        "architectures": [architecture],
        "model_type": model_type,
        "vocab_size": 61,
        "hidden_size": 40,
        "intermediate_size": 56,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "hidden_act": "silu",
        "max_position_embeddings": 64,
        "rms_norm_eps": 0.01,
        "rope_theta": 500.0,
        "tie_word_embeddings": False,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "use_cache": True,
    }
    config.update(changes)
    return {name: value for name, value in config.items() if value is not None}


def gemma(architecture, model_type, **changes):
    """What Gemmas share."""
    shared = {"head_dim": 24, "hidden_act": None, "hidden_activation": "gelu_pytorch_tanh", "tie_word_embeddings": True}
    shared |= {"query_pre_attn_scalar": 20, "sliding_window": 10, "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 1}
    return decoder(architecture, model_type, **(shared | {"attention_bias": False} | changes))


def qwen_moe(architecture, model_type, **changes):
    """What mixtures of experts by Qwen share."""
    shared = {"hidden_size": 32, "num_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 12, "decoder_sparse_step": 1}
    return decoder(architecture, model_type, **(shared | {"intermediate_size": 48, "mlp_only_layers": []} | changes))


def bert(**changes):
    """A small BERT."""
    config = {
        "architectures": ["BertModel"],
        "model_type": "bert",
        "vocab_size": 70,
        "hidden_size": 36,
        "intermediate_size": 56,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "hidden_act": "gelu",
        "max_position_embeddings": 48,
        "type_vocab_size": 2,
        "layer_norm_eps": 0.001,
        "position_embedding_type": "absolute",
        "pad_token_id": 0,
    }
    return config | changes


LLAMA = ("LlamaForCausalLM", "llama")
MIXTRAL = decoder("MixtralForCausalLM", "mixtral", hidden_size=32, head_dim=16, intermediate_size=24, num_local_experts=4,
                  num_experts_per_tok=2, sliding_window=None)
QWEN3_MOE = ("Qwen3MoeForCausalLM", "qwen3_moe")
GRANITE = {"embedding_multiplier": 4.0, "attention_multiplier": 0.2, "residual_multiplier": 0.6, "logits_scaling": 1.5,
           "attention_bias": False, "tie_word_embeddings": True}
LLAMA3_ROPE = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 32}
LONGROPE = {"type": "longrope", "short_factor": [1.0, 1.1, 1.2, 1.4, 1.7], "long_factor": [1.0, 1.3, 2.0, 3.5, 6.0]}

FAMILIES = {
    "llama": Family(decoder(*LLAMA, tie_word_embeddings=True)),
    "llama-bias": Family(decoder(*LLAMA, hidden_size=24, head_dim=12, attention_bias=True, mlp_bias=True), torch.float32, new_config=True),
    "llama-rope-llama3": Family(decoder(*LLAMA, head_dim=24, rope_scaling=LLAMA3_ROPE), torch.bfloat16, (40,)),
    "llama-rope-linear": Family(decoder(*LLAMA, tie_word_embeddings=True, rope_scaling={"type": "linear", "factor": 4.0})),
    # What people do to files by hand: a head that was trained on, and rotations for a longer
    # context.
    "llama-own-head": Family(decoder(*LLAMA, tie_word_embeddings=True), own_head=True),
    "llama-rope-both": Family(decoder(*LLAMA, tie_word_embeddings=True, rope_theta=None, rope_scaling={
        "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16},
        rope_parameters={"rope_type": "default", "rope_theta": 77.0})),
    "mistral": Family(decoder("MistralForCausalLM", "mistral", head_dim=24, sliding_window=10), torch.bfloat16),
    # A window that is there but not in use.
    "qwen2": Family(decoder("Qwen2ForCausalLM", "qwen2", tie_word_embeddings=True, use_sliding_window=False, sliding_window=6,
                            max_window_layers=1)),
    "qwen2-window": Family(decoder("Qwen2ForCausalLM", "qwen2", num_hidden_layers=3, use_sliding_window=True, sliding_window=9,
                                   max_window_layers=1), torch.bfloat16),
    "qwen2-yarn": Family(decoder("Qwen2ForCausalLM", "qwen2", rope_theta=10000.0, use_sliding_window=False, rope_scaling={
        "type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16})),
    "qwen3": Family(decoder("Qwen3ForCausalLM", "qwen3", head_dim=24, attention_bias=False, tie_word_embeddings=True)),
    "gemma2": Family(gemma("Gemma2ForCausalLM", "gemma2", attn_logit_softcapping=3.0, final_logit_softcapping=4.0)),
    "gemma3": Family(gemma("Gemma3ForCausalLM", "gemma3_text", num_hidden_layers=4, hidden_size=24, sliding_window_pattern=3,
                           rope_theta=10000.0, rope_local_base_freq=100.0, rope_scaling={"rope_type": "linear", "factor": 8.0}),
                     torch.bfloat16),
    "gemma3-new-config": Family(gemma("Gemma3ForCausalLM", "gemma3_text", sliding_window_pattern=2, rope_theta=10000.0,
                                      rope_local_base_freq=100.0), new_config=True),
    # One of the caps is never applied.
    "gemma3-capped": Family(gemma("Gemma3ForCausalLM", "gemma3_text", sliding_window_pattern=2, rope_theta=10000.0,
                                  rope_local_base_freq=100.0, attn_logit_softcapping=2.0, final_logit_softcapping=4.0)),
    "phi3": Family(decoder("Phi3ForCausalLM", "phi3", hidden_size=48, num_attention_heads=3, num_key_value_heads=1, sliding_window=10,
                           partial_rotary_factor=0.75, pad_token_id=0)),
    # Its frequencies depend on the length of the input: two inputs.
    "phi3-longrope": Family(decoder("Phi3ForCausalLM", "phi3", original_max_position_embeddings=16, rope_scaling=LONGROPE,
                                    tie_word_embeddings=True, pad_token_id=0), torch.bfloat16, (30, 12)),
    "mixtral": Family(MIXTRAL),
    "mixtral-fused": Family(MIXTRAL | {"sliding_window": 10}, torch.bfloat16, new_names=True, new_config=True),
    "qwen2-moe": Family(qwen_moe("Qwen2MoeForCausalLM", "qwen2_moe", shared_expert_intermediate_size=36, norm_topk_prob=False)),
    # Only every other of the first layers sees the window; every other layer has experts.
    "qwen2-moe-window": Family(qwen_moe("Qwen2MoeForCausalLM", "qwen2_moe", shared_expert_intermediate_size=20, num_hidden_layers=4,
                                        use_sliding_window=True, sliding_window=7, max_window_layers=3, decoder_sparse_step=2)),
    # With a window of 0, which is not in use.
    "qwen2-moe-fused": Family(qwen_moe("Qwen2MoeForCausalLM", "qwen2_moe", shared_expert_intermediate_size=20, norm_topk_prob=True),
                              torch.bfloat16, new_names=True, new_config=True),
    "qwen3-moe": Family(qwen_moe(*QWEN3_MOE, head_dim=12, norm_topk_prob=True, num_hidden_layers=3, mlp_only_layers=[1])),
    "qwen3-moe-fused": Family(qwen_moe(*QWEN3_MOE, head_dim=12, norm_topk_prob=False), torch.bfloat16, new_names=True, new_config=True),
    # Heads share the hidden size, other than with Qwen 3.
    "qwen3-moe-default-heads": Family(qwen_moe(*QWEN3_MOE)),
    "granite": Family(decoder("GraniteForCausalLM", "granite", **GRANITE)),
    "granitemoe": Family(decoder("GraniteMoeForCausalLM", "granitemoe", **(GRANITE | {
        "hidden_size": 32, "intermediate_size": 20, "num_local_experts": 6, "num_experts_per_tok": 3}))),
    "granitemoe-fused": Family(decoder("GraniteMoeForCausalLM", "granitemoe", **(GRANITE | {
        "hidden_size": 32, "intermediate_size": 20, "num_local_experts": 6, "num_experts_per_tok": 3})), torch.bfloat16, new_names=True,
        new_config=True),
    "bert-mean": Family(bert(), torch.float32, (24, 5, 40), pooling="mean", normalize=True),
    "bert-causal": Family(bert(is_decoder=True), torch.float32, (24, 5, 40), pooling="mean"),
    "bert-cls": Family(bert(hidden_size=40, type_vocab_size=1, intermediate_size=72), torch.float16, (24, 1, 40), pooling="cls"),
}


def generator(*key):
    """Random numbers that depend on the key alone."""
    return np.random.default_rng(zlib.crc32("/".join(map(str, key)).encode()))


def draw(name, shape, model_type, random):
    """A tensor of a size that makes its layer's outputs as large as its inputs, or a little larger."""
    noise = torch.from_numpy(random.standard_normal(shape)).float()
    if name.endswith("bias"):
        return 0.3 * noise
    if "norm" in name.lower():
        return 0.2 * noise + (0.0 if model_type.startswith("gemma") else 1.0)  # Gemmas add the one themselves.
    if "embed" in name:
        return noise * 2 / shape[-1] ** 0.5 if "position" not in name and "token_type" not in name else 0.2 * noise
    gain = 3.0 if name.endswith(("mlp.gate.weight", "router.weight")) else 1.5
    return gain * noise / shape[-1] ** 0.5


def write_model(name, family, folder, attempt):
    """Writes config.json and model.safetensors."""
    arguments = copy.deepcopy(family.config)  # It changes what it is given.
    if family.own_head:
        arguments["tie_word_embeddings"] = False
    config = AutoConfig.for_model(arguments.pop("model_type"), **arguments)
    kind = AutoModel if family.pooling else AutoModelForCausalLM
    model = kind.from_config(config)
    with torch.no_grad():
        for tensor, parameter in model.named_parameters():
            values = draw(tensor, parameter.shape, config.model_type, generator(name, tensor, attempt))
            parameter.copy_(values.to(family.dtype))
    with tempfile.TemporaryDirectory() as saved:
        model.to(family.dtype).save_pretrained(saved, save_original_format=not family.new_names)
        shutil.copy(Path(saved) / "model.safetensors", folder)
        if family.new_config:
            shutil.copy(Path(saved) / "config.json", folder)
            return
    write_json(folder / "config.json", family.config | {"torch_dtype": str(family.dtype).removeprefix("torch.")})


def write_json(path, value):
    path.write_text(json.dumps(value, indent=2) + "\n")


def write_pooling(family, folder):
    """What sentence-transformers adds to an encoder's folder."""
    modules = ["models.Transformer", "models.Pooling"] + ["models.Normalize"] * family.normalize
    places = ["", "1_Pooling", "2_Normalize"]
    described = [
        {"idx": i, "name": str(i), "path": places[i], "type": f"sentence_transformers.{module}"} for i, module in enumerate(modules)
    ]
    write_json(folder / "modules.json", described)
    write_json(folder / "sentence_bert_config.json", {"max_seq_length": family.config["max_position_embeddings"], "do_lower_case": False})
    modes = {"cls": "cls_token", "mean": "mean_tokens"}
    pooling = {f"pooling_mode_{word}": modes[family.pooling] == word for word in ("cls_token", "mean_tokens", "max_tokens")}
    (folder / "1_Pooling").mkdir()
    write_json(folder / "1_Pooling/config.json", {"word_embedding_dimension": family.config["hidden_size"]} | pooling)


def attend_f16_cache(module, query, key, value, mask, **options):
    """The model's own eager attention, to keys and values in half precision."""
    eager = sys.modules[type(module).__module__].eager_attention_forward
    return eager(module, query, key.half().float(), value.half().float(), mask, **options)


AttentionInterface.register("f16_cache", attend_f16_cache)
AttentionMaskInterface.register("f16_cache", eager_mask)


def watch_routers(model):
    """A list that the distance between the chosen experts' scores and the others' will be added to."""
    margins = []

    def hook(router, _, output):
        scores = output[0].sort(descending=True).values
        margins.append((scores[:, router.top_k - 1] - scores[:, router.top_k]).min().item())

    for module in model.modules():
        if type(module).__name__.endswith("TopKRouter"):
            module.register_forward_hook(hook)
    return margins


def outputs(family, folder, attention, inputs):
    """What the model in a folder makes of inputs, and the least margin of a choice of experts."""
    kind = AutoModel if family.pooling else AutoModelForCausalLM
    options = {"experts_implementation": "eager"} if "experts" in json.dumps(family.config) else {}
    model, info = kind.from_pretrained(
        folder, dtype=torch.float32, attn_implementation=attention, output_loading_info=True, **options
    )
    assert not any(info.values()), f"{folder.name}: {info}"
    margins = watch_routers(model)
    results = []
    with torch.no_grad():
        for ids in inputs:
            if family.pooling is None:
                results.append(model(ids[None], use_cache=False).logits[0].contiguous())
                continue
            hidden = model(ids[None]).last_hidden_state[0]
            pooled = hidden[0] if family.pooling == "cls" else hidden.mean(0)
            results.append(torch.nn.functional.normalize(pooled, dim=0) if family.normalize else pooled.clone())
    return results, min(margins, default=float("inf"))


def make(name, family, folder, attempt):
    """Writes a family's folder; false if a choice of experts is too close."""
    write_model(name, family, folder, attempt)
    if family.pooling:
        write_pooling(family, folder)
    random = generator(name, "input", attempt)
    inputs = [torch.from_numpy(random.integers(3, family.config["vocab_size"], length)) for length in family.lengths]
    what = "embedding" if family.pooling else "logits"
    expected = {f"input_ids.{i}": ids for i, ids in enumerate(inputs)}
    for suffix, attention in ("", "eager"), ("_f16_cache", "f16_cache"):
        results, margin = outputs(family, folder, attention, inputs)
        if margin < MARGIN:
            return False
        expected |= {f"{what}{suffix}.{i}": result for i, result in enumerate(results)}
    save_file(expected, folder / "expected.safetensors", {"made_by": f"transformers {transformers.__version__}, torch {torch.__version__}"})
    return True


def describe(name, family, folder):
    """A line about a family: sizes, and what the rounding of the cache alone does."""
    expected = load_file(folder / "expected.safetensors")
    what = "embedding" if family.pooling else "logits"
    pairs = [(expected[f"{what}.{i}"], expected[f"{what}_f16_cache.{i}"]) for i in range(len(family.lengths))]
    spread = torch.cat([pair[0].flatten() for pair in pairs])
    moved = max((a - b).abs().max().item() for a, b in pairs)
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    print(f"{name:20} {size:7} bytes, {what} {spread.std():.3f} rms, {spread.abs().max():.3f} at most; an f16 cache moves them {moved:.1e}")
    return size


def main():
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    names = sys.argv[1:] or list(FAMILIES)
    total = 0
    for name in names:
        family, folder = FAMILIES[name], FOLDER / name
        for attempt in range(1000):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            if make(name, family, folder, attempt):
                break
        else:
            sys.exit(f"{name}: every choice of weights has experts that are too close")
        total += describe(name, family, folder)
    print(f"{total} bytes")


if __name__ == "__main__":
    main()
