#!/usr/bin/env python3
"""LSTM and GRU, forward, and forward with backward, in Cambium and in torch.nn in turn, and the ratios.

    VENV/bin/python bench/compare_recurrent.py --program build/bench/recurrent [--rounds 3] [--seconds 1] [--threads 1]

A figure is the fastest run of a round, a ratio is taken within a round, and what is printed is the median over rounds.  The last shape of each
is that of a CRNN: two layers in both directions.
"""
import argparse
import json
import statistics
import subprocess
import time

import torch

# batch, times, inputs, hidden, layers, both directions
SHAPES = [(1, 32, 256, 256, 1, False), (8, 64, 128, 128, 1, False), (16, 64, 256, 256, 1, False), (64, 32, 512, 512, 1, False),
          (16, 32, 512, 256, 2, True)]


def fastest(step, seconds, clock):
    step()
    step()
    best, start, runs = float("inf"), clock(), 0
    while runs < 3 or clock() - start < seconds:
        begin = clock()
        step()
        best, runs = min(best, clock() - begin), runs + 1
    return best


def theirs(kind, shape, train, args):
    batch, times, inputs, hidden, layers, both = shape
    torch.manual_seed(1)
    model = getattr(torch.nn, kind)(inputs, hidden, layers, bidirectional=both)
    x = torch.randn(times, batch, inputs, requires_grad=train)

    def step():
        if not train:
            with torch.no_grad():
                model(x)
            return
        model.zero_grad()
        x.grad = None
        model(x)[0].mean().backward()

    return fastest(step, args.seconds, time.process_time if args.processor_time else time.perf_counter)


def ours(kind, shape, train, args):
    names = ("batch", "times", "inputs", "hidden", "layers", "bidirectional")
    command = [args.program, "--threads", str(args.threads), "--seconds", str(args.seconds), "--gru", str(kind == "GRU").lower(), "--train",
               str(train).lower(), "--processor-time", str(args.processor_time).lower()]
    command += [word for name, value in zip(names, shape) for word in (f"--{name}", str(value).lower())]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--program", required=True, help="the built bench/recurrent program")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--kinds", nargs="+", default=["LSTM", "GRU"])
    parser.add_argument("--processor-time", action="store_true", help="for one thread on a busy machine")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print("| kind, batch, times, inputs, hidden, layers, both directions | | ms: us | torch | torch / us | allocations |")
    print("|" + "---|" * 6)
    for kind in args.kinds:
        for shape in SHAPES:
            for train in False, True:
                rounds = [(ours(kind, shape, train, args), theirs(kind, shape, train, args)) for _ in range(args.rounds)]
                us, them = 1e3 * statistics.median(r[0]["seconds"] for r in rounds), 1e3 * statistics.median(r[1] for r in rounds)
                ratio = statistics.median(r[1] / r[0]["seconds"] for r in rounds)
                print(f"| {kind}, {', '.join(map(str, shape))} | {'forward and backward' if train else 'forward'} | {us:.2f} | {them:.2f} | "
                      f"{ratio:.2f} | {rounds[-1][0]['allocations']} |", flush=True)
    print(f"\nf32, {args.threads} threads, torch {torch.__version__}, medians of {args.rounds} rounds.")


if __name__ == "__main__":
    main()
