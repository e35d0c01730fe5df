#!/usr/bin/env python3
"""Inputs of bench/compare_classifiers.py: classifiers with random weights, a fresh LoRA for each, and random images or texts.

Writes OUT/model (Hugging Face directory, f32), OUT/adapter (PEFT directory: LoRA of rank 8, and the head), OUT/adapter-published (the same under
the names of published checkpoints, where the modules of transformers have others) and OUT/inputs.bin (little-endian f32 pixels, or int32 ids).
"""
import argparse
import json
import os
import re

import numpy
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import (BertConfig, BertForSequenceClassification, ResNetConfig, ResNetForImageClassification, ViTConfig,
                          ViTForImageClassification)

VIT_TINY = dict(hidden_size=192, num_hidden_layers=12, num_attention_heads=3, intermediate_size=768, num_labels=100)
SHAPES = {
    "resnet-18": (ResNetForImageClassification, lambda size: ResNetConfig(depths=[2, 2, 2, 2], hidden_sizes=[64, 128, 256, 512], layer_type="basic", num_labels=100)),
    "vit-tiny-16": (ViTForImageClassification, lambda size: ViTConfig(**VIT_TINY, image_size=size, patch_size=16)),
    "vit-tiny-8": (ViTForImageClassification, lambda size: ViTConfig(**VIT_TINY, image_size=size, patch_size=8)),
    "bert-base": (BertForSequenceClassification, lambda size: BertConfig(num_labels=2)),
}
TARGETS = {"resnet-18": ["convolution"], "bert-base": ["query", "value"], "vit-tiny-16": ["q_proj", "v_proj"], "vit-tiny-8": ["q_proj", "v_proj"]}

PUBLISHED = [(r"\.layers\.(\d+)\.attention\.q_proj", r".encoder.layer.\1.attention.attention.query"),
             (r"\.layers\.(\d+)\.attention\.v_proj", r".encoder.layer.\1.attention.attention.value"), (r"^q_proj$", "query"), (r"^v_proj$", "value")]


def published(name):
    for pattern, other in PUBLISHED:
        name = re.sub(pattern, other, name)
    return name


def publish(adapter, out):
    os.makedirs(out, exist_ok=True)
    save_file({published(k): v for k, v in load_file(os.path.join(adapter, "adapter_model.safetensors")).items()},
              os.path.join(out, "adapter_model.safetensors"))
    with open(os.path.join(adapter, "adapter_config.json")) as f:
        config = json.load(f)
    config["target_modules"] = [published(name) for name in config["target_modules"]]
    with open(os.path.join(out, "adapter_config.json"), "w") as f:
        json.dump(config, f)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out")
    parser.add_argument("--shape", choices=SHAPES, required=True)
    parser.add_argument("--size", type=int, required=True, help="height and width of images; tokens of a text")
    parser.add_argument("--examples", type=int, required=True)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    torch.manual_seed(args.seed)
    kind, config = SHAPES[args.shape]
    model = kind(config(args.size))
    model.save_pretrained(os.path.join(args.out, "model"))
    model = get_peft_model(model, LoraConfig(r=8, lora_alpha=16, target_modules=TARGETS[args.shape], modules_to_save=["classifier"]))
    model.peft_config["default"].base_model_name_or_path = "model"
    model.save_pretrained(os.path.join(args.out, "adapter"))
    publish(os.path.join(args.out, "adapter"), os.path.join(args.out, "adapter-published"))

    random = numpy.random.default_rng(args.seed)
    if args.shape == "bert-base":
        inputs = random.integers(1000, model.config.vocab_size, (args.examples, args.size)).astype("<i4")
    else:
        inputs = random.standard_normal((args.examples, 3, args.size, args.size), dtype=numpy.float32)
    inputs.tofile(os.path.join(args.out, "inputs.bin"))


if __name__ == "__main__":
    main()
