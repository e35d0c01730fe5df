"""Random small models of every architecture, for runs that look for what the fixed references do not show: shapes, rotary scalings,
biases, tied heads and dtypes differ by seed.  Nothing here is kept in the tree.

    from random_models import make
    config = make(seed, "qwen3", "/tmp/model", wide=False)     a directory of transformers, with a tokenizer
"""
import os
import random
import shutil

import torch
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config

HERE = os.path.dirname(os.path.abspath(__file__))
TOKENIZERS = os.path.join(HERE, "..", "reference", "tokenizers")
ARCHITECTURES = ["llama", "mistral", "qwen2", "qwen3", "gpt2"]
CLASSES = {"llama": LlamaConfig, "mistral": MistralConfig, "qwen2": Qwen2Config, "qwen3": Qwen3Config}
VOCABULARY = 1024  # the tokenizers have fewer; the rest is padding


def rotary(rng, head_dim, positions, kinds):
    kind = rng.choice(kinds)
    theta = rng.choice([100.0, 10000.0, 500000.0])
    if kind == "default":
        return dict(rope_type="default", rope_theta=theta)
    if kind == "linear":
        return dict(rope_type="linear", rope_theta=theta, factor=rng.choice([2.0, 3.5]))
    original = rng.choice([positions // 4, 1000]) if kind == "longrope" else positions // 4
    if kind == "llama3":
        return dict(rope_type="llama3", rope_theta=theta, factor=rng.choice([4.0, 8.0, 32.0]), low_freq_factor=1.0,
                    high_freq_factor=rng.choice([2.0, 4.0]), original_max_position_embeddings=original)
    if kind == "yarn":
        rope = dict(rope_type="yarn", rope_theta=theta, factor=4.0, original_max_position_embeddings=original)
        if rng.random() < 0.5:
            rope.update(beta_fast=rng.choice([16.0, 32.0]), beta_slow=rng.choice([1.0, 2.0]))
        if rng.random() < 0.3:
            rope.update(attention_factor=rng.choice([1.0, 1.2]))
        return rope
    lists = [[round(rng.uniform(1.0, 4.0), 3) for _ in range(head_dim // 2)] for _ in range(2)]
    return dict(rope_type="longrope", rope_theta=theta, factor=4.0, original_max_position_embeddings=original,
                short_factor=lists[0], long_factor=lists[1])


def settings(rng, architecture, wide, kinds):
    """`wide`: rows of whole blocks of 256."""
    kv = rng.choice([1, 2] if wide else [1, 2, 3])
    heads = kv * rng.choice([1, 2, 4])
    head_dim = rng.choice([32, 64] if wide else [10, 12, 16, 18, 20, 32])
    width = 256 if wide else heads * rng.choice([4, 6, 8, 10, 16, 24])
    if architecture == "gpt2":
        heads = rng.choice([2, 4])
        width += -width % heads
        return GPT2Config(vocab_size=VOCABULARY, n_positions=128, n_embd=width, n_layer=rng.choice([1, 2, 3]), n_head=heads,
                          n_inner=256 if wide else rng.choice([None, 40, 72]), bos_token_id=1, eos_token_id=2,
                          activation_function=rng.choice(["gelu_new", "gelu_pytorch_tanh"]), layer_norm_epsilon=rng.choice([1e-5, 1e-6]))
    common = dict(vocab_size=VOCABULARY, hidden_size=width, intermediate_size=256 if wide else rng.choice([40, 56, 96]),
                  num_hidden_layers=rng.choice([1, 2, 3, 9]), num_attention_heads=heads, num_key_value_heads=kv, head_dim=head_dim,
                  max_position_embeddings=128, rms_norm_eps=rng.choice([1e-5, 1e-6]), tie_word_embeddings=rng.random() < 0.5,
                  bos_token_id=1, eos_token_id=2, pad_token_id=None, rope_parameters=rotary(rng, head_dim, 128, kinds))
    if architecture == "llama":
        common.update(attention_bias=rng.random() < 0.3, mlp_bias=rng.random() < 0.3)
    if architecture == "qwen2":
        common.update(hidden_size=256 if wide else heads * head_dim)  # llama.cpp knows no others
        del common["head_dim"]
    if architecture == "qwen3":
        common.update(attention_bias=rng.random() < 0.3)
    if architecture == "mistral":
        common.update(sliding_window=None)
    return CLASSES[architecture](**common)


def make(seed, architecture, path, wide=False, kinds=("default", "linear", "llama3", "yarn"), dtype=None, tokenizer=None, shards=False):
    rng = random.Random(f"{seed} {architecture}")
    torch.manual_seed(seed)
    config = settings(rng, architecture, wide, list(kinds))
    dtype = dtype or rng.choice([torch.float32, torch.bfloat16, torch.float16])
    model = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim > 1:
                weight.copy_(torch.randn_like(weight) * 1.2 / weight.shape[-1] ** 0.5)
            elif name.endswith("bias"):
                weight.copy_(torch.randn_like(weight) * 0.2)
            else:
                weight.copy_(1 + 0.2 * torch.randn_like(weight))
    model.to(dtype).save_pretrained(path, **(dict(max_shard_size="100KB") if shards else {}))
    name = tokenizer or {"qwen2": "qwen2", "qwen3": "qwen2", "gpt2": "gpt2"}.get(architecture, "llama3")
    shutil.copy(os.path.join(TOKENIZERS, name + ".json"), os.path.join(path, "tokenizer.json"))
    return config
