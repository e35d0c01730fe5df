#!/usr/bin/env python3
"""Cambium and PyTorch on the same classifiers of images and texts, trained whole and by LoRA, in turn, and the ratios.

    python3 bench/compare_classifiers.py --peer-python VENV/bin/python --program build/bench/classifier [--case resnet-18-64 ...]
        [--train whole adapter] [--dtype f32 bf16] [--rounds 3] [--steps 6] [--threads 1] [--processor-time]

Both sides read the same weights, initial adapter and examples (made by bench/peer/make_classifier.py).  The peer first takes a few steps in
each of its settings (memory order, autocast or frozen weights in bf16) and goes on with its fastest.  Runs then alternate, peer and us,
--rounds times; figures are medians over rounds of the median step, ratios are taken within a round.
--train norms nothing: what a step of Tent takes beside a forward pass.
"""
import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
# name: shape, height and width (or tokens), batch
CASES = {
    "resnet-18-64": ("resnet-18", 64, 64),
    "resnet-18-224": ("resnet-18", 224, 16),
    "vit-tiny-8-64": ("vit-tiny-8", 64, 64),
    "vit-tiny-16-224": ("vit-tiny-16", 224, 16),
    "bert-base": ("bert-base", 128, 16),
    "resnet-18-32": ("resnet-18", 32, 64),
}
FEW = 4  # steps of a setting that is tried


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peer-python", required=True, help="a Python with torch, transformers and peft")
    parser.add_argument("--program", required=True, help="the built bench/classifier program")
    parser.add_argument("--case", nargs="+", choices=CASES, default=[c for c in CASES if c != "resnet-18-32"])
    parser.add_argument("--train", nargs="+", choices=("whole", "adapter", "norms", "nothing"), default=["whole", "adapter"])
    parser.add_argument("--dtype", nargs="+", choices=("f32", "bf16"), default=["f32", "bf16"])
    parser.add_argument("--setting", nargs="+", help="the peer's, in place of those that are tried")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--processor-time", action="store_true", help="for one thread on a busy machine")
    parser.add_argument("--work", help="directory for the models (default: temporary)")
    return parser.parse_args()


def settings_of(shape, train, dtype):
    orders = ["channels-last", "plain"] if shape == "resnet-18" else ["plain"]
    if dtype == "f32":
        return orders
    return [order + "+" + kind for order in orders for kind in (["autocast"] if train == "whole" else ["autocast", "half"])]


def run(command):
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, env=dict(os.environ, HF_HUB_OFFLINE="1"))
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))}: {done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


class Pair:
    """The two programs on one case."""

    def __init__(self, args, base, case, train, dtype):
        shape, size, batch = CASES[case]
        self.args, self.common = args, ["--model", base / "model", "--inputs", base / "inputs.bin", "--train", train, "--dtype", dtype,
                                        "--batch-size", batch, "--size", size, "--threads", args.threads,
                                        "--processor-time", str(args.processor_time).lower()]
        self.base, self.settings = base, args.setting or settings_of(shape, train, dtype)
        self.setting = self.settings[0] if len(self.settings) == 1 else min(self.settings, key=self.seconds)

    def seconds(self, setting):
        return self.peer(setting, FEW)["seconds_per_step"]

    def peer(self, setting, steps):
        return run([self.args.peer_python, HERE / "peer/classifier_peer.py", *self.common, "--adapter", self.base / "adapter", "--steps", steps,
                    "--setting", setting])

    def us(self):
        return run([self.args.program, *self.common, "--adapter", self.base / "adapter", "--steps", self.args.steps])

    def rounds(self):
        return [(self.peer(self.setting, self.args.steps), self.us()) for _ in range(self.args.rounds)]


def line(case, train, dtype, pair):
    rounds = pair.rounds()

    def middle(f):
        return statistics.median(f(us, peer) for peer, us in rounds)

    def both(key, scale=1.0):
        return middle(lambda u, p: u[key] * scale), middle(lambda u, p: p[key] * scale), middle(lambda u, p: u[key] / p[key])

    speed, step, memory = both("examples_per_second"), both("seconds_per_step", 1e3), both("peak_rss_bytes", 1e-6)
    worst = max(abs(a - b) for peer, us in rounds for a, b in zip(us["losses"], peer["losses"]))
    print(f"| {case} | {train} | {dtype} | {speed[0]:.1f} | {speed[1]:.1f} | {speed[2]:.2f}x | {step[0]:.0f} | {step[1]:.0f} | {memory[0]:.0f} "
          f"| {memory[1]:.0f} | 1/{1 / memory[2]:.1f} | {pair.setting} | {rounds[-1][1]['allocations_after_warm_up']} | {worst:.4f} |", flush=True)
    return rounds[-1][0]["versions"]


def main():
    args = arguments()
    work = pathlib.Path(args.work or tempfile.mkdtemp())
    print(f"Medians of {args.rounds} rounds of {args.steps} steps, {args.threads} threads{', processor time' if args.processor_time else ''}; "
          f"load {os.getloadavg()[0]:.1f} at the start.\n")
    print("| network | trained | dtype | examples/s: us | peer | ratio | ms a step: us | peer | peak MB: us | peer | share | peer's setting "
          "| allocations | largest loss difference |")
    print("|" + "---|" * 14)
    for case in args.case:
        shape, size, batch = CASES[case]
        base = work / case
        if not (base / "inputs.bin").exists():
            subprocess.run([args.peer_python, HERE / "peer/make_classifier.py", base, "--shape", shape, "--size", str(size), "--examples", str(4 * batch)],
                           check=True, capture_output=True)
        for train in args.train:
            for dtype in args.dtype:
                if case != "bert-base" or train == "adapter":
                    versions = line(case, train, dtype, Pair(args, base, case, train, dtype))
    print(f"\nPeer: torch {versions['torch']}, transformers {versions['transformers']}, peft {versions['peft']}.")


if __name__ == "__main__":
    main()
