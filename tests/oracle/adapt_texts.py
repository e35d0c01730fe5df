#!/usr/bin/env python3
"""Test-time adaptation of a classifier of texts, in f64, on the tiny BERT of reference/encoders: TENT and SAR on layer norms.

Writes <out>/texts.jsonl, which the C test reads too, and <out>/texts.safetensors:
    <method>.scores.<i>       f32 (rows, labels), what is answered to batch i
    <method>.final.<tensor>   f32, the norms' parameters behind the last batch
"""
import argparse
import json
import math
import os

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from transformers import BertForSequenceClassification

ROWS = 4
TEXTS = [("the knife is sharp", None), ("the tree grow slow", None), ("rome in the stem", "not slow"), ("anna saw rome", None),
         ("knife and branch", None), ("not sharp", "sharp stem"), ("the branch is not slow and the knife is", None), ("tree", None),
         ("anna in rome saw the knife and the stem grow", None), ("slow", "slow"), ("saw saw saw", None), ("branch tree stem", None)]


def batches(tokenizer):
    for i in range(0, len(TEXTS), ROWS):
        rows = [tokenizer.encode(a, b) if b else tokenizer.encode(a) for a, b in TEXTS[i:i + ROWS]]
        length = max(len(r.ids) for r in rows)
        pad = lambda values: torch.tensor([v + [0] * (length - len(v)) for v in values])
        yield dict(input_ids=pad([r.ids for r in rows]), attention_mask=pad([[1] * len(r.ids) for r in rows]),
                   token_type_ids=pad([r.type_ids for r in rows]))


def norms(model, skip):
    """Weights and biases of norms but the last share of them, in their order in the network."""
    found = [(n, m) for n, m in model.named_modules() if isinstance(m, torch.nn.LayerNorm)]
    found = found[:len(found) - round(len(found) * skip)]
    model.requires_grad_(False)
    parameters = {}
    for name, module in found:
        for key, p in module.named_parameters():
            p.requires_grad_(True)
            parameters[f"{name}.{key}"] = p
    return parameters


def entropy(z):
    return -(z.softmax(1) * z.log_softmax(1)).sum(1)


def tent(model, parameters, data):
    optimizer = torch.optim.Adam(parameters.values(), lr=1e-2)
    for batch in data:
        z = model(**batch).logits
        optimizer.zero_grad()
        entropy(z).mean().backward()
        optimizer.step()
        yield z.detach()


def sar(model, parameters, data, margin=0.99, radius=0.05):
    optimizer = torch.optim.SGD(parameters.values(), lr=1e-1, momentum=0.9)
    for batch in data:
        z = model(**batch).logits
        limit = margin * math.log(z.shape[1])
        e = entropy(z)
        sure = e < limit
        optimizer.zero_grad()
        e[sure].mean().backward()
        norm = torch.sqrt(sum((p.grad ** 2).sum() for p in parameters.values()))
        was = [p.detach().clone() for p in parameters.values()]
        with torch.no_grad():
            for p in parameters.values():
                p += radius * p.grad / (norm + 1e-12)
        optimizer.zero_grad()
        e = entropy(model(**batch).logits)
        still = sure & (e < limit)
        e[still].mean().backward()
        with torch.no_grad():
            for p, w in zip(parameters.values(), was):
                p.copy_(w)
        optimizer.step()
        yield z.detach()


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--reference", required=True, help="tests/reference")
    parser.add_argument("--out", required=True)
    args = parser.parse_args()
    tokenizer = Tokenizer.from_file(os.path.join(args.reference, "tasks/tokenizer.json"))
    with open(os.path.join(args.out, "texts.jsonl"), "w") as f:
        for i, (a, b) in enumerate(TEXTS):
            f.write(json.dumps({"text": a, **({"text_pair": b} if b else {}), **({"label": i % 4} if i % 3 else {})}) + "\n")
    out = {}
    for name, method, skip in (("tent", tent, 0), ("sar", sar, 0.25)):
        model = BertForSequenceClassification.from_pretrained(os.path.join(args.reference, "encoders/bert_rows")).double().eval()
        parameters = norms(model, skip)
        for i, scores in enumerate(method(model, parameters, batches(tokenizer))):
            out[f"{name}.scores.{i}"] = scores.float()
        for key, p in parameters.items():
            out[f"{name}.final.{key}"] = p.detach().float()
    save_file(out, os.path.join(args.out, "texts.safetensors"))


main()
