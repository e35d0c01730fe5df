#!/usr/bin/env python3
"""Loads an adapter directory that Cambium wrote with PEFT and compares what both compute.

LOGITS is a safetensors file with input_ids (i64) and logits (f32) from Cambium, base weights raised to f32.
Any warning from PEFT (missing or unexpected keys, odd shapes) is an error. Prints the largest absolute difference;
exit code 1 when it exceeds --tolerance times the largest logit.
"""
import argparse
import os
import sys
import warnings

os.environ["HF_HUB_OFFLINE"] = "1"

import torch
from peft import PeftModel
from safetensors.torch import load_file

from models import load_f32


# About the model and how it may be merged, not about the file.
HARMLESS = [r".*tie_word_embeddings=True", r".*tied_target_modules", r".*ensure_weight_tying", r".*fan_in_fan_out is set to", r".*corda_config. specified but",
            r".*the targeted layer of type \w+ has no bias"]


def load_adapter(base, directory):
    """The base with the adapter by PEFT; any warning that may mean a wrong file is an error."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # PeftWarning is one; deprecations inside the libraries are not
        for text in HARMLESS:
            warnings.filterwarnings("ignore", text)
        return PeftModel.from_pretrained(base, directory).eval()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("adapter")
    parser.add_argument("logits", metavar="LOGITS.safetensors")
    parser.add_argument("--tolerance", type=float, default=1e-4)
    args = parser.parse_args()
    torch.set_num_threads(1)

    ours = load_file(args.logits)
    model = load_adapter(load_f32(args.model), args.adapter)
    with torch.no_grad():
        theirs = model(input_ids=ours["input_ids"].long(), use_cache=False).logits
    if theirs.shape != ours["logits"].shape:
        sys.exit(f"{args.logits}: logits {tuple(ours['logits'].shape)}, PEFT computes {tuple(theirs.shape)}")
    difference = (theirs - ours["logits"].float()).abs().max().item()
    relative = difference / theirs.abs().max().item()
    print(f"max abs difference {difference:.3e}, relative {relative:.3e}")
    sys.exit(0 if relative <= args.tolerance else 1)


if __name__ == "__main__":
    main()
