#!/usr/bin/env python3
"""Held-out losses of the variants of LoRA on models/sprig-5m: the table of docs/lora.md.

    CAMBIUM_DATA=DIR python3 bench/lora_losses.py --program build/cambium --work /tmp/losses [--seeds 5]
    python3 bench/lora_losses.py --table

The text is DIR/text-en/en-dialogue.txt.xz, the dialogues only: every tenth document is for validation, every tenth for the test, the rest is
learned.  A variant's learning rate is chosen on the validation part with seed 0: from 1.6e-2 (lower where that leaves the model worse
than untrained) by factors of two to where it gets worse on both sides.  Then it is trained with that rate and seeds 1, 2, ..., which
change the first factors and the order of the text (the same for all variants), and its loss on the test part is taken.  Differences to another variant are paired by seed.

Every run is written to bench/lora_losses.json when it ends; the same command goes on from there.
"""
import argparse
import concurrent.futures
import json
import lzma
import os
import pathlib
import statistics
import subprocess
import threading

HERE = pathlib.Path(__file__).resolve().parent
RESULTS = HERE / "lora_losses.json"
SEPARATOR = "<|endoftext|>"
ROWS, LENGTH, STEPS, TEST_BATCHES, START_RATE = 4, 128, 25, 16, 16e-3

# name: (the variant it is compared with, base, options)
VARIANTS = {
    "default": (None, "plain", []),
    "gaussian": ("default", "plain", ["--init-weights", "gaussian"]),
    "orthogonal": ("default", "plain", ["--init-weights", "orthogonal"]),
    "PiSSA": ("default", "plain", ["--init-weights", "pissa"]),
    "OLoRA": ("default", "plain", ["--init-weights", "olora"]),
    "EVA": ("default", "plain", ["--init-weights", "eva"]),
    "CorDA": ("default", "plain", ["--init-weights", "corda", "--start-batches", "8"]),
    "DoRA": ("default", "plain", ["--use-dora"]),
    "default, nf4": (None, "nf4", []),
    "LoftQ, nf4": ("default, nf4", "nf4", ["--init-weights", "loftq", "--loftq-model", "MODEL"]),
    "default, rank 64": (None, "plain", ["--rank", "64"]),
    "rsLoRA, rank 64": ("default, rank 64", "plain", ["--rank", "64", "--use-rslora"]),
    "full fine-tuning": ("default", "whole", []),
}


def prepare(args):
    """Writes the three texts and the quantised base."""
    args.work.mkdir(parents=True, exist_ok=True)
    if not (args.work / "test.txt").exists():
        with lzma.open(pathlib.Path(os.environ["CAMBIUM_DATA"]) / "text-en/en-dialogue.txt.xz", "rt", encoding="utf-8") as f:
            documents = [d.strip() for d in f.read().split(SEPARATOR)]
        documents = [d for d in documents if d.startswith("User:")]
        parts = {"train": [d for i, d in enumerate(documents) if i % 10 < 8], "validation": documents[8::10], "test": documents[9::10]}
        for name, part in parts.items():
            (args.work / f"{name}.txt").write_text(f"\n{SEPARATOR}\n".join(part), encoding="utf-8")
    if not (args.work / "nf4").exists():
        run(args, "convert", args.model, "--quantize", "nf4", "--max-kl", "1", "--output", args.work / "nf4")


def run(args, *words):
    """The JSON objects that a command prints."""
    words = [str(w) for w in words]
    done = subprocess.run([args.program, *words, "--json", "--threads", str(args.threads)], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"cambium {' '.join(words)}\n{done.stderr}")
    return [json.loads(line) for line in done.stdout.splitlines()]


def text(args, name):
    return ["--data" if name != "validation" else "--validation-data", args.work / f"{name}.txt", "--separator", SEPARATOR]


def train(args, variant, rate, seed):
    """Trains once: the loss on the validation part with seed 0, on the test part with the others."""
    _, base, options = VARIANTS[variant]
    output = args.work / f"run {variant} {seed}".replace(",", "")  # a comma ends a name in a list of adapters
    options = [args.model if o == "MODEL" else o for o in options]
    if base == "whole":
        start = ["pretrain", "--model", args.model]
    else:
        start = ["train", args.model if base == "plain" else args.work / "nf4", "--rank", 8, "--alpha", 16, "--target-modules", "all-linear"]
    words = [*start, *options, *text(args, "train"), "--output", output, "--overwrite", "--steps", STEPS, "--batch-size", ROWS,
             "--sequence-length", LENGTH, "--learning-rate", rate, "--warmup-ratio", 0.1, "--seed", seed]
    if seed == 0:
        words += ["--validation-data", args.work / "validation.txt", "--eval-batches", TEST_BATCHES]
    said = run(args, *words)
    losses = {o["step"]: o["loss"] for o in said if o.get("event") == "progress"}
    result = dict(early_loss=statistics.mean(losses[step] for step in range(11, 21)), last_loss=statistics.mean(losses[step] for step in range(STEPS - 9, STEPS + 1)),
                  parameters=said[-1]["parameters"])
    if seed == 0:
        return result | dict(validation_loss=said[-1]["validation_loss"])
    return result | dict(test_loss=evaluate(args, base, output))


