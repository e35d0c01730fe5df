#!/usr/bin/env python3
"""The peer side of bench/compare_adaptation.py: Tent and CoTTA in PyTorch, as their papers and the augmentations of torchvision have them, on
networks of transformers.

--method source is a forward pass of the network as it is.  CoTTA: a copy as teacher, another as anchor, --views passes of the teacher each over
another view (colours in a random order, gamma, padding by half a side, a turn, shift and scale, a blur, a mirror, noise), a step of Adam on all, the
moving average, and 1 % of the weights back to the source's.  The teacher's pass over the images themselves, which the authors make and then do not
use where views are looked at, is left out.
"""
import argparse
import copy
import json
import os
import random
import resource
import statistics
import time

WARM_UP = 2  # steps left out of the speed


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True)
    parser.add_argument("--inputs", required=True)
    parser.add_argument("--method", choices=("source", "tent", "cotta"), default="tent")
    parser.add_argument("--views", type=int, default=32)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--processor-time", choices=("true", "false"), default="false")
    parser.add_argument("--setting", default="plain")
    return parser.parse_args()


args = arguments()
os.environ["OMP_NUM_THREADS"] = str(args.threads)
os.environ["HF_HUB_OFFLINE"] = "1"
import numpy  # noqa: E402
import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402
import transformers  # noqa: E402

NORMS = (torch.nn.BatchNorm2d, torch.nn.LayerNorm)


# ---- views: torchvision's functions on tensors ----

def grey(x):
    return (0.2989 * x[:, 0] + 0.587 * x[:, 1] + 0.114 * x[:, 2]).unsqueeze(1)


def blend(x, other, ratio):
    return (ratio * x + (1.0 - ratio) * other).clamp(0, 1)


def to_hsv(x):
    r, g, b = x.unbind(1)
    most, least = x.max(1).values, x.min(1).values
    flat = most == least
    spread = most - least
    ones = torch.ones_like(most)
    s = spread / torch.where(flat, ones, most)
    divisor = torch.where(flat, ones, spread)
    rc, gc, bc = (most - r) / divisor, (most - g) / divisor, (most - b) / divisor
    hr = (most == r) * (bc - gc)
    hg = ((most == g) & (most != r)) * (2.0 + rc - bc)
    hb = ((most != g) & (most != r)) * (4.0 + gc - rc)
    return torch.fmod((hr + hg + hb) / 6.0 + 1.0, 1.0), s, most


def from_hsv(h, s, v):
    i = torch.floor(h * 6.0)
    f = h * 6.0 - i
    i = i.to(torch.int32) % 6
    p, q, t = (v * (1 - s)).clamp(0, 1), (v * (1 - s * f)).clamp(0, 1), (v * (1 - s * (1 - f))).clamp(0, 1)
    mask = (i.unsqueeze(1) == torch.arange(6).view(1, -1, 1, 1)).to(v.dtype)
    table = torch.stack((torch.stack((v, q, p, p, t, v), 1), torch.stack((t, v, v, q, p, p), 1), torch.stack((p, p, t, v, v, q), 1)), 1)
    return torch.einsum("nijk,nxijk->nxjk", mask, table)


def colours(x):
    low, high = (0.6, 0.7, 0.5, -0.06, 0.7), (1.4, 1.3, 1.5, 0.06, 1.3)
    factor = [random.uniform(a, b) for a, b in zip(low, high)]
    for which in random.sample(range(5), 5):
        f = factor[which]
        if which == 0:
            x = (x * f).clamp(0, 1)
        elif which == 1:
            x = blend(x, grey(x).mean((-3, -2, -1), keepdim=True), f)
        elif which == 2:
            x = blend(x, grey(x), f)
        elif which == 3:
            h, s, v = to_hsv(x)
            x = from_hsv((h + f) % 1.0, s, v)
        else:
            x = x.clamp(1e-8, 1.0).pow(f).clamp(0, 1)
    return x


