#!/usr/bin/env python3
"""Convolutions of ResNet-18, forward and backward, in Cambium and in PyTorch in turn, and the ratios.

    VENV/bin/python bench/compare_convolution.py --program build/bench/convolution [--dtype f32] [--rounds 3] [--seconds 1]

VENV has torch.  PyTorch runs twice, with row-major and with channels-last tensors, and the faster of the two is what we are compared to.  A
figure is the fastest run of a round, a ratio is taken within a round, and what is printed is the median over rounds.
"""
import argparse
import json
import statistics
import subprocess
import time

import torch
import torch.nn.functional as F

# batch, channels, outputs, size, kernel, stride
SHAPES = [(8, 64, 64, 56, 3, 1), (8, 64, 128, 56, 3, 2), (8, 128, 128, 28, 3, 1), (8, 256, 256, 14, 3, 1), (8, 512, 512, 7, 3, 1),
          (8, 64, 128, 56, 1, 2), (8, 3, 64, 224, 7, 2),
          (32, 64, 64, 16, 3, 1), (32, 128, 128, 8, 3, 1), (32, 256, 256, 4, 3, 1), (32, 512, 512, 2, 3, 1)]
NETWORKS = [(32, 64), (8, 224)]


class Block(torch.nn.Module):
    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.conv1 = torch.nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = torch.nn.BatchNorm2d(outputs, track_running_stats=False)
        self.conv2 = torch.nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = torch.nn.BatchNorm2d(outputs, track_running_stats=False)
        self.down = None if stride == 1 else torch.nn.Sequential(
            torch.nn.Conv2d(inputs, outputs, 1, stride, bias=False), torch.nn.BatchNorm2d(outputs, track_running_stats=False))

    def forward(self, x):
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)), inplace=True)))
        return F.relu(y + (self.down(x) if self.down else x), inplace=True)


def network():
    blocks = [Block(64 << max(0, s - (i == 0)), 64 << s, 2 if s and i == 0 else 1) for s in range(4) for i in range(2)]
    return torch.nn.Sequential(torch.nn.Conv2d(3, 64, 7, 2, 3, bias=False), torch.nn.BatchNorm2d(64, track_running_stats=False),
                               torch.nn.ReLU(inplace=True), torch.nn.MaxPool2d(3, 2, 1), *blocks, torch.nn.AdaptiveAvgPool2d(1),
                               torch.nn.Flatten(), torch.nn.Linear(512, 1000, bias=False))


def fastest(step, seconds, clock):
    step()
    step()
    best, start, runs = float("inf"), clock(), 0
    while runs < 3 or clock() - start < seconds:
        begin = clock()
        step()
        best, runs = min(best, clock() - begin), runs + 1
    return best


def theirs(shape, args, memory_format):
    """Seconds of forward and backward, with gradients of the weights, and of the input of a single convolution."""
    dtype = torch.bfloat16 if args.dtype == "bf16" else torch.float32
    torch.manual_seed(1)
    if len(shape) == 2:
        batch, size = shape
        model, x = network(), torch.randn(batch, 3, size, size)
    else:
        batch, channels, outputs, size, kernel, stride = shape
        model, x = torch.nn.Conv2d(channels, outputs, kernel, stride, kernel // 2, bias=False), torch.randn(batch, channels, size, size)
    model = model.to(dtype).to(memory_format=memory_format)
    x = x.to(dtype).to(memory_format=memory_format).requires_grad_(len(shape) > 2)

    def step():
        model.zero_grad()
        x.grad = None
        model(x).float().mean().backward()

    return fastest(step, args.seconds, time.process_time if args.processor_time else time.perf_counter)


def ours(shape, args):
    names = ("batch", "size") if len(shape) == 2 else ("batch", "channels", "outputs", "size", "kernel", "stride")
    command = [args.program, "--threads", str(args.threads), "--seconds", str(args.seconds), "--dtype", args.dtype,
               "--processor-time", str(args.processor_time).lower()]
    command += [word for name, value in zip(names, shape) for word in (f"--{name}", str(value))] + ["--network", "true"] * (len(shape) == 2)
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--program", required=True, help="the built bench/convolution program")
    parser.add_argument("--dtype", default="f32", choices=("f32", "bf16"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--networks", action="store_true", help="only the whole networks")
    parser.add_argument("--processor-time", action="store_true", help="for one thread on a busy machine")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print("| batch, channels, outputs, size, kernel, stride | ms: us | torch row-major | torch channels-last | torch's faster / us | allocations |")
    print("|" + "---|" * 6)
    for shape in NETWORKS if args.networks else SHAPES + NETWORKS:
        rounds = [(ours(shape, args), theirs(shape, args, torch.contiguous_format), theirs(shape, args, torch.channels_last))
                  for _ in range(args.rounds)]
        us, row, last = (1e3 * statistics.median(r) for r in ([r[0]["seconds"] for r in rounds], [r[1] for r in rounds], [r[2] for r in rounds]))
        ratio = statistics.median(min(r[1], r[2]) / r[0]["seconds"] for r in rounds)
        name = ", ".join(map(str, shape)) if len(shape) > 2 else f"network of ResNet-18's shape, batch {shape[0]}, size {shape[1]}"
        print(f"| {name} | {us:.2f} | {row:.2f} | {last:.2f} | {ratio:.2f} | {rounds[-1][0]['allocations']} |", flush=True)
    print(f"\n{args.dtype}, {args.threads} threads, torch {torch.__version__}, medians of {args.rounds} rounds.")


if __name__ == "__main__":
    main()
