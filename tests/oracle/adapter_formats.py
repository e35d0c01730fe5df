#!/usr/bin/env python3
"""Adapters of peft_adapters.py in other formats, written independently of the library: GGUF (with the gguf package), MLX, AdapterHub.

Writes <out>/<name>.<format>.  What a model computes with them is in adapters/<name>/expected.safetensors.  Scales that a format does not
have are folded into B here as they are there: by the definition of each format's scale.
"""
import argparse
import collections
import json
import math
import os
import re
import shutil

import gguf
import numpy as np
import torch
from safetensors.numpy import load_file, save_file

HERE = os.path.dirname(os.path.abspath(__file__))
REFERENCE = os.path.join(HERE, "..", "reference")


def adapter(name):
    """{layer: (A, B, scale)} with A (rank, in) and B (out, rank), and the name of the base."""
    path = os.path.join(REFERENCE, "adapters", name)
    with open(os.path.join(path, "adapter_config.json")) as f:
        config = json.load(f)
    tensors, layers = load_file(os.path.join(path, "adapter_model.safetensors")), {}
    for key, a in tensors.items():
        if not key.endswith(".lora_A.weight"):
            continue
        layer = key[len("base_model.model."):-len(".lora_A.weight")]
        alpha = config["lora_alpha"]
        for pattern, value in (config["alpha_pattern"] or {}).items():
            if re.match(rf"(.*\.)?({pattern})$", layer):
                alpha = value
                break
        rank = a.shape[0]
        layers[layer] = (a, tensors[key.replace("lora_A", "lora_B")], alpha / (math.sqrt(rank) if config["use_rslora"] else rank))
    return layers, os.path.basename(config["base_model_name_or_path"])


def neighbouring(rows, heads):
    return rows.reshape(heads, 2, rows.shape[0] // heads // 2, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)


def write_gguf(name, out, alpha):
    layers, base = adapter(name)
    with open(os.path.join(REFERENCE, "models", base, "config.json")) as f:
        config = json.load(f)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config["num_hidden_layers"])
    writer = gguf.GGUFWriter(os.path.join(out, name + ".gguf"), "llama")
    writer.add_type(gguf.GGUFType.ADAPTER)
    writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
    writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, alpha)
    for layer, (a, b, scale) in sorted(layers.items()):
        b = b * np.float32(scale * a.shape[0] / alpha)  # at run time: alpha / rank
        if layer.endswith("q_proj"):
            b = neighbouring(b, config["num_attention_heads"])
        if layer.endswith("k_proj"):
            b = neighbouring(b, config["num_key_value_heads"])
        target = names.get_name(layer + ".weight", try_suffixes=(".weight",))
        writer.add_tensor(target + ".lora_a", np.ascontiguousarray(a))
        writer.add_tensor(target + ".lora_b", np.ascontiguousarray(b))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write_json(path, value):
    with open(path, "w") as f:
        json.dump(value, f, indent=2, sort_keys=True)
        f.write("\n")


def write_mlx(name, out, scale):
    layers, _ = adapter(name)
    path = os.path.join(out, name + ".mlx")
    os.makedirs(path, exist_ok=True)
    tensors = {}
    for layer, (a, b, own) in layers.items():
        tensors[layer + ".lora_a"] = np.ascontiguousarray(a.T)
        tensors[layer + ".lora_b"] = np.ascontiguousarray(b.T * np.float32(own / scale))
    save_file(tensors, os.path.join(path, "adapters.safetensors"))
    rank = next(iter(layers.values()))[0].shape[0]
    write_json(os.path.join(path, "adapter_config.json"), dict(
        fine_tune_type="lora", num_layers=2,
        lora_parameters=dict(keys=sorted({k.split(".", 3)[3] for k in layers}), rank=rank, scale=scale, dropout=0.0)))


def write_adapterhub(name, out, suffix, version, alpha, pickled=False):
    layers, base = adapter(name)
    path = os.path.join(out, name + suffix)
    os.makedirs(path, exist_ok=True)
    rank = next(iter(layers.values()))[0].shape[0]
    old = version < "adapters.1.1.0"
    tensors = {}
    for layer, (a, b, own) in layers.items():
        used = 1 if old else alpha / rank  # the scale that the package applies to such a file
        tensors[f"{layer}.loras.style.lora_A"] = a
        tensors[f"{layer}.loras.style.lora_B"] = b * np.float32(own / used)
    if pickled:
        torch.save({k: torch.from_numpy(v) for k, v in tensors.items()}, os.path.join(path, "pytorch_adapter.bin"))
    else:
        save_file(tensors, os.path.join(path, "adapter.safetensors"))
    write_json(os.path.join(path, "adapter_config.json"), dict(
        config=dict(architecture="lora", r=rank, alpha=alpha, dropout=0.0, attn_matrices=["q", "v"], selfattn_lora=True,
                    intermediate_lora=False, output_lora=False, composition_mode="add", use_gating=False, init_weights="lora", leave_out=[]),
        hidden_size=48, model_class="LlamaForCausalLM", model_name=base, model_type="llama", name="style", version=version))


def write_pickled(name, out):
    """As PEFT wrote adapters before it wrote safetensors."""
    source, path = os.path.join(REFERENCE, "adapters", name), os.path.join(out, name + ".pickled")
    os.makedirs(path, exist_ok=True)
    tensors = load_file(os.path.join(source, "adapter_model.safetensors"))
    torch.save(collections.OrderedDict((k, torch.from_numpy(v)) for k, v in tensors.items()), os.path.join(path, "adapter_model.bin"))
    shutil.copyfile(os.path.join(source, "adapter_config.json"), os.path.join(path, "adapter_config.json"))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", default=os.path.join(REFERENCE, "adapter_formats"))
    args = parser.parse_args()
    os.makedirs(args.out, exist_ok=True)
    write_gguf("lora_patterns", args.out, 8.0)
    write_gguf("lora_rslora", args.out, 5.0)
    write_mlx("lora_rslora", args.out, 20.0)
    write_adapterhub("lora_qv", args.out, ".adapterhub", "adapters.1.2.0", 16)
    write_adapterhub("lora_qv", args.out, ".adapterhub_old", "adapters.1.0.1", 16)
    write_adapterhub("lora_qv", args.out, ".adapterhub_pickled", "adapters.1.2.0", 16, pickled=True)
    write_pickled("lora_qv", args.out)


if __name__ == "__main__":
    main()
