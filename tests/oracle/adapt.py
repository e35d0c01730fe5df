#!/usr/bin/env python3
"""Test-time adaptation in a few lines of torch each, from the papers' equations, in f64, on the tiny ResNet of reference/vision.

Writes <out>/<case>.safetensors:
    input.<i>                 f32 (rows, channels, H, W), the batches; all.safetensors has them once for all cases
    scores.<i>                f32 (rows, labels), what is answered to batch i; probabilities of LAME
    final.<tensor>            f32, parameters behind the last batch, by the name of their tensor in the checkpoint
The options of each case are those of the same name in tests/unit/test_adapt.c.
"""
import argparse
import math
import os

import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional as F
from transformers import ResNetForImageClassification

BATCHES, ROWS, SOURCE = 4, 8, 2


class Norm(torch.nn.Module):
    """Batch norm by running statistics, the batch's, a mix, or running ones that become the mix."""

    def __init__(self, norm):
        super().__init__()
        self.weight, self.bias, self.eps = norm.weight, norm.bias, norm.eps
        self.mean, self.var = norm.running_mean.double(), norm.running_var.double()
        self.mode, self.running = "running", 1.0

    def forward(self, x):
        mean, var = self.mean, self.var
        if self.mode != "running":
            share = 0.0 if self.mode == "batch" else self.running
            var_of, mean_of = torch.var_mean(x, dim=[0, 2, 3], unbiased=False)
            mean, var = share * self.mean + (1 - share) * mean_of, share * self.var + (1 - share) * var_of
            if self.mode == "drifting":
                self.mean, self.var = mean.detach(), var.detach()
        shape = [1, -1, 1, 1]
        return (x - mean.view(shape)) / torch.sqrt(var.view(shape) + self.eps) * self.weight.view(shape) + self.bias.view(shape)


def network(path, mode, running=1.0):
    model = ResNetForImageClassification.from_pretrained(path).double().eval()
    for name, module in list(model.named_modules()):
        if isinstance(module, torch.nn.BatchNorm2d):
            parent = model.get_submodule(name.rpartition(".")[0])
            norm = Norm(module)
            norm.mode, norm.running = mode, running
            setattr(parent, name.rpartition(".")[2], norm)
    return model


def norms(model):
    return [m for m in model.modules() if isinstance(m, Norm)]


def set_mode(model, mode):
    for n in norms(model):
        n.mode = mode


def trainable(model, which, skip=()):
    chosen = {}
    for name, p in model.named_parameters():
        norm = isinstance(model.get_submodule(name.rpartition(".")[0]), Norm)
        on = (which == "all" or (which == "norms" and norm)) and not any(s in name for s in skip)
        p.requires_grad_(on)
        if on:
            chosen[name] = p
    return chosen


def entropy(z):
    return -(z.softmax(1) * z.log_softmax(1)).sum(1)


def cross(z, t):
    return -(t.softmax(1) * z.log_softmax(1)).sum(1)


def sgd(ps, rate):
    return torch.optim.SGD(ps.values(), lr=rate, momentum=0.9)


def adam(ps, rate):
    return torch.optim.Adam(ps.values(), lr=rate)


def descend(optimizer, loss):
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


# ---- methods: each gives scores of the batches, and the model ----


def answers(path, batches, mode, running=1.0):
    model = network(path, mode, running)
    with torch.no_grad():
        return [model(x).logits for x in batches], model


def tent(path, batches, make, rate):
    model = network(path, "batch")
    optimizer = make(trainable(model, "norms"), rate)
    said = []
    for x in batches:
        z = model(x).logits
        said.append(z.detach())
        descend(optimizer, entropy(z).mean())
    return said, model


def eata(path, batches, source, margin, similar, alpha):
    model = network(path, "batch")
    ps = trainable(model, "norms")
    origin = {k: p.detach().clone() for k, p in ps.items()}
    fisher = {k: torch.zeros_like(p) for k, p in ps.items()}
    for x in source:
        z = model(x).logits
        model.zero_grad()
        F.cross_entropy(z, z.argmax(1)).backward()
        for k, p in ps.items():
            fisher[k] += p.grad ** 2 / len(source)
    optimizer, mean, said = sgd(ps, 0.05), None, []
    for x in batches:
        z = model(x).logits
        said.append(z.detach())
        e, p, e0 = entropy(z), z.softmax(1).detach(), margin * math.log(z.shape[1])
        chosen = e.detach() < e0
        if mean is not None:
            chosen &= F.cosine_similarity(mean[None], p, dim=1).abs() < similar
        if not chosen.any():
            continue
        mean = p[chosen].mean(0) if mean is None else 0.9 * mean + 0.1 * p[chosen].mean(0)
        loss = (e * torch.exp(e0 - e.detach()))[chosen].mean()
        descend(optimizer, loss + alpha * sum((fisher[k] * (ps[k] - origin[k]) ** 2).sum() for k in ps))
    return said, model


