#!/usr/bin/env python3
"""Tiny random models and what transformers computes with them.

Writes <out>/<name>/{config.json, model.safetensors, expected.safetensors} for each architecture.
expected.safetensors holds
    input_ids, labels, attention_mask   i64 (2, 17); labels have some -100; the second row of the mask is padded
    logits, loss                        f32, all positions attended
    logits_masked, loss_masked          f32, with attention_mask and labels_masked (labels, and -100 where masked);
                                        the logits at masked positions mean nothing
    grad.<parameter>                    f32, gradient of `loss`
    greedy                              i64 (12), greedy continuation of input_ids[0, :5]
Some config.json are rewritten in the style of transformers 4 (OLD_STYLE), or have such a twin (BOTH_STYLES).
Weights are drawn larger than a default initialisation so that a wrong term shows; they are stored in the
dtype named in the table and raised to f32 for the arithmetic (eager attention).

The mask is right-padded for GPT-2 and left-padded elsewhere; position ids follow transformers' forward, which
counts 0..T-1 whatever the mask says (generate() would shift them).
"""
import argparse
import json
import os
import shutil

import torch
from safetensors.torch import save_file
from transformers import (AutoModelForCausalLM, GPT2Config, LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config)

BATCH, LENGTH, PROMPT, CONTINUATION = 2, 17, 5, 12

COMMON = dict(vocab_size=96, hidden_size=32, intermediate_size=56, num_hidden_layers=2, num_attention_heads=4,
              num_key_value_heads=2, max_position_embeddings=64, rms_norm_eps=1e-5, tie_word_embeddings=False,
              bos_token_id=1, eos_token_id=2, pad_token_id=None, attention_dropout=0.0)


def common(**changes):
    return {**COMMON, **changes}


# name: (config, stored dtype, maximum shard size)
MODELS = {
    "llama2": (LlamaConfig(**common(num_key_value_heads=4, hidden_size=48)), torch.float32, None),
    "llama3": (LlamaConfig(**common(
        tie_word_embeddings=True, num_hidden_layers=3, hidden_size=48, max_position_embeddings=128,
        rope_parameters=dict(rope_type="llama3", rope_theta=500000.0, factor=8.0, low_freq_factor=1.0,
                             high_freq_factor=4.0, original_max_position_embeddings=32))), torch.bfloat16, None),
    "mistral": (MistralConfig(**common(sliding_window=8)), torch.float32, None),
    "qwen2": (Qwen2Config(**common(rms_norm_eps=1e-6, tie_word_embeddings=True)), torch.float32, None),
    "qwen3": (Qwen3Config(**common(rms_norm_eps=1e-6, head_dim=12)), torch.float32, None),
    "smollm": (LlamaConfig(**common(tie_word_embeddings=True, hidden_size=48, num_attention_heads=3, num_key_value_heads=1,
                                    num_hidden_layers=3)), torch.bfloat16, None),
    "llama_sharded": (LlamaConfig(**common()), torch.float16, "16KB"),
    "llama_linear_rope": (LlamaConfig(**common(
        rope_parameters=dict(rope_type="linear", rope_theta=10000.0, factor=2.0))), torch.float32, None),
    "llama_yarn_rope": (LlamaConfig(**common(
        rope_parameters=dict(rope_type="yarn", rope_theta=10000.0, factor=4.0,
                             original_max_position_embeddings=16))), torch.float32, None),
    "gpt2": (GPT2Config(vocab_size=96, n_positions=32, n_embd=32, n_layer=2, n_head=4, resid_pdrop=0.0, embd_pdrop=0.0,
                        attn_pdrop=0.0, bos_token_id=1, eos_token_id=2), torch.float32, None),
    "llama_biases": (LlamaConfig(**common(
        vocab_size=48, hidden_size=24, num_attention_heads=3, num_key_value_heads=1, head_dim=10, intermediate_size=20,
        attention_bias=True, mlp_bias=True, hidden_act="relu")), torch.float32, None),
    "gpt2_scaled": (GPT2Config(vocab_size=48, n_positions=32, n_embd=30, n_layer=2, n_head=3, n_inner=17, activation_function="relu",
                               scale_attn_by_inverse_layer_idx=True, reorder_and_upcast_attn=True, tie_word_embeddings=False,
                               resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, bos_token_id=1, eos_token_id=2), torch.float32, None),
}

OLD_STYLE = ["mistral", "smollm", "llama_linear_rope"]  # config.json rewritten with the keys of transformers 4
BOTH_STYLES = ["llama3", "llama_yarn_rope"]             # config_v4.json beside it says the same with the keys of transformers 4

# Parameters whose gradient is recorded, when the model has them.
GRADIENTS = [
    "model.embed_tokens.weight", "lm_head.weight", "model.norm.weight",
    "model.layers.0.input_layernorm.weight", "model.layers.0.self_attn.q_proj.weight",
    "model.layers.0.self_attn.q_proj.bias", "model.layers.0.self_attn.q_norm.weight",
    "model.layers.0.self_attn.k_proj.weight", "model.layers.0.self_attn.k_proj.bias",
    "model.layers.1.self_attn.v_proj.weight", "model.layers.1.self_attn.k_norm.weight",
    "model.layers.1.post_attention_layernorm.weight", "model.layers.1.mlp.down_proj.weight",
    "transformer.wte.weight", "transformer.wpe.weight", "transformer.ln_f.weight", "transformer.ln_f.bias",
    "transformer.h.0.ln_1.weight", "transformer.h.0.attn.c_attn.weight", "transformer.h.0.attn.c_attn.bias",
    "transformer.h.1.mlp.c_fc.bias", "transformer.h.1.mlp.c_proj.weight",
]