def moved(x):
    n, c, h, w = x.shape
    x = F.pad(x, [w // 2, w // 2, h // 2, h // 2], mode="replicate")
    angle, scale = numpy.deg2rad(random.uniform(-15, 15)), random.uniform(0.9, 1.1)
    cosine, sine = numpy.cos(angle) / scale, numpy.sin(angle) / scale
    theta = torch.tensor([[[cosine, sine, random.uniform(-1, 1) / 8], [-sine, cosine, random.uniform(-1, 1) / 8]]], dtype=torch.float32)
    grid = F.affine_grid(theta, [1, c, x.shape[2], x.shape[3]], align_corners=False).expand(n, -1, -1, -1)
    return F.grid_sample(x, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def blurred(x):
    sigma = random.uniform(0.001, 0.5)
    at = torch.linspace(-2, 2, 5)
    line = torch.exp(-0.5 * (at / sigma) ** 2)
    line = line / line.sum()
    kernel = torch.outer(line, line).expand(x.shape[1], 1, 5, 5)
    return F.conv2d(F.pad(x, [2, 2, 2, 2], mode="reflect"), kernel, groups=x.shape[1])


def view(x):
    n, c, h, w = x.shape
    x = moved(colours(x.clamp(0, 1)))
    x = blurred(x)[:, :, h // 2:h // 2 + h, w // 2:w // 2 + w]
    if random.random() < 0.5:
        x = x.flip(-1)
    return (x + 0.005 * torch.randn_like(x)).clamp(0, 1)


# ---- methods ----

def entropy(logits):
    return -(logits.softmax(1) * logits.log_softmax(1)).sum(1)


def batch_statistics(model):
    for m in model.modules():
        if isinstance(m, torch.nn.BatchNorm2d):
            m.track_running_stats, m.running_mean, m.running_var = False, None, None


class Tent:
    def __init__(self, model):
        self.model = model.train().requires_grad_(False)
        batch_statistics(model)
        self.trained = [p for m in model.modules() if isinstance(m, NORMS) for p in m.requires_grad_(True).parameters(recurse=False)]
        self.optimizer = torch.optim.Adam(self.trained, lr=1e-3)

    def step(self, x):
        logits = self.model(pixel_values=x).logits
        entropy(logits).mean(0).backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        return logits.detach()


class Cotta:
    def __init__(self, model):
        self.model = model.train().requires_grad_(True)
        batch_statistics(model)
        self.source = {k: v.clone() for k, v in model.state_dict().items()}
        self.anchor, self.teacher = copy.deepcopy(model).requires_grad_(False), copy.deepcopy(model).requires_grad_(False)
        self.trained = list(model.parameters())
        self.optimizer = torch.optim.Adam(self.trained, lr=1e-3)

    def step(self, x):
        logits = self.model(pixel_values=x).logits
        with torch.no_grad():
            self.anchor(pixel_values=x).logits.softmax(1).max(1)[0].mean().item()
            target = torch.stack([self.teacher(pixel_values=view(x)).logits for _ in range(args.views)]).mean(0)
        loss = -(target.softmax(1) * logits.log_softmax(1)).sum(1).mean(0)
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        for old, new in zip(self.teacher.parameters(), self.model.parameters()):
            old.data[:] = 0.999 * old[:].data[:] + (1 - 0.999) * new[:].data[:]
        for name, p in self.model.named_parameters():
            mask = (torch.rand(p.shape) < 0.01).float()
            with torch.no_grad():
                p.data = self.source[name] * mask + p * (1.0 - mask)
        return target


class Source:
    def __init__(self, model):
        self.model, self.trained = model.eval().requires_grad_(False), []

    def step(self, x):
        with torch.no_grad():
            return self.model(pixel_values=x).logits


def main():
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    random.seed(0)
    kind = getattr(transformers, json.load(open(os.path.join(args.model, "config.json")))["architectures"][0])
    options = {"attn_implementation": "sdpa"} if "ResNet" not in kind.__name__ else {}
    model = kind.from_pretrained(args.model, dtype=torch.float32, **options)
    last = torch.channels_last if "channels-last" in args.setting else torch.contiguous_format
    model = model.to(memory_format=last)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    pixels = torch.from_numpy(numpy.fromfile(args.inputs, dtype="<f4")).view(-1, args.batch_size, 3, args.size, args.size)
    batches = [batch.contiguous(memory_format=last) for batch in pixels]
    method = {"source": Source, "tent": Tent, "cotta": Cotta}[args.method](model)
    now = time.process_time if args.processor_time == "true" else time.perf_counter
    seconds = []
    for i in range(args.steps):
        start = now()
        logits = method.step(batches[i % len(batches)])
        answers = logits[0].softmax(0)[:3].tolist()
        seconds.append(now() - start)
    timed = seconds[WARM_UP:] if args.steps > 3 else seconds
    print(json.dumps(dict(
        seconds_per_step=statistics.median(timed), examples_per_second=args.batch_size / statistics.median(timed),
        peak_rss_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        trainable_parameters=sum(p.numel() for p in method.trained), answers=answers,
        versions=dict(torch=torch.__version__, transformers=transformers.__version__))))


if __name__ == "__main__":
    main()