def sar(path, batches, margin, radius):
    model = network(path, "batch")
    ps = trainable(model, "norms", skip=("stages.1.layers.0.layer.1.", "stages.1.layers.0.shortcut."))
    optimizer, said = sgd(ps, 0.05), []
    for x in batches:
        z = model(x).logits
        said.append(z.detach())
        e, e0 = entropy(z), margin * math.log(z.shape[1])
        chosen = e.detach() < e0
        optimizer.zero_grad()
        e[chosen].mean().backward()
        size = torch.sqrt(sum((p.grad ** 2).sum() for p in ps.values()))
        was = {k: p.detach().clone() for k, p in ps.items()}
        with torch.no_grad():
            for p in ps.values():
                p += radius * p.grad / (size + 1e-12)
        e = entropy(model(x).logits)
        still = chosen & (e.detach() < e0)
        optimizer.zero_grad()
        if still.any():
            e[still].mean().backward()
        with torch.no_grad():
            for k, p in ps.items():
                p.copy_(was[k])
        if still.any():
            optimizer.step()
    return said, model


def cotta(path, batches, momentum, symmetric):
    student, teacher = network(path, "batch"), network(path, "batch")
    ps = trainable(student, "all")
    average = dict(teacher.named_parameters())
    optimizer, said = sgd(ps, 0.01), []
    for x in batches:
        with torch.no_grad():
            t = teacher(x).logits
        said.append(t)
        z = student(x).logits
        loss = cross(z, t).mean()
        descend(optimizer, 0.5 * loss + 0.5 * cross(t, z).mean() if symmetric else loss)
        with torch.no_grad():
            for k, p in ps.items():
                average[k].copy_(momentum * average[k] + (1 - momentum) * p)
    return said, student


class Memory:
    """CSTU (section 3.3)."""

    def __init__(self, size, labels):
        self.size, self.labels, self.items = size, labels, []

    def speaks_against(self, age, unsure):
        return 1 / (1 + math.exp(-age / self.size)) + unsure / math.log(self.labels)

    def add(self, x, label, unsure):
        count = lambda k: sum(i["label"] == k for i in self.items)
        full = len(self.items) >= self.size
        candidates = None
        if count(label) >= self.size / self.labels:
            candidates = [label]
        elif full:
            most = max(count(k) for k in range(self.labels))
            candidates = [k for k in range(self.labels) if count(k) == most]
        keep = True
        if candidates is not None:
            worst = max((i for i in self.items if i["label"] in candidates), key=lambda i: self.speaks_against(i["age"], i["unsure"]))
            keep = self.speaks_against(worst["age"], worst["unsure"]) > self.speaks_against(0, unsure)
            if keep:
                self.items = [i for i in self.items if i is not worst]
        if keep:
            self.items.append(dict(x=x, label=label, unsure=unsure, age=0))
        for i in self.items:
            i["age"] += 1


def rotta(path, batches, size, every, rate):
    student, teacher = network(path, "drifting", 0.9), network(path, "drifting", 0.9)
    ps = trainable(student, "norms")
    average = dict(teacher.named_parameters())
    optimizer, said, seen = sgd(ps, 0.05), [], 0
    memory = Memory(size, student.config.num_labels)
    for x in batches:
        set_mode(teacher, "running")
        with torch.no_grad():
            t = teacher(x).logits
        set_mode(teacher, "drifting")
        said.append(t)
        p = t.softmax(1)
        unsure = -(p * torch.log(p + 1e-6)).sum(1)
        for i in range(len(x)):
            memory.add(x[i], int(p[i].argmax()), float(unsure[i]))
            seen += 1
            if seen % every == 0:
                xs = torch.stack([m["x"] for m in memory.items])
                old = torch.tensor([math.exp(-m["age"] / size) for m in memory.items]).double()
                with torch.no_grad():
                    target = teacher(xs).logits
                descend(optimizer, (cross(student(xs).logits, target) * old / (1 + old)).mean())
                with torch.no_grad():
                    for k, q in ps.items():
                        average[k].copy_((1 - rate) * average[k] + rate * q)
    return said, student