def randomise(model, generator):
    """Norm weights 1 + noise, biases noise, everything else std 0.15."""
    for name, p in model.named_parameters():
        noise = torch.randn(p.shape, generator=generator)
        is_norm = p.dim() == 1 and name.endswith("weight")
        p.data = 1 + 0.2 * noise if is_norm else 0.15 * noise


def batch(vocabulary, generator, pad_right):
    ids = torch.randint(3, vocabulary, (BATCH, LENGTH), generator=generator)
    labels = ids.clone()
    labels[0, :4] = -100
    labels[1, 9] = -100
    mask = torch.ones_like(ids)
    if pad_right:
        mask[1, -5:] = 0
    else:
        mask[1, :5] = 0
    return ids, labels, mask


def check_mask(model, ids, mask, logits):
    """A padded row must equal the same row without its padding (positions matter only relatively, or are on the right)."""
    kept = mask[1] == 1
    alone = model(input_ids=ids[1:, kept], use_cache=False).logits
    torch.testing.assert_close(logits[1:, kept], alone, rtol=1e-4, atol=1e-4)


def expected(model, generator, pad_right):
    ids, labels, mask = batch(model.config.vocab_size, generator, pad_right)
    out = model(input_ids=ids, labels=labels, use_cache=False)
    out.loss.backward()
    tensors = dict(input_ids=ids, labels=labels, attention_mask=mask, logits=out.logits.detach(),
                   loss=out.loss.detach())
    parameters = dict(model.named_parameters())
    for name in GRADIENTS:
        if name in parameters:
            tensors["grad." + name] = parameters[name].grad
    with torch.no_grad():
        masked_labels = labels.masked_fill(mask == 0, -100)
        out = model(input_ids=ids, attention_mask=mask, labels=masked_labels, use_cache=False)
        tensors.update(logits_masked=out.logits, loss_masked=out.loss, labels_masked=masked_labels)
        check_mask(model, ids, mask, out.logits)
        sequence = ids[:1, :PROMPT]
        for _ in range(CONTINUATION):
            last = model(input_ids=sequence, use_cache=False).logits[:, -1]
            best = last.topk(2, -1).values[0]
            assert best[0] - best[1] > 5e-4, "greedy continuation too close to a tie: change the seed"
            sequence = torch.cat([sequence, last.argmax(-1, keepdim=True)], 1)
    tensors["greedy"] = sequence[0, PROMPT:]
    return {k: v.clone().contiguous() for k, v in tensors.items()}


def version_4(config):
    """The same config.json as transformers 4 wrote it: rope_theta, rope_scaling and torch_dtype at the top."""
    old = {k: v for k, v in config.items() if k not in ("rope_parameters", "dtype", "head_dim", "layer_types")}
    rope = dict(config["rope_parameters"])
    old.update(rope_theta=rope.pop("rope_theta"), torch_dtype=config["dtype"], transformers_version="4.43.0")
    kind = rope.pop("rope_type")
    if kind == "linear":
        old["rope_scaling"] = {"type": kind, **rope}  # the key before 4.43
    else:
        old["rope_scaling"] = None if kind == "default" else {"rope_type": kind, **rope}
    return old


def write_old_style(path, name):
    with open(os.path.join(path, "config.json")) as f:
        old = version_4(json.load(f))
    target = "config.json" if name in OLD_STYLE else "config_v4.json"
    with open(os.path.join(path, target), "w") as f:
        json.dump(old, f, indent=2, sort_keys=True)
        f.write("\n")


def load_f32(path):
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, attn_implementation="eager")
    return model.train()  # every dropout is 0; train() keeps the gradient path of the ordinary forward


def main():
    here = os.path.dirname(os.path.abspath(__file__))
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", default=os.path.join(here, "..", "reference", "models"))
    parser.add_argument("--only", nargs="*", help="names to make (default: all)")
    args = parser.parse_args()
    torch.set_num_threads(1)

    for index, (name, (config, dtype, shard)) in enumerate(MODELS.items()):
        if args.only and name not in args.only:
            continue
        path = os.path.join(args.out, name)
        shutil.rmtree(path, ignore_errors=True)
        generator = torch.Generator().manual_seed(1000 + index)
        torch.manual_seed(index)
        model = AutoModelForCausalLM.from_config(config)
        randomise(model, generator)
        model.to(dtype).save_pretrained(path, **({"max_shard_size": shard} if shard else {}))
        extra = os.path.join(path, "generation_config.json")
        if os.path.exists(extra):
            os.remove(extra)
        if name in OLD_STYLE + BOTH_STYLES:
            write_old_style(path, name)
        tensors = expected(load_f32(path), generator, pad_right=name.startswith("gpt2"))
        save_file(tensors, os.path.join(path, "expected.safetensors"))
        for file in os.listdir(path):
            os.chmod(os.path.join(path, file), 0o644)
        size = sum(os.path.getsize(os.path.join(path, f)) for f in os.listdir(path))
        print(json.dumps(dict(model=name, bytes=size, loss=round(tensors["loss"].item(), 4),
                              greedy=tensors["greedy"].tolist())))


if __name__ == "__main__":
    main()
