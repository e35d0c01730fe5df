#!/usr/bin/env python3
"""Inputs of bench/compare_classifiers.py: classifiers with random weights, a fresh LoRA for each, and random images or texts.

Writes OUT/model (Hugging Face directory, f32), OUT/adapter (PEFT directory: LoRA of rank 8, and the head) and OUT/inputs.bin (little-endian
f32 pixels, or int32 ids).
"""
import argparse
import os

import numpy
import torch
from peft import LoraConfig, get_peft_model
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

    random = numpy.random.default_rng(args.seed)
    if args.shape == "bert-base":
        inputs = random.integers(1000, model.config.vocab_size, (args.examples, args.size)).astype("<i4")
    else:
        inputs = random.standard_normal((args.examples, 3, args.size, args.size), dtype=numpy.float32)
    inputs.tofile(os.path.join(args.out, "inputs.bin"))


if __name__ == "__main__":
    main()
