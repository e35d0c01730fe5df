#!/usr/bin/env python3
"""LoRA adapters that PEFT makes of networks whose modules transformers 5 calls otherwise than their files do.

Writes <out>/<name>/{config.json, model.safetensors, expected.safetensors, adapter/}: `pixel_values` and `logits` of the network with the adapter.
"""
import argparse
import json
import os
import shutil

import torch
import transformers
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file

CLASSES = 3
VIT = dict(image_size=8, patch_size=4, hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=12, num_labels=CLASSES)

# name: class, config, what LoRA is of
MODELS = {
    "vit": (transformers.ViTForImageClassification, transformers.ViTConfig(**VIT), dict(target_modules=["q_proj", "fc2"], rank_pattern={"fc2": 3})),
    "deit": (transformers.DeiTForImageClassification, transformers.DeiTConfig(**VIT), dict(target_modules="all-linear", exclude_modules=["k_proj"])),
    "swin": (transformers.SwinForImageClassification,
             transformers.SwinConfig(image_size=16, patch_size=2, window_size=4, embed_dim=8, depths=[1, 1], num_heads=[1, 2], num_labels=CLASSES),
             dict(target_modules=r".*blocks\.0\.(attention\.o_proj|mlp\.fc1)")),
    "segformer": (transformers.SegformerForSemanticSegmentation,
                  transformers.SegformerConfig(num_encoder_blocks=2, depths=[1, 1], sr_ratios=[2, 1], hidden_sizes=[4, 8], patch_sizes=[3, 3],
                                               strides=[2, 2], num_attention_heads=[1, 2], mlp_ratios=[2, 2], decoder_hidden_size=6,
                                               num_labels=CLASSES, image_size=16, drop_path_rate=0.0, classifier_dropout_prob=0.0),
                  dict(target_modules=["q_proj", "sequence_reduction.sequence_reduction", "fc2"],
                       modules_to_save=["classifier", "linear_projections.1.proj", "layernorm_before"])),
}


def main():
    here = os.path.dirname(os.path.abspath(__file__))
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", default=os.path.join(here, "..", "reference", "peft_modules"))
    parser.add_argument("--only", nargs="+", choices=MODELS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    for index, (name, (kind, config, lora)) in enumerate(MODELS.items()):
        if args.only and name not in args.only:
            continue
        path = os.path.join(args.out, name)
        shutil.rmtree(path, ignore_errors=True)
        generator = torch.Generator().manual_seed(7100 + index)
        base = kind(config).eval()
        for key, p in base.named_parameters():
            noise = torch.randn(p.shape, generator=generator)
            p.data = 1 + 0.2 * noise if p.dim() == 1 and key.endswith("weight") else 0.3 * noise
        base.save_pretrained(path)
        model = get_peft_model(base, LoraConfig(**{**dict(r=2, lora_alpha=4, modules_to_save=["classifier"]), **lora})).eval()
        for p in model.parameters():
            if p.requires_grad:
                p.data = 0.3 * torch.randn(p.shape, generator=generator)
        model.save_pretrained(os.path.join(path, "adapter"))
        os.remove(os.path.join(path, "adapter", "README.md"))
        pixels = torch.randn((2, 3, config.image_size, config.image_size), generator=generator)
        with torch.no_grad():
            logits = model.double()(pixel_values=pixels.double()).logits
        save_file({"pixel_values": pixels, "logits": logits.float().contiguous()}, os.path.join(path, "expected.safetensors"))
        for directory in (path, os.path.join(path, "adapter")):
            for file in os.listdir(directory):
                if file != "adapter":
                    os.chmod(os.path.join(directory, file), 0o644)
        print(json.dumps(dict(model=name, targets=len([n for n, _ in model.named_modules() if n.endswith("lora_A")]))))


if __name__ == "__main__":
    main()
