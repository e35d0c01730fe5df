#!/usr/bin/env python3
"""Every adapter kind from the command line: `cambium train` a few steps, `cambium merge`, and PEFT on what was written.

PEFT must load each adapter over the untouched base without a warning about its keys and compute the logits of the merged model, and the
training must have changed something.  Prints a line for each kind; exit code 1 when one fails.
"""
import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import warnings

os.environ["HF_HUB_OFFLINE"] = "1"

import torch
from peft import PeftModel

from models import load_f32

# kind, base, options; a kind may have several rows
RUNS = [
    ("lora", "llama2", ""),
    ("ia3", "llama2", ""),
    ("loha", "llama2", ""),
    ("lokr", "llama2", ""),
    ("vera", "llama2", "--rank 8"),
    ("fourierft", "llama2", "--n-frequency 50 --target-modules q_proj,v_proj"),
    ("hra", "llama2", "--rank 4"),
    ("ln_tuning", "llama2", ""),
    ("ln_tuning", "gpt2", ""),
    ("beft", "qwen2", ""),
    ("shira", "llama2", "--rank 3"),
    ("hira", "llama2", "--rank 4 --target-modules all-linear"),
    ("miss", "llama2", "--rank 10"),
    ("miss", "llama2", "--rank 8 --init-weights bat"),
    ("miss", "llama2", "--rank 8 --init-weights mini --mini-r 4"),
    ("c3a", "llama2", "--block-size 8"),
    ("road", "llama2", "--group-size 12"),
    ("road", "llama2", "--variant road_4 --group-size 8 --target-modules all-linear"),
    ("oft", "llama2", "--oft-block-size 8"),
    ("oft", "llama2", "--oft-block-size 8 --no-use-cayley-neumann"),
    ("oft", "llama2", "--oft-block-size 8 --coft --eps 0.05"),
    ("boft", "llama2", ""),
    ("randlora", "llama2", "--rank 12 --alpha 12"),
    ("randlora", "llama2", "--rank 12 --alpha 12 --no-save-projection"),
    ("vblora", "llama2", "--vector-length 12 --num-vectors 20"),
    ("vblora", "llama2", "--vector-length 12 --num-vectors 300 --save-only-topk-weights"),
    ("delora", "llama2", "--rank 4 --lambda 2"),
    ("adalora", "llama2", "--init-r 6 --target-r 3 --tinit 1"),
]


def tokenizer():
    """A character each: the reference models know 96 tokens and have none."""
    vocabulary = {chr(c): c - 33 for c in range(33, 127)} | {"\u0120": 94, "\u010a": 95}
    level = dict(type="ByteLevel", add_prefix_space=False, trim_offsets=True, use_regex=True)
    model = dict(type="BPE", dropout=None, unk_token=None, continuing_subword_prefix=None, end_of_word_suffix=None, fuse_unk=False,
                 byte_fallback=False, ignore_merges=False, vocab=vocabulary, merges=[])
    return dict(version="1.0", truncation=None, padding=None, added_tokens=[], normalizer=None, pre_tokenizer=level, post_processor=None,
                decoder=level, model=model)


def logits(model, ids):
    with torch.no_grad():
        return model.eval()(input_ids=ids, use_cache=False).logits


def command(*words):
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(words)}: {done.stderr.strip()}")


def check(program, work, kind, base, options, ids):
    adapter, merged = os.path.join(work, "adapter"), os.path.join(work, "merged")
    for path in (adapter, merged):
        shutil.rmtree(path, ignore_errors=True)
    model = os.path.join(work, base)
    command(program, "train", model, "--data", os.path.join(work, "text.txt"), "--output", adapter, "--kind", kind, "--steps", "6",
            "--batch-size", "2", "--sequence-length", "24", "--learning-rate", "1e-2", "--dtype", "f32", "--threads", "1", *options.split())
    command(program, "merge", model, "--adapter", adapter, "--output", merged)
    plain, wanted = logits(load_f32(model), ids), logits(load_f32(merged), ids)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*(missing|unexpected)")
        found = logits(PeftModel.from_pretrained(load_f32(model), adapter), ids)
    top = wanted.abs().max()
    return ((found - wanted).abs().max() / top).item(), ((plain - wanted).abs().max() / top).item()


def main():
    here = os.path.dirname(os.path.abspath(__file__))
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("program", help="the cambium to test")
    parser.add_argument("--only", nargs="*", help="kinds (default: all)")
    parser.add_argument("--tolerance", type=float, default=1e-5)
    args = parser.parse_args()
    torch.set_num_threads(1)
    ids = torch.randint(0, 96, (2, 24), generator=torch.Generator().manual_seed(1))
    failed = False
    with tempfile.TemporaryDirectory() as work:
        for base in {base for _, base, _ in RUNS}:
            shutil.copytree(os.path.join(here, "..", "reference", "models", base), os.path.join(work, base))
            with open(os.path.join(work, base, "tokenizer.json"), "w") as f:
                json.dump(tokenizer(), f)
        with open(os.path.join(work, "text.txt"), "w") as f:
            f.writelines(f"The {'orchard' if i % 3 else 'gardener'} waits for day {i * i % 97} of spring.\n" for i in range(200))
        for kind, base, options in RUNS:
            if args.only and kind not in args.only:
                continue
            try:
                difference, change = check(args.program, work, kind, base, options, ids)
                good = difference <= args.tolerance and change > 1e-3
                print(f"{kind} {options}: PEFT differs from the merged model by {difference:.2e}, training changed {change:.2e}"
                      + ("" if good else "  FAILED"))
            except Exception as error:
                good = False
                print(f"{kind} {options}: FAILED: {type(error).__name__}: {error}")
            failed |= not good
    sys.exit(failed)


if __name__ == "__main__":
    main()
