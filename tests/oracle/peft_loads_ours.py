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


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("adapter")
    parser.add_argument("logits", metavar="LOGITS.safetensors")
    parser.add_argument("--tolerance", type=float, default=1e-4)
    args = parser.parse_args()
    torch.set_num_threads(1)

    ours = load_file(args.logits)
    base = load_f32(args.model)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # PeftWarning is one; deprecations inside the libraries are not
        model = PeftModel.from_pretrained(base, args.adapter).eval()
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
