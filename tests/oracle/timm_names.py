#!/usr/bin/env python3
"""Tiny random networks of timm, as its hub has them, and what timm computes with them in f64.

Writes <out>/<name>/{config.json, model.safetensors, expected.safetensors}: `pixel_values` and `logits` (of a network without a head `features`).
"""
import argparse
import json
import os
import shutil

import timm
import torch
from safetensors.torch import save_file

CLASSES = 4
VIT = dict(img_size=12, patch_size=4, embed_dim=12, depth=2, num_heads=2)

# name: architecture, arguments, classes
MODELS = {
    "vit": ("vit_tiny_patch16_224", VIT, CLASSES),
    "vit_bare": ("vit_small_patch16_224", dict(VIT, depth=1), 0),
    "deit": ("deit_tiny_distilled_patch16_224", dict(VIT, depth=1), CLASSES),
    "convnext": ("convnext_tiny", dict(depths=(2, 1, 1, 1), dims=(4, 4, 6, 8)), CLASSES),
    "swin": ("swin_tiny_patch4_window7_224", dict(img_size=16, patch_size=2, window_size=4, embed_dim=8, depths=(2, 1), num_heads=(1, 2)), CLASSES),
}


def main():
    here = os.path.dirname(os.path.abspath(__file__))
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", default=os.path.join(here, "..", "reference", "timm"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    for index, (name, (architecture, arguments, classes)) in enumerate(MODELS.items()):
        path = os.path.join(args.out, name)
        shutil.rmtree(path, ignore_errors=True)
        os.makedirs(path)
        generator = torch.Generator().manual_seed(6000 + index)
        model = timm.create_model(architecture, num_classes=classes, **arguments).eval()
        for key, p in model.named_parameters():
            noise = torch.randn(p.shape, generator=generator)
            p.data = 1 + 0.2 * noise if p.dim() == 1 and key.endswith("weight") else 0.3 * noise
        save_file({k: p.data.contiguous() for k, p in model.named_parameters()}, os.path.join(path, "model.safetensors"), {"format": "pt"})
        size = arguments.get("img_size", 32)
        config = dict(architecture=architecture, num_classes=classes, num_features=model.num_features, global_pool="token" if hasattr(model, "cls_token") else "avg",
                      model_args=arguments, pretrained_cfg=dict(input_size=[3, size, size], interpolation="bicubic", crop_pct=0.9, mean=[0.5] * 3, std=[0.5] * 3))
        if classes and name == "vit":
            config["label_names"] = ["ant", "bee", "cat", "dog"]
        with open(os.path.join(path, "config.json"), "w") as f:
            json.dump(config, f, indent=2)
            f.write("\n")
        pixels = torch.randn((2, 3, size, size), generator=generator)
        with torch.no_grad():
            model.double()
            out = model(pixels.double())
        save_file({"pixel_values": pixels, "logits" if classes else "features": out.float()}, os.path.join(path, "expected.safetensors"))
        for file in os.listdir(path):
            os.chmod(os.path.join(path, file), 0o644)
        print(json.dumps(dict(model=name, bytes=sum(os.path.getsize(os.path.join(path, f)) for f in os.listdir(path)))))


if __name__ == "__main__":
    main()