def evaluate(args, base, output):
    models = {"plain": [args.model, "--adapter", output], "nf4": [args.work / "nf4", "--adapter", output], "whole": [output], "none": [args.model],
              "none, nf4": [args.work / "nf4"]}
    said = run(args, "eval", *models[base], "--task", "perplexity", *text(args, "test"), "--sequence-length", LENGTH, "--batch-size", ROWS,
               "--max-batches", TEST_BATCHES)
    return said[-1]["loss"]


class Runs:
    """What is in the file of results."""

    def __init__(self):
        self.all = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
        self.lock = threading.Lock()

    def get(self, key, make):
        if key not in self.all:
            result = make()
            with self.lock:
                self.all[key] = result
                RESULTS.write_text(json.dumps(self.all, indent=1, sort_keys=True) + "\n")
                print(key, json.dumps(result), flush=True)
        return self.all[key]


def name_of(variant, rate, seed):
    return f"{variant} | {rate:g} | {seed}"


def choose_rate(args, runs, variant):
    def loss(rate):
        return runs.get(name_of(variant, rate, 0), lambda: train(args, variant, rate, 0))["validation_loss"]

    untrained = runs.all["untrained none, nf4" if VARIANTS[variant][1] == "nf4" else "untrained none"]["test_loss"]
    best = START_RATE
    while loss(best) > untrained:  # among rates that destroy the model the best says nothing
        best /= 2
    for factor in (2, 0.5):
        while loss(best * factor) < loss(best):
            best *= factor
    return best


def measure(args, runs, variant):
    rate = choose_rate(args, runs, variant)
    for seed in range(1, args.seeds + 1):
        runs.get(name_of(variant, rate, seed), lambda: train(args, variant, rate, seed))


def interval(differences):
    """Half the 95 % confidence interval of the mean, by Student's t."""
    quantiles = [0, 12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262]
    return quantiles[len(differences) - 1] * statistics.stdev(differences) / len(differences) ** 0.5


def chosen(runs, variant):
    """Rate and results by seed of a variant whose rate was chosen."""
    found = {}
    for key, value in runs.items():
        name, rate, seed = (key.split(" | ") + ["", ""])[:3]
        if name == variant and "test_loss" in value:
            found[int(seed)] = (float(rate), value)
    return found


def table(runs):
    print("| variant | trained numbers | learning rate | loss on the test part | difference, 95 % interval | against | loss of steps 11 to 20 |")
    print("|---|---|---|---|---|---|---|")
    for variant, (against, _, _) in VARIANTS.items():
        mine = chosen(runs, variant)
        if len(mine) < 2:
            continue
        rate, some = next(iter(mine.values()))
        mean = statistics.mean(v["test_loss"] for _, v in mine.values())
        early = statistics.mean(v["early_loss"] for _, v in mine.values())
        other = chosen(runs, against) if against else {}
        pairs = [mine[s][1]["test_loss"] - other[s][1]["test_loss"] for s in mine if s in other]
        difference = f"{statistics.mean(pairs):+.3f} ± {interval(pairs):.3f}" if len(pairs) > 1 else ""
        print(f"| {variant} | {some['parameters']:,} | {rate:g} | {mean:.3f} | {difference} | {against or ''} | {early:.3f} |")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--program", type=pathlib.Path, default=HERE / "../build/cambium")
    parser.add_argument("--model", type=pathlib.Path, default=HERE / "../models/sprig-5m")
    parser.add_argument("--work", type=pathlib.Path, default=pathlib.Path("lora_losses"), help="directory for texts and runs")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=1, help="variants at a time")
    parser.add_argument("--table", action="store_true", help="only print the table of what was run")
    args = parser.parse_args()
    runs = Runs()
    if not args.table:
        prepare(args)
        for base in ("none", "none, nf4"):
            runs.get(f"untrained {base}", lambda: dict(test_loss=evaluate(args, base, None)))
        with concurrent.futures.ThreadPoolExecutor(args.jobs) as pool:
            for done in [pool.submit(measure, args, runs, variant) for variant in VARIANTS]:
                done.result()
    table(runs.all)


if __name__ == "__main__":
    main()
