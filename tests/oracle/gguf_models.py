#!/usr/bin/env python3
"""Reference models of models.py as GGUF files, made with the `gguf` package: its writer, its names of tensors and its quantisations.

Writes <out>/<name>.gguf.  The logits to compare with are those of models/<name>/expected.safetensors.  The rows of q and k of Llama's
architecture are put into the order of Meta's files, and Llama 3's rotary scaling becomes the tensor rope_freqs.weight, as llama.cpp's
converter does it.
"""
import argparse
import json
import math
import os

import gguf
import numpy as np
import torch
from safetensors.torch import load_file

HERE = os.path.dirname(os.path.abspath(__file__))
MODELS = os.path.join(HERE, "..", "reference", "models")
# name: GGUF's architecture and the type of matrices
FILES = {
    "llama3": ("llama", "BF16"),
    "llama_sharded": ("llama", "F16"),
    "llama_yarn_rope": ("llama", "F32"),
    "qwen2": ("qwen2", "F32"),
    "qwen3": ("qwen3", "F32"),
    "gpt2": ("gpt2", "F32"),
}
ARCHITECTURES = {"llama": gguf.MODEL_ARCH.LLAMA, "qwen2": gguf.MODEL_ARCH.QWEN2, "qwen3": gguf.MODEL_ARCH.QWEN3, "gpt2": gguf.MODEL_ARCH.GPT2}


def tensors_of(path):
    files = [f for f in sorted(os.listdir(path)) if f.startswith("model") and f.endswith(".safetensors")]
    return {k: v for f in files for k, v in load_file(os.path.join(path, f)).items()}


def neighbouring(weights, heads):
    """Rows j and j + H/2 of a head become rows 2j and 2j + 1."""
    return weights.reshape(heads, 2, weights.shape[0] // heads // 2, *weights.shape[1:]).swapaxes(1, 2).reshape(weights.shape)


def llama3_factors(rope, head_dim):
    low, high, factor = rope["low_freq_factor"], rope["high_freq_factor"], rope["factor"]
    context, out = rope["original_max_position_embeddings"], []
    for i in range(0, head_dim, 2):
        wavelength = 2 * math.pi * rope["rope_theta"] ** (i / head_dim)
        smooth = (context / wavelength - low) / (high - low)
        out.append(1 if wavelength < context / high else factor if wavelength > context / low else 1 / ((1 - smooth) / factor + smooth))
    return np.array(out, dtype=np.float32)


def write_settings(writer, config, architecture):
    if architecture == "gpt2":
        writer.add_context_length(config["n_positions"])
        writer.add_embedding_length(config["n_embd"])
        writer.add_block_count(config["n_layer"])
        writer.add_feed_forward_length(config["n_inner"] or 4 * config["n_embd"])
        writer.add_head_count(config["n_head"])
        writer.add_layer_norm_eps(config["layer_norm_epsilon"])
        return
    head_dim = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    writer.add_rope_dimension_count(head_dim)
    rope = config["rope_parameters"]
    writer.add_rope_freq_base(rope["rope_theta"])
    if rope["rope_type"] == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(rope["factor"])
    if rope["rope_type"] == "yarn":
        writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
        writer.add_rope_scaling_factor(rope["factor"])
        writer.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])
        if "beta_fast" in rope:
            writer.add_rope_scaling_yarn_beta_fast(rope["beta_fast"])
            writer.add_rope_scaling_yarn_beta_slow(rope["beta_slow"])
    if rope["rope_type"] == "llama3":
        writer.add_tensor("rope_freqs.weight", llama3_factors(rope, head_dim))


def write(name, architecture, kind, out):
    path = os.path.join(MODELS, name)
    with open(os.path.join(path, "config.json")) as f:
        config = json.load(f)
    blocks = config.get("num_hidden_layers") or config["n_layer"]
    names = gguf.get_tensor_name_map(ARCHITECTURES[architecture], blocks)
    writer = gguf.GGUFWriter(os.path.join(out, name + ".gguf"), architecture)
    writer.add_name(name)
    writer.add_vocab_size(config["vocab_size"])
    write_settings(writer, config, architecture)
    writer.add_bos_token_id(config["bos_token_id"])
    writer.add_eos_token_id(config["eos_token_id"])
    tied = config.get("tie_word_embeddings", True)
    for key, value in sorted(tensors_of(path).items()):
        if tied and key == "lm_head.weight":
            continue
        data = value.to(torch.float32).numpy()
        if architecture == "llama" and ".q_proj." in key:
            data = neighbouring(data, config["num_attention_heads"])
        if architecture == "llama" and ".k_proj." in key:
            data = neighbouring(data, config["num_key_value_heads"])
        if architecture == "gpt2" and data.ndim == 2 and (".c_" in key):
            data = np.ascontiguousarray(data.T)
        target = names.get_name(key, try_suffixes=(".weight", ".bias"))
        quantised = gguf.GGMLQuantizationType[kind if data.ndim > 1 else "F32"]
        writer.add_tensor(target, gguf.quants.quantize(data, quantised), raw_dtype=quantised)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", default=os.path.join(HERE, "..", "reference", "gguf"))
    args = parser.parse_args()
    os.makedirs(args.out, exist_ok=True)
    for name, (architecture, kind) in FILES.items():
        write(name, architecture, kind, args.out)
        print(json.dumps(dict(file=name + ".gguf", bytes=os.path.getsize(os.path.join(args.out, name + ".gguf")))))


if __name__ == "__main__":
    main()
