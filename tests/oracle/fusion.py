#!/usr/bin/env python3
"""AdapterFusion as AdapterHub's package computes it (adapters 1.2.0, methods/modeling.py: BertFusion with DynamicAdapterFusionConfig, and
model_mixin.py: get_fusion_regularization_loss), written out in torch, since the package wants an older transformers.

Writes reference/fusion/expected.safetensors, f32: q, y (2, 5, 12) and changes (3, 2, 5, 12); query.weight, query.bias, key.weight, key.bias and
value.weight; output, the regularisation loss, and under grad.<name> the gradients of sum(output * weights) + loss; plain_output is that
of StaticAdapterFusionConfig, which has no values.  With --package DIR (an unpacked wheel) the package's own class is run as well and
compared.
"""
import argparse
import os
import re

import torch
from safetensors.torch import save_file
from torch import nn

WIDTH, PARTS = 12, 3


def fuse(p, q, y, changes, value=True):
    stacked = torch.stack(list(changes)).permute(1, 2, 0, 3)  # batch, tokens, adapters, features
    query = q @ p["query.weight"].T + p["query.bias"]
    key = stacked @ p["key.weight"].T + p["key.bias"]
    values = stacked @ p["value.weight"].T if value else stacked
    scores = torch.squeeze(torch.matmul(query.unsqueeze(2), key.transpose(-2, -1)), dim=2)
    probabilities = torch.softmax(scores, dim=-1)
    return torch.squeeze(torch.matmul(probabilities.unsqueeze(2), values), dim=2) + y


def package_class(directory):
    with open(os.path.join(directory, "adapters/methods/modeling.py")) as f:
        text = f.read()
    body = re.search(r"^class BertFusion.*?(?=^class |\Z)", text, re.S | re.M).group(0)
    scope = dict(torch=torch, nn=nn, AdapterFusionConfig=dict, Adapter=type("Adapter", (), dict(init_bert_weights=lambda module: None)))
    exec(body, scope)
    return scope["BertFusion"]


def compare(directory, p, q, y, changes, output):
    config = dict(key=True, query=True, value=True, query_before_ln=False, regularization=True, residual_before=False, temperature=False,
                  value_before_softmax=True, value_initialized=True, dropout_prob=None)
    layer = package_class(directory)(config, WIDTH, 0.0)
    layer.load_state_dict({name: t.detach() for name, t in p.items()})
    stacked = torch.stack(list(changes)).permute(1, 2, 0, 3)
    with torch.no_grad():
        difference = (layer(q, stacked, stacked, y.clone()) - output).abs().max().item()
    print(f"the package's differs by {difference:g}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--package", help="directory that holds the package's folder `adapters`")
    args = parser.parse_args()
    torch.set_num_threads(1)
    g = torch.Generator().manual_seed(7)
    shapes = {"query.weight": (WIDTH, WIDTH), "query.bias": (WIDTH,), "key.weight": (WIDTH, WIDTH), "key.bias": (WIDTH,),
              "value.weight": (WIDTH, WIDTH)}
    p = {name: (0.3 * torch.randn(shape, generator=g)).requires_grad_() for name, shape in shapes.items()}
    q, y = torch.randn(2, 5, WIDTH, generator=g), torch.randn(2, 5, WIDTH, generator=g)
    changes = torch.randn(PARTS, 2, 5, WIDTH, generator=g)
    weights = torch.randn(2, 5, WIDTH, generator=g)
    output = fuse(p, q, y, changes)
    loss = 0.01 * (torch.eye(WIDTH) - p["value.weight"]).pow(2).sum()
    ((output * weights).sum() + loss).backward()
    if args.package:
        compare(args.package, p, q, y, changes, output)
    tensors = dict(p, q=q, y=y, changes=changes, weights=weights, output=output, loss=loss, plain_output=fuse(p, q, y, changes, False))
    tensors |= {"grad." + name: t.grad for name, t in p.items()}
    path = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "reference", "fusion")
    os.makedirs(path, exist_ok=True)
    save_file({k: v.detach().clone().contiguous() for k, v in tensors.items()}, os.path.join(path, "expected.safetensors"))


if __name__ == "__main__":
    main()
