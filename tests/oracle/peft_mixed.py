#!/usr/bin/env python3
"""A batch whose rows have adapters of their own, by PEFT (`adapter_names`); run models.py and peft_adapters.py first.

Writes <out>/expected.safetensors with input_ids i64 (4, 9) and logits f32; its metadata names the adapter of each row, directories of
reference/adapters over llama2, or "__base__".
"""
import argparse
import os

import torch
from peft import PeftModel
from safetensors.torch import save_file

from models import load_f32

ROWS = ["lora_qv", "__base__", "lora_all_linear", "lora_qv"]


def main():
    reference = os.path.normpath(os.path.join(os.path.dirname(__file__), "..", "reference"))
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", default=os.path.join(reference, "blend"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    first, second = (os.path.join(reference, "adapters", name) for name in (ROWS[0], ROWS[2]))
    model = PeftModel.from_pretrained(load_f32(os.path.join(reference, "models", "llama2")), first, adapter_name=ROWS[0])
    model.load_adapter(second, adapter_name=ROWS[2])
    ids = torch.randint(3, 96, (len(ROWS), 9), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        logits = model.eval()(input_ids=ids, adapter_names=ROWS).logits
        base = model(input_ids=ids, adapter_names=["__base__"] * len(ROWS)).logits
    assert all((logits[i] - base[i]).abs().max() > 1e-2 for i in (0, 2, 3)) and torch.equal(logits[1], base[1])
    os.makedirs(args.out, exist_ok=True)
    save_file({"input_ids": ids, "logits": logits.float()}, os.path.join(args.out, "expected.safetensors"),
              metadata={f"row{i}": name for i, name in enumerate(ROWS)})


if __name__ == "__main__":
    main()
