#!/usr/bin/env python3
"""Peak memory as `cambium train --dry-run` predicts it and as the run then reaches it.

    python3 bench/dry_run.py --program build/cambium --tokenizer models/sprig-5m --data examples/data/king-james.txt MODEL_DIR...

For every model and every combination of the options the command runs twice: with --dry-run, and for --steps steps.  The peak is the
highest resident set of the whole process (VmHWM), mapped weights included.  Prints a Markdown table; fails beyond --bound.
"""
import argparse
import itertools
import json
import pathlib
import subprocess
import sys
import tempfile
import time


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="+", metavar="MODEL_DIR")
    parser.add_argument("--program", default="build/cambium")
    parser.add_argument("--tokenizer", help="for models without one")
    parser.add_argument("--data", required=True)
    parser.add_argument("--dtype", nargs="+", default=["bf16", "f32"])
    parser.add_argument("--rank", nargs="+", default=["8", "64"])
    parser.add_argument("--rows", nargs="+", default=["4x256", "1x128", "8x512"], help="batch size x sequence length")
    parser.add_argument("--checkpointing", nargs="+", default=["no", "yes"], choices=["no", "yes"])
    parser.add_argument("--steps", default="2")
    parser.add_argument("--threads", default="2")
    parser.add_argument("--bound", type=float, default=0.1)
    return parser.parse_args()


def run(command):
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command)}: {done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def main():
    args = arguments()
    print("| model | dtype | rank | batch | checkpointing | predicted MB | measured MB | predicted / measured | dry run s |")
    print("|" + "---|" * 9)
    worst = 0
    with tempfile.TemporaryDirectory() as work:
        for model, dtype, rows, rank, again in itertools.product(args.models, args.dtype, args.rows, args.rank, args.checkpointing):
            batch, length = rows.split("x")
            command = [args.program, "train", model, "--data", args.data, "--output", f"{work}/out", "--dtype", dtype, "--rank", rank,
                       "--target-modules", "all-linear", "--batch-size", batch, "--sequence-length", length, "--steps", args.steps,
                       "--threads", args.threads, "--validation-split", "0.02", "--eval-batches", "1", "--json"]
            command += ["--tokenizer", args.tokenizer] if args.tokenizer else []
            command += ["--gradient-checkpointing"] if again == "yes" else []
            begin = time.monotonic()
            predicted = run(command + ["--dry-run"])["memory"]["peak"]
            spent = time.monotonic() - begin
            measured = run(command)["peak_memory"]
            worst = max(worst, abs(predicted / measured - 1))
            path = pathlib.Path(model)
            name = path.parent.name if path.name == "model" else path.name
            print(f"| {name} | {dtype} | {rank} | {batch} x {length} | {again} | {predicted / 1e6:.0f} | {measured / 1e6:.0f} "
                  f"| {predicted / measured:.3f} | {spent:.2f} |", flush=True)
            subprocess.run(["rm", "-r", f"{work}/out"], check=True)
    print(f"\nLargest deviation: {100 * worst:.1f} %.")
    sys.exit(worst > args.bound)


if __name__ == "__main__":
    main()
