#!/usr/bin/env python3
"""Tiny random models of images, and what transformers computes with them, in f64.

Writes <out>/<name>/{config.json, model.safetensors, expected.safetensors}.  expected.safetensors holds
    pixel_values                      f32 (3, channels, H, W)
    labels                            i64 (3)
    hidden, features, logits, loss    f32: last_hidden_state, what the classifier reads, ...
    grad.<tensor>                     f32, gradient of `loss`, of every parameter, by the name of its tensor in the checkpoint
    resized.pixel_values, resized.logits   f32, of transformers with interpolated positions; of convolutional networks, which take any size
    train.<...>                       the same in training, of models with batch norms, which go by the batch's statistics then
    train.buffer.<tensor>             running statistics behind that one step
    adapted                           f32, logits with the LoRA of PEFT in <name>/adapter, of those in ADAPTERS
In <name>_torchvision is the same network under the names of torchvision and timm.
"""
import argparse
import json
import os
import shutil

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import (DeiTConfig, DeiTForImageClassification, DeiTForImageClassificationWithTeacher, ResNetConfig,
                          ResNetForImageClassification, ViTConfig, ViTForImageClassification, ViTModel)

ROWS, CLASSES = 3, 4

VIT = dict(hidden_size=16, intermediate_size=20, num_hidden_layers=2, num_attention_heads=2, image_size=12, patch_size=4, num_labels=CLASSES,
           layer_norm_eps=1e-6)
RESNET = dict(embedding_size=4, hidden_sizes=[8, 12], depths=[2, 1], num_labels=CLASSES)

# name: class, configuration, height and width of the images, and of others
MODELS = {
    "vit": (ViTForImageClassification, ViTConfig(**VIT), (12, 12), (20, 16)),
    "vit_wide": (ViTForImageClassification, ViTConfig(**{**VIT, "image_size": [8, 12], "patch_size": [4, 2]}, qkv_bias=False, num_channels=1,
                                                      hidden_act="relu"), (8, 12), None),
    "vit_bare": (ViTModel, ViTConfig(**VIT), (12, 12), None),
    "deit": (DeiTForImageClassification, DeiTConfig(**VIT), (12, 12), (16, 12)),
    "deit_teacher": (DeiTForImageClassificationWithTeacher, DeiTConfig(**VIT), (12, 12), None),
    "resnet_basic": (ResNetForImageClassification, ResNetConfig(**RESNET, layer_type="basic"), (24, 20), (33, 40)),
    "resnet_bottleneck": (ResNetForImageClassification, ResNetConfig(**RESNET, downsample_in_first_stage=True), (32, 32), None),
    "resnet_first": (ResNetForImageClassification, ResNetConfig(**{**RESNET, "hidden_sizes": [16, 24]}, downsample_in_bottleneck=True, hidden_act="silu"), (24, 24), None),
}

# name: options of the LoRA
ADAPTERS = {"resnet_basic": dict(target_modules=["convolution"])}
TORCHVISION = ["resnet_basic"]


def randomise(model, generator):
    """Norm weights and running variances around 1, everything else noise."""
    for name, p in list(model.named_parameters()) + list(model.named_buffers()):
        if p.dtype == torch.int64:
            p.data.fill_(7)
            continue
        noise = torch.randn(p.shape, generator=generator)
        if name.endswith("running_var"):
            p.data = 0.5 + noise.abs()
        elif p.dim() == 1 and name.endswith("weight"):
            p.data = 1 + 0.2 * noise
        else:
            p.data = 0.3 * noise


def checkpoint_names(model, path):
    """Names of parameters and buffers in the file, found by their values."""
    stored = load_file(os.path.join(path, "model.safetensors"))
    names = {}
    for name, p in list(model.named_parameters()) + list(model.named_buffers()):
        same = [k for k, v in stored.items() if k == name] or [k for k, v in stored.items() if v.shape == p.shape and torch.equal(v, p)]
        if same:
            names[name] = same[0]
    return names


def features_of(out):
    if out.last_hidden_state.dim() == 4:
        return out.pooler_output.flatten(1)
    return out.last_hidden_state[:, 0]


def run(model, names, inputs, labels, generator):
    """Hidden states, logits, loss and gradients."""
    base = getattr(model, model.base_model_prefix, model)
    was = {k: b.clone() for k, b in model.named_buffers()}
    with torch.no_grad():
        out = base(**inputs)
    for k, b in model.named_buffers():
        b.data.copy_(was[k])  # that was no step
    tensors = dict(hidden=out.last_hidden_state, features=features_of(out))
    if not hasattr(model, "num_labels") or base is model:
        return tensors
    logits = model(**inputs).logits
    loss = torch.nn.functional.cross_entropy(logits, labels)
    model.zero_grad()
    loss.backward()
    tensors.update(logits=logits.detach(), loss=loss.detach())
    for name, p in model.named_parameters():
        if p.grad is not None:
            tensors["grad." + names[name]] = p.grad
    return tensors


