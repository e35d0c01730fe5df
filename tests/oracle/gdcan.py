#!/usr/bin/env python3
"""Domain conditioned channel attention (Li et al. 2021, arXiv:2103.12339) and the terms of its objective, in torch, from the paper.

Writes <reference>/gdcan.safetensors: maps of five rows, three of the source; weights; and for a gate that shares and one that does not the gap, the
result and gradients; the regulariser of the corrections with the rows that it draws.
"""
import os

import torch
import torch.nn.functional as F
from safetensors.torch import save_file

REFERENCE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "reference")
ETA_SHARED, ETA_SPLIT = 0.999, 0.01


def gap_of(z, source):
    e = [z[rows].mean() / (z[rows].var() + 1e-5).sqrt() for rows in (source, ~source)]
    return e[0], e[1], torch.tanh((e[0] - e[1]).abs() / (e[1].abs() + 1e-5))


def attention(y, source, w, eta, scale):
    z = y.mean((2, 3))
    gap = gap_of(z, source)[2]
    a = F.linear(z, w["squeeze.weight"], w["squeeze.bias"])
    if gap >= eta:
        own = F.linear(z, w["target_squeeze.weight"], w["target_squeeze.bias"])
        a = torch.where(source[:, None], a, own)
    factor = scale * torch.sigmoid(F.linear(torch.relu(a), w["excitation.weight"], w["excitation.bias"]))
    return y * factor[:, :, None, None], gap


def unbiased(k, a, b):
    """Of a kernel matrix, with lists of rows."""
    n, m = len(a), len(b)
    aa, bb, ab = k[a][:, a], k[b][:, b], k[a][:, b]
    return (aa.sum() - aa.trace()) / (n * (n - 1)) + (bb.sum() - bb.trace()) / (m * (m - 1)) - 2 * ab.mean()


def class_mmd(x, y, labels, chosen, bandwidth, count):
    rows = torch.cat([x, y])
    d = (rows[:, None] - rows[None]).pow(2).sum(2)
    middle = bandwidth or d.detach().sum() / (len(rows) * (len(rows) - 1))
    k = sum(torch.exp(-d / (middle * 2.0 ** (i - count // 2))) for i in range(count))
    total = 0
    for label, drawn in enumerate(chosen):
        a, b = torch.nonzero(labels == label)[:, 0], len(x) + torch.nonzero(drawn)[:, 0]
        if len(a) > 1 and len(b) > 1:
            total = total + unbiased(k, a, b)
    return total / len(chosen)


def main():
    g = torch.Generator().manual_seed(61)
    source = torch.tensor([True, False, True, True, False])
    y = torch.randn(5, 6, 3, 2, generator=g, dtype=torch.float64) + 0.5 + 0.3 * source[:, None, None, None]
    shapes = {"squeeze.weight": (3, 6), "squeeze.bias": (3,), "target_squeeze.weight": (3, 6), "target_squeeze.bias": (3,),
              "excitation.weight": (6, 3), "excitation.bias": (6,)}
    w = {name: torch.randn(*shape, generator=g, dtype=torch.float64).requires_grad_() for name, shape in shapes.items()}
    out = {"y": y, "source": source.int(), "direction": torch.randn(y.shape, generator=g, dtype=torch.float64)} | w
    e = gap_of(y.mean((2, 3)), source)
    out["ratios"] = torch.stack(e)
    for name, eta in (("shared", ETA_SHARED), ("split", ETA_SPLIT)):
        y.requires_grad_()
        result, gap = attention(y, source, w, eta, 2)
        grads = torch.autograd.grad((result * out["direction"]).sum(), [y] + list(w.values()), allow_unused=True)
        out[name] = result
        out |= {f"{name}.grad.{k}": v for k, v in zip(["y"] + list(w), grads) if v is not None}
    x, corrected = (torch.randn(7, 4, generator=g, dtype=torch.float64).requires_grad_() for _ in range(2))
    labels = torch.tensor([0, 1, 0, 2, 1, 0, 1])
    chosen = torch.tensor([[1, 0, 1, 0, 0, 1, 0], [0, 1, 1, 0, 0, 0, 0], [1, 1, 1, 1, 1, 1, 1]])
    out |= {"features": x, "corrected": corrected, "labels": labels.int(), "chosen": chosen.int()}
    for name, bandwidth, count in (("own", None, 5), ("fixed", 1.68, 1)):
        value = class_mmd(x, corrected, labels, chosen, bandwidth, count)
        out[f"class_mmd.{name}"] = value
        out[f"class_mmd.{name}.grad"], = torch.autograd.grad(value, [corrected])
    save_file({k: (v.detach() if v.dtype == torch.int32 else v.detach().float()).contiguous() for k, v in out.items()},
              os.path.join(REFERENCE, "gdcan.safetensors"), metadata={"format": "pt"})
    print("gap", e[2].item())


if __name__ == "__main__":
    main()
