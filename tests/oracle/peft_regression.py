#!/usr/bin/env python3
"""The base networks of PEFT's regression tests (tests/regression/test_regression.py of its repository), whose adapters and outputs of
PEFT 0.6.1 are in DATA/loader-fixtures/peft.

    peft_regression.py --data DATA [--out ../reference/peft_regression]

Writes mlp.safetensors and conv2d.safetensors: the weights that torch's generator gives after manual_seed(0).  Each adapter is also loaded
with the installed PEFT, and its output compared with the one recorded; output.safetensors has what it gives where none was recorded.
"""
import argparse
import os

import torch
from peft import PeftModel
from safetensors.torch import save_file
from torch import nn


class MLP(nn.Module):
    def __init__(self):
        super().__init__()
        self.lin0 = nn.Linear(10, 20)
        self.lin1 = nn.Linear(20, 2)

    def forward(self, x):
        return self.lin1(self.lin0(x.float()).relu()).log_softmax(-1)


class ModelConv2D(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv2d = nn.Conv2d(5, 10, 3)
        self.lin0 = nn.Linear(10, 2)

    def forward(self, x):
        return self.lin0(self.conv2d(x.float().reshape(2, 5, 3, 3)).relu().flatten(1)).log_softmax(-1)


def base(kind):
    torch.manual_seed(0)
    return kind()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--out", default=os.path.join(os.path.dirname(os.path.abspath(__file__)), "../reference/peft_regression"))
    options = parser.parse_args()
    os.makedirs(options.out, exist_ok=True)
    for name, kind in (("mlp", MLP), ("conv2d", ModelConv2D)):
        save_file(base(kind).state_dict(), os.path.join(options.out, name + ".safetensors"))
    fixtures = os.path.join(options.data, "loader-fixtures/peft/regression")
    outputs = {}
    for name in sorted(os.listdir(fixtures)):
        directory = os.path.join(fixtures, name, "0.6.1")
        model = PeftModel.from_pretrained(base(ModelConv2D if "conv2d" in name else MLP), directory)
        with torch.inference_mode():
            found = model(torch.arange(90).reshape(9, 10))
        recorded = os.path.join(directory, "output.pt")
        if os.path.exists(recorded):
            difference = (torch.load(recorded, map_location="cpu") - found).abs().max().item()
            print(f"{name}: {difference:.2g} from the recorded output")
        else:
            outputs[name] = found.clone()
            print(f"{name}: no output is recorded; the installed PEFT's is kept")
    save_file(outputs, os.path.join(options.out, "output.safetensors"))


if __name__ == "__main__":
    main()