def expected(model, path, generator, size, other):
    names = checkpoint_names(model, path)
    model.double()
    channels = model.config.num_channels
    inputs = dict(pixel_values=torch.randn((ROWS, channels, *size), generator=generator).double())
    labels = torch.randint(CLASSES, (ROWS,), generator=generator)
    tensors = dict(inputs, labels=labels, **run(model.eval(), names, inputs, labels, generator))
    if other:
        pixels = torch.randn((ROWS, channels, *other), generator=generator).double()
        options = {} if tensors["hidden"].dim() == 4 else dict(interpolate_pos_encoding=True)
        with torch.no_grad():
            tensors.update({"resized.pixel_values": pixels, "resized.logits": model(pixel_values=pixels, **options).logits})
    if any(name.endswith("running_mean") for name, _ in model.named_buffers()):
        tensors.update({"train." + k: v for k, v in run(model.train(), names, inputs, labels, generator).items()})
        tensors.update({"train.buffer." + names[k]: b for k, b in model.named_buffers() if b.dtype != torch.int64})
    return {k: v.float() if v.is_floating_point() else v for k, v in tensors.items()}


def adapted(kind, path, options, inputs, generator):
    """Makes an adapter that changes something, and gives the logits with what was written."""
    model = get_peft_model(kind.from_pretrained(path), LoraConfig(r=2, lora_alpha=3, **options))
    for name, p in sorted(model.named_parameters()):
        if p.requires_grad:
            p.data += 0.3 * torch.randn(p.shape, generator=generator)
    target = os.path.join(path, "adapter")
    model.save_pretrained(target)
    config = os.path.join(target, "adapter_config.json")
    with open(config) as f:
        values = json.load(f)
    values["base_model_name_or_path"] = os.path.basename(path)
    with open(config, "w") as f:
        json.dump(values, f, indent=2, sort_keys=True)
        f.write("\n")
    os.remove(os.path.join(target, "README.md"))
    model = PeftModel.from_pretrained(kind.from_pretrained(path), target).eval()
    with torch.no_grad():
        return model(**inputs).logits


def as_torchvision(path, target):
    """The names of torchvision.models.resnet, by the places of layers."""
    import re
    rules = [(r"^resnet\.embedder\.embedder\.convolution", "conv1"), (r"^resnet\.embedder\.embedder\.normalization", "bn1"),
             (r"^classifier\.1", "fc"), (r"shortcut\.convolution", "downsample.0"), (r"shortcut\.normalization", "downsample.1"),
             (r"^resnet\.encoder\.stages\.(\d+)\.layers", lambda m: f"layer{int(m[1]) + 1}"),
             (r"layer\.(\d+)\.convolution", lambda m: f"conv{int(m[1]) + 1}"), (r"layer\.(\d+)\.normalization", lambda m: f"bn{int(m[1]) + 1}")]
    tensors = load_file(os.path.join(path, "model.safetensors"))
    for pattern, text in rules:
        tensors = {re.sub(pattern, text, k): v for k, v in tensors.items()}
    shutil.rmtree(target, ignore_errors=True)
    os.makedirs(target)
    save_file(tensors, os.path.join(target, "model.safetensors"), {"format": "pt"})
    shutil.copy(os.path.join(path, "config.json"), target)


def main():
    here = os.path.dirname(os.path.abspath(__file__))
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", default=os.path.join(here, "..", "reference", "vision"))
    parser.add_argument("--only", nargs="*", help="names to make (default: all)")
    args = parser.parse_args()
    torch.set_num_threads(1)
    for index, (name, (kind, config, size, other)) in enumerate(MODELS.items()):
        if args.only and name not in args.only:
            continue
        path = os.path.join(args.out, name)
        shutil.rmtree(path, ignore_errors=True)
        generator = torch.Generator().manual_seed(3000 + index)
        config._attn_implementation = "eager"
        model = kind(config)
        randomise(model, generator)
        model.save_pretrained(path)
        tensors = expected(model, path, generator, size, other)
        if name in ADAPTERS:
            tensors["adapted"] = adapted(kind, path, ADAPTERS[name], dict(pixel_values=tensors["pixel_values"]), generator)
        save_file({k: v.clone().contiguous() for k, v in tensors.items()}, os.path.join(path, "expected.safetensors"))
        if name in TORCHVISION:
            as_torchvision(path, path + "_torchvision")
        files = [os.path.join(folder, file) for folder, _, names in os.walk(path) for file in names]
        for file in files:
            os.chmod(file, 0o644)
        size = sum(os.path.getsize(file) for file in files)
        print(json.dumps(dict(model=name, bytes=size, loss=round(tensors["loss"].item(), 4) if "loss" in tensors else None)))


if __name__ == "__main__":
    main()
