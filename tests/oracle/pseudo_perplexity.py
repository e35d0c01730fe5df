#!/usr/bin/env python3
"""Pseudo-perplexities by transformers, position by position, of the tiny random encoders of encoders.py.

Writes <out>/pseudo_perplexity.safetensors: for each model <name>.ids i64 (all sentences one after another), <name>.lengths i64 (N) and
<name>.each f64 (N), exp(-sum of log p / n) with every one of the n tokens masked in turn.
"""
import argparse
import os
import zlib

import torch
from safetensors.torch import save_file
from transformers import AutoModelForMaskedLM

REFERENCE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "reference")
MODELS = ["bert", "roberta", "xlm_roberta", "distilbert"]
LENGTHS = [5, 1, 9, 2, 9, 12]
MASK, FIRST = 4, 5  # no padding among the others: transformers counts positions by it


def pseudo_perplexity(model, ids):
    total = 0.0
    for t in range(len(ids)):
        masked = ids.clone()
        masked[t] = MASK
        total += torch.log_softmax(model(input_ids=masked[None]).logits[0, t].double(), -1)[ids[t]].item()
    return torch.exp(torch.tensor(-total / len(ids), dtype=torch.float64))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", default=os.path.join(REFERENCE, "encoders"))
    args = parser.parse_args()
    tensors = {}
    for name in MODELS:
        model = AutoModelForMaskedLM.from_pretrained(os.path.join(REFERENCE, "encoders", name)).eval()
        generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
        sentences = [torch.randint(FIRST, model.config.vocab_size, (n,), generator=generator) for n in LENGTHS]
        with torch.no_grad():
            each = torch.stack([pseudo_perplexity(model, ids) for ids in sentences])
        tensors |= {name + ".ids": torch.cat(sentences), name + ".lengths": torch.tensor(LENGTHS), name + ".each": each}
        print(name, each.tolist())
    save_file(tensors, os.path.join(args.out, "pseudo_perplexity.safetensors"))


if __name__ == "__main__":
    main()