def roid(path, batches, consistency):
    model = network(path, "batch")
    ps = trainable(model, "norms")
    origin = {k: p.detach().clone() for k, p in ps.items()}
    optimizer, said, mean = sgd(ps, 0.02), [], torch.full((model.config.num_labels,), 1 / model.config.num_labels).double()
    stretch = lambda v: (v - v.min()) / (v.max() - v.min())
    for x in batches:
        z = model(x).logits
        n, k = z.shape
        with torch.no_grad():
            unlike = stretch(1 - F.cosine_similarity(mean[None], z.softmax(1), dim=1))
            weight = torch.exp(unlike * stretch(-entropy(z)) * 3)
            weight[unlike < unlike.mean()] = 0
            mean = 0.9 * mean + 0.1 * z.softmax(1).mean(0)
        p = z.softmax(1).clamp(0, 0.99)
        loss = (weight * -(p * torch.log(p / (1 - p) + 1e-5)).sum(1)).sum() / n
        counts = weight > 0
        if consistency:
            v = model(x[counts]).logits
            loss = loss + (weight[counts] * 0.5 * (cross(v, z[counts]) + cross(z[counts], v))).sum() / n
        descend(optimizer, loss)
        with torch.no_grad():
            for name, q in ps.items():
                q.copy_(0.99 * q + 0.01 * origin[name])
        prior = z.detach().softmax(1).mean(0)
        smooth = max(1 / n, 1 / k) / prior.max()
        said.append(z.detach() * (prior + smooth) / (1 + smooth * k))
    return said, model


def lame(path, batches, neighbours):
    model = network(path, "running")
    said = []
    with torch.no_grad():
        for x in batches:
            out = model(x, output_hidden_states=True)
            f = F.normalize(out.hidden_states[-1].mean([2, 3]), dim=1)
            d = torch.cdist(f, f)
            d.fill_diagonal_(math.inf)
            w = torch.zeros_like(d).scatter(1, d.topk(neighbours, largest=False).indices, 1.0)
            w = (w + w.T) / 2
            log_p = torch.log(out.logits.softmax(1) + 1e-10)
            z = out.logits.softmax(1)
            for _ in range(100):
                z = (log_p + w @ z).softmax(1)
            said.append(z)
    return said, model


def memo(path, batches, rate):
    said = []
    for x in batches:
        rows = []
        for i in range(len(x)):
            model = network(path, "mixed", 16 / 17)
            optimizer = torch.optim.SGD(trainable(model, "all").values(), lr=rate)
            descend(optimizer, entropy(model(x[i:i + 1]).logits).mean())
            with torch.no_grad():
                rows.append(model(x[i:i + 1]).logits)
        said.append(torch.cat(rows))
    return said, network(path, "running")


def main():
    here = os.path.dirname(os.path.abspath(__file__))
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", default=os.path.join(here, "..", "reference", "adapt"))
    out = parser.parse_args().out
    path = os.path.join(here, "..", "reference", "vision", "resnet_basic")
    os.makedirs(out, exist_ok=True)
    generator = torch.Generator().manual_seed(65)
    batches = [(0.3 * i + (1 + 0.2 * i) * torch.randn((ROWS, 3, 16, 16), generator=generator)).float() for i in range(BATCHES)]
    source = [torch.randn((ROWS, 3, 16, 16), generator=generator).float() for _ in range(SOURCE)]
    save_file({**{f"input.{i}": x for i, x in enumerate(batches)}, **{f"source.{i}": x for i, x in enumerate(source)}},
              os.path.join(out, "all.safetensors"))
    batches, source = [x.double() for x in batches], [x.double() for x in source]
    cases = {
        "source": answers(path, batches, "running"),
        "bn": answers(path, batches, "batch"),
        "bn_mixed": answers(path, batches, "mixed", 0.6),
        "bn_drifting": answers(path, batches, "drifting", 0.6),
        "tent": tent(path, batches, sgd, 0.05),
        "tent_adam": tent(path, batches, adam, 1e-3),
        "eata": eata(path, batches, source, 0.7, 0.95, 10.0),
        "rdumb": eata(path, batches, [], 0.7, 0.95, 0.0),
        "sar": sar(path, batches, 0.8, 0.05),
        "cotta": cotta(path, batches, 0.9, False),
        "cotta_symmetric": cotta(path, batches, 0.9, True),
        "rotta": rotta(path, batches, 10, 8, 0.1),
        "roid": roid(path, batches, True),
        "lame": lame(path, batches, 3),
        "memo": memo(path, batches, 0.05),
    }
    for name, (said, model) in cases.items():
        tensors = {f"scores.{i}": s for i, s in enumerate(said)}
        if name not in ("source", "bn", "bn_mixed", "bn_drifting", "lame", "memo"):
            tensors.update({"final." + k: p.detach() for k, p in model.named_parameters() if p.requires_grad})
        save_file({k: v.float().contiguous() for k, v in tensors.items()}, os.path.join(out, name + ".safetensors"))
    print({k: os.path.getsize(os.path.join(out, k + ".safetensors")) for k in cases})


if __name__ == "__main__":
    main()
