#!/usr/bin/env python3
"""Peak memory and bytes written as --dry-run predicts them and as the command then reaches them.

    python3 bench/dry_run.py --program build/cambium --tokenizer models/sprig-5m --data examples/data/king-james.txt MODEL_DIR...
    python3 bench/dry_run.py --program build/cambium --tokenizer models/sprig-5m --data examples/data/king-james-held-out.txt \\
        --commands others MODEL_DIR...

Every command runs twice: with --dry-run, and for good.  The peak is the highest resident set of the whole process, mapped weights
included.  `train` takes every combination of the options below, for --steps steps; `others` are merge (with an adapter that is trained for
one step first), convert, generate and eval.  Prints a Markdown table; fails when a prediction is off by more than --bound.
"""
import argparse
import itertools
import json
import os
import pathlib
import shutil
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
    parser.add_argument("--commands", default="train", choices=["train", "others"])
    parser.add_argument("--dtype", nargs="+", default=["bf16", "f32"])
    parser.add_argument("--rank", nargs="+", default=["8", "64"])
    parser.add_argument("--rows", nargs="+", default=["4x256", "1x128", "8x512"], help="batch size x sequence length")
    parser.add_argument("--checkpointing", nargs="+", default=["no", "yes"], choices=["no", "yes"])
    parser.add_argument("--extra", action="append", help="more options of one variant of train, such as --extra='--optimizer sgd'; may be repeated")
    parser.add_argument("--others", nargs="+", help="of the others only those whose names contain one of these texts")
    parser.add_argument("--steps", default="2")
    parser.add_argument("--threads", default="2")
    parser.add_argument("--bound", type=float, default=0.1)
    return parser.parse_args()


def run(command):
    """The command's last line of output, its peak in bytes and how many seconds it took."""
    begin = time.monotonic()
    with tempfile.TemporaryFile("w+") as out:
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.PIPE, text=True)
        error = process.stderr.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            sys.exit(f"{' '.join(command)}: {error}")
        out.seek(0)
        return json.loads(out.read().splitlines()[-1]), usage.ru_maxrss * 1024, time.monotonic() - begin


def written(path):
    path = pathlib.Path(path)
    return path.stat().st_size if path.is_file() else sum(p.stat().st_size for p in path.rglob("*") if p.is_file())


def train_cases(args, model, out):
    for dtype, rows, rank, again, extra in itertools.product(args.dtype, args.rows, args.rank, args.checkpointing, args.extra or [""]):
        batch, length = rows.split("x")
        command = ["train", model, "--data", args.data, "--output", out, "--dtype", dtype, "--rank", rank, "--target-modules", "all-linear",
                   "--batch-size", batch, "--sequence-length", length, "--steps", args.steps, "--validation-split", "0.02", "--eval-batches",
                   "1", *(["--tokenizer", args.tokenizer] if args.tokenizer else []),
                   *(["--gradient-checkpointing"] if again == "yes" else []), *extra.split()]
        yield f"{dtype}, rank {rank}, {batch} x {length}{', checkpointing' if again == 'yes' else ''} {extra}".rstrip(), command


def other_cases(args, model, out, work):
    tokenizer = ["--tokenizer", args.tokenizer] if args.tokenizer else []
    quantized = "quantization_config" in json.loads((pathlib.Path(model) / "config.json").read_text())
    adapter = f"{work}/adapter"
    run([args.program, "train", model, "--data", args.data, "--output", adapter, "--target-modules", "all-linear", "--batch-size", "1",
         "--sequence-length", "16", "--steps", "1", "--threads", args.threads, "--json", *tokenizer])
    merge = ["merge", model, "--adapter", adapter, "--max-kl", "9", "--output", out]
    yield "merge", merge
    yield "merge --dtype f32", [*merge, "--dtype", "f32"]
    yield "merge --no-verify", [*merge, "--no-verify"]
    convert = ["convert", model, "--max-kl", "9", "--output", out]
    yield "convert --dtype f32", [*convert, "--dtype", "f32"]
    if quantized:
        yield "convert", convert
    else:
        for kind in "nf4", "int8", "int8-block":
            yield f"convert --quantize {kind}", [*convert, "--quantize", kind] + (["--block-size", "32"] if kind == "int8-block" else [])
        yield "merge --quantize nf4", [*merge, "--quantize", "nf4"]
    if (pathlib.Path(model) / "tokenizer.json").exists():
        for dtype in "keep", "q8_0":
            yield f"convert --to gguf --dtype {dtype}", [*convert, "--to", "gguf", "--dtype", dtype]
        yield "merge into GGUF", [*merge[:-1], f"{out}.gguf"]
    for dtype, more in itertools.product(args.dtype, ["", "--adapter"]):
        options = [*tokenizer, "--dtype", dtype, *([more, adapter] if more else [])]
        for tokens in "32", "300", "700":
            yield (f"generate {dtype}, {tokens} tokens {more}".rstrip(),
                   ["generate", model, "--prompt", "In the beginning", "--max-new-tokens", tokens, "--ignore-eos", *options])
        for rows in args.rows:
            batch, length = rows.split("x")
            yield (f"eval {dtype}, {batch} x {length} {more}".rstrip(),
                   ["eval", model, "--data", args.data, "--batch-size", batch, "--sequence-length", length, "--max-batches", "3", *options])


def main():
    args = arguments()
    print("| model | command | predicted MB | measured MB | predicted / measured | bytes written: predicted / measured | dry run s | run s |")
    print("|" + "---|" * 8)
    worst = 0
    for model in args.models:
        with tempfile.TemporaryDirectory() as work:
            outputs, out = f"{work}/out", None
            path = pathlib.Path(model)
            name = path.parent.name if path.name == "model" else path.name
            for case, command in train_cases(args, model, outputs) if args.commands == "train" else other_cases(args, model, outputs, work):
                if args.others and not any(text in case for text in args.others):
                    continue
                if "--output" in command:
                    out = command[command.index("--output") + 1]
                command = [args.program, *command, "--threads", args.threads, "--json"]
                plan, _, spent = run([*command, "--dry-run"])
                assert not out or not os.path.exists(out), f"{case}: the dry run left {out}"
                _, measured, whole = run(command)
                predicted = plan["memory"]["peak"]
                worst = max(worst, abs(predicted / measured - 1))
                files = f"{plan['disk']['written'] / written(out):.4f}" if "disk" in plan else ""
                print(f"| {name} | {case} | {predicted / 1e6:.0f} | {measured / 1e6:.0f} | {predicted / measured:.3f} | {files} "
                      f"| {spent:.2f} | {whole:.2f} |", flush=True)
                if out and os.path.isdir(out):
                    shutil.rmtree(out)
                elif out and os.path.exists(out):
                    os.remove(out)
    print(f"\nLargest deviation: {100 * worst:.1f} %.")
    sys.exit(worst > args.bound)


if __name__ == "__main__":
    main()
