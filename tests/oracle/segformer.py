#!/usr/bin/env python3
"""A tiny random SegFormer that segments, and what transformers computes with it, in f64.

Writes <out>/segformer/{config.json, model.safetensors, expected.safetensors} (default out: ../reference/dense); what is in the last is as
dense.py says, `hidden` being the decoder's map.
"""
import argparse
import os

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from transformers import SegformerConfig, SegformerForSemanticSegmentation

from vision import SEGFORMER, checkpoint_names, randomise

ROWS, CLASSES, SIZE = 2, 3, (20, 24)


def step(model, names, pixels, labels):
    seen = {}
    hook = model.decode_head.classifier.register_forward_hook(lambda module, inputs, output: seen.update(hidden=inputs[0]))
    logits = model(pixel_values=pixels).logits
    hook.remove()
    loss = F.cross_entropy(F.interpolate(logits, size=SIZE, mode="bilinear", align_corners=False), labels, ignore_index=-100)
    model.zero_grad()
    loss.backward()
    return {"hidden": seen["hidden"], "logits": logits, "loss": loss} | {
        "grad." + names[n]: p.grad for n, p in model.named_parameters() if p.grad is not None}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", default=os.path.join(os.path.dirname(__file__), "..", "reference", "dense"))
    path = os.path.join(parser.parse_args().out, "segformer")
    generator = torch.Generator().manual_seed(71)
    config = SegformerConfig(**{**SEGFORMER, "num_labels": CLASSES, "sr_ratios": [2, 2]})
    model = SegformerForSemanticSegmentation(config).eval()
    randomise(model, generator)
    model.save_pretrained(path)
    names = checkpoint_names(model, path)
    model = model.double()
    pixels = torch.randn(ROWS, 3, *SIZE, generator=generator)
    labels = torch.randint(CLASSES, (ROWS, *SIZE), generator=generator)
    labels[:, ::5, ::3] = -100
    tensors = {"pixel_values": pixels, "labels": labels} | step(model, names, pixels.double(), labels)
    training = step(model.train(), names, pixels.double(), labels)
    tensors |= {"train." + k: v for k, v in training.items() if k == "loss" or (k.startswith("grad.") and ("decode_head" in k or "patch_embeddings.0" in k))}
    tensors |= {"train.buffer." + names[n]: b for n, b in model.named_buffers()}
    save_file({k: (v if v.dtype == torch.int64 else v.float()).detach().contiguous().clone() for k, v in tensors.items()},
              os.path.join(path, "expected.safetensors"))
    print(f"{path}: {len(tensors)} tensors; {sorted(names.values())[:6]}")


if __name__ == "__main__":
    main()
