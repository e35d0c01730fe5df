"""The losses of AdaMI and AdaEnt as their papers and the authors' code have them, in torch: values and gradients in reference/adami.safetensors.

Of softmax p (B, K, N): entropy of places with weights of labels, ratios of labels (the mean; or, as norm_soft_size has it, probabilities over the largest of
their place, brought to a sum of 1), divergences of them from a prior both ways (means over images), and the penalty on sizes."""
import argparse
import os

import torch
from safetensors.torch import save_file

B, K, H, W = 3, 4, 5, 6
EPS = 1e-10


def entropy(logits, weights):
    p = logits.softmax(1)
    return -torch.einsum("bkhw,k,bkhw->", p, weights, torch.log(p + EPS)) / p.sum()


def mean_ratio(logits):
    return logits.softmax(1).flatten(2).mean(2)


def largest_ratio(logits):
    p = logits.softmax(1).flatten(2)
    sizes = (p / p.amax(1, keepdim=True)).sum(2)
    return sizes / sizes.sum(1, keepdim=True)


def divergence(ratio, prior):
    return (ratio * torch.log(ratio + EPS) - ratio * torch.log(prior + EPS)).sum(1).mean()


def reverse(ratio, prior):
    return divergence(prior, ratio)


def penalty(ratio, prior, slack=0.2):
    low, high = (1 - slack) * prior, (1 + slack) * prior
    return torch.where(ratio < low, (ratio - low) ** 2, torch.where(ratio > high, (ratio - high) ** 2, torch.zeros_like(ratio))).sum(1).mean()


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", default=os.path.join(os.path.dirname(__file__), "..", "reference", "adami.safetensors"))
    args = parser.parse_args()
    torch.manual_seed(3)
    logits = (2 * torch.randn(B, K, H, W)).double().requires_grad_()
    prior = torch.rand(B, K).softmax(1).double()
    prior[1, 2] = 0  # an absent label
    prior = prior / prior.sum(1, keepdim=True)
    rarity = 1 / prior.mean(0)
    weights = rarity / rarity.sum()
    values = {"entropy": entropy(logits, weights), "entropy_even": entropy(logits, torch.ones(K, dtype=torch.float64)),
              "mean": divergence(mean_ratio(logits), prior), "largest": divergence(largest_ratio(logits), prior),
              "mean_reverse": reverse(mean_ratio(logits), prior), "largest_reverse": reverse(largest_ratio(logits), prior),
              "penalty": penalty(mean_ratio(logits), prior)}
    tensors = {"logits": logits.detach(), "prior": prior, "weights": weights, "mean_ratio": mean_ratio(logits).detach(),
               "largest_ratio": largest_ratio(logits).detach()}
    for name, value in values.items():
        tensors[name] = value.detach()
        tensors[f"{name}.grad"] = torch.autograd.grad(value, logits, retain_graph=True)[0]
    save_file({name: t.contiguous() for name, t in tensors.items()}, args.out)


if __name__ == "__main__":
    main()
