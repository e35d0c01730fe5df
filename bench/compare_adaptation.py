#!/usr/bin/env python3
"""Steps of adaptation, Cambium's and PyTorch's, on the same networks and images, in turn, and the ratios.

    python3 bench/compare_adaptation.py --peer-python VENV/bin/python --program build/bench/adapt [--case resnet-18-32 vit-tiny-8-64]
        [--method source tent cotta] [--views 32] [--rounds 3] [--steps 6] [--threads 1] [--processor-time]

Both sides read the same weights and images (made by bench/peer/make_classifier.py).  The peer first tries each memory order and goes on with the faster.
Runs then alternate, peer and us, --rounds times; figures are medians over rounds of the median step, ratios are taken within a round.  `source` is a
forward pass of the network as it is.
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
CASES = {"resnet-18-32": ("resnet-18", 32, 64), "resnet-18-64": ("resnet-18", 64, 64), "vit-tiny-8-64": ("vit-tiny-8", 64, 64)}  # shape, side, batch
FEW = 4  # steps of a setting that is tried


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peer-python", required=True, help="a Python with torch, transformers and peft")
    parser.add_argument("--program", required=True, help="the built bench/adapt program")
    parser.add_argument("--case", nargs="+", choices=CASES, default=["resnet-18-32", "vit-tiny-8-64"])
    parser.add_argument("--method", nargs="+", choices=("source", "tent", "cotta"), default=["source", "tent", "cotta"])
    parser.add_argument("--views", type=int, default=32)
    parser.add_argument("--setting", nargs="+", help="the peer's, in place of those that are tried")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--processor-time", action="store_true", help="for one thread on a busy machine")
    parser.add_argument("--work", help="directory for the models (default: temporary)")
    return parser.parse_args()


def run(command):
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, env=dict(os.environ, HF_HUB_OFFLINE="1"))
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))}: {done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


class Pair:
    """The two programs on one case and method."""

    def __init__(self, args, base, case, method):
        shape, size, batch = CASES[case]
        self.args = args
        self.common = ["--model", base / "model", "--inputs", base / "inputs.bin", "--method", method, "--views", args.views, "--batch-size", batch,
                       "--size", size, "--threads", args.threads, "--processor-time", str(args.processor_time).lower()]
        settings = args.setting or (["channels-last", "plain"] if shape == "resnet-18" else ["plain"])
        self.setting = settings[0] if len(settings) == 1 else min(settings, key=lambda s: self.peer(s, FEW)["seconds_per_step"])

    def peer(self, setting, steps):
        return run([self.args.peer_python, HERE / "peer/adaptation_peer.py", *self.common, "--steps", steps, "--setting", setting])

    def us(self):
        return run([self.args.program, *self.common, "--steps", self.args.steps])

    def rounds(self):
        return [(self.peer(self.setting, self.args.steps), self.us()) for _ in range(self.args.rounds)]


def line(case, method, pair):
    rounds = pair.rounds()

    def middle(f):
        return statistics.median(f(us, peer) for peer, us in rounds)

    def both(key, scale):
        return middle(lambda u, p: u[key] * scale), middle(lambda u, p: p[key] * scale)

    step, memory = both("seconds_per_step", 1e3), both("peak_rss_bytes", 1e-6)
    speed, size = middle(lambda u, p: p["seconds_per_step"] / u["seconds_per_step"]), middle(lambda u, p: p["peak_rss_bytes"] / u["peak_rss_bytes"])
    print(f"| {case} | {method} | {step[0]:.0f} | {step[1]:.0f} | {speed:.2f}x | {memory[0]:.0f} | {memory[1]:.0f} | 1/{size:.1f} | {pair.setting} "
          f"| {rounds[-1][1]['allocations_after_warm_up']} |", flush=True)
    return rounds[-1][0]["versions"], step


def main():
    args = arguments()
    work = pathlib.Path(args.work or tempfile.mkdtemp())
    print(f"Medians of {args.rounds} rounds of {args.steps} steps, {args.threads} threads{', processor time' if args.processor_time else ''}, "
          f"{args.views} views; load {os.getloadavg()[0]:.1f} at the start.\n")
    print("| network | method | ms a step: us | peer | peer / us | peak MB: us | peer | share | peer's setting | allocations |")
    print("|" + "---|" * 10)
    forward = {}
    for case in args.case:
        shape, size, batch = CASES[case]
        base = work / case
        if not (base / "inputs.bin").exists():
            subprocess.run([args.peer_python, HERE / "peer/make_classifier.py", base, "--shape", shape, "--size", str(size), "--examples", str(4 * batch)],
                           check=True, capture_output=True)
        for method in args.method:
            versions, step = line(case, method, Pair(args, base, case, method))
            if method == "source":
                forward[case] = step
            elif method == "tent" and case in forward:
                print(f"{case}: a step of tent is {step[0] / forward[case][0]:.2f} forward passes, the peer's {step[1] / forward[case][1]:.2f}.", file=sys.stderr)
    print(f"\nPeer: torch {versions['torch']}, transformers {versions['transformers']}.")


if __name__ == "__main__":
    main()
