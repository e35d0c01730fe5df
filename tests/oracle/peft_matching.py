#!/usr/bin/env python3
"""Which layers PEFT adapts, and with which rank and alpha, for a table of target options on the tiny models.

Writes <out>/matching.json: [{"base": name, "options": {...}, "layers": [[name, rank, alpha], ...] or null}].
layers is null where PEFT raises an error. Run models.py first.
"""
import argparse
import json
import os
import warnings

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM

CASES = [
    ("llama2", dict()),
    ("gpt2", dict()),
    ("mistral", dict()),
    ("qwen2", dict()),
    ("qwen3", dict()),
    ("llama2", dict(target_modules=["q_proj"])),
    ("llama2", dict(target_modules=["proj"])),
    ("llama2", dict(target_modules=["q_proj", "nonexistent"])),
    ("llama2", dict(target_modules=["self_attn.q_proj", "1.mlp.up_proj"])),
    ("llama2", dict(target_modules=["model.layers.1.self_attn.q_proj"])),
    ("llama2", dict(target_modules=["layers.1.self_attn.q_proj", "lm_head"])),
    ("llama2", dict(target_modules=["mlp"])),
    ("llama2", dict(target_modules="q_proj")),
    ("llama2", dict(target_modules="lm_head")),
    ("llama2", dict(target_modules="all-linear")),
    ("llama2", dict(target_modules="ALL-LINEAR")),
    ("llama3", dict(target_modules="all-linear")),
    ("gpt2", dict(target_modules="all-linear")),
    ("gpt2", dict(target_modules=["c_proj"])),
    ("gpt2", dict(target_modules=["attn.c_proj", "mlp.c_fc"])),
    ("llama2", dict(target_modules=".*q_proj")),
    ("llama2", dict(target_modules="q_proj$")),
    ("llama2", dict(target_modules=r".*\.[qv]_proj")),
    ("llama2", dict(target_modules=r".*layers\.\d\.mlp\.(?:up|down)_proj")),
    ("llama2", dict(target_modules=r"(?!.*layers\.0).*\.(q|k)_proj")),
    ("llama2", dict(target_modules=r"model\.layers\.1\..*")),
    ("llama2", dict(target_modules=r".*(q_proj")),
    ("llama2", dict(target_modules="all-linear", exclude_modules=["q_proj"])),
    ("llama2", dict(target_modules="all-linear", exclude_modules=r".*mlp.*")),
    ("llama2", dict(target_modules="all-linear", exclude_modules="q_proj")),
    ("llama2", dict(target_modules=["q_proj"], exclude_modules=["q_proj"])),
    ("llama2", dict(target_modules=["q_proj", "v_proj"], exclude_modules=["layers.0.self_attn.q_proj"])),
    ("llama2", dict(target_modules=["q_proj", "v_proj"], modules_to_save=["lm_head"])),
    ("llama2", dict(target_modules=["q_proj", "lm_head"], modules_to_save=["lm_head"])),
    ("llama2", dict(target_modules=["q_proj", "v_proj"], modules_to_save=["v_proj"])),
    ("llama3", dict(target_modules=["q_proj"], layers_to_transform=[1])),
    ("llama3", dict(target_modules=["q_proj"], layers_to_transform=2)),
    ("llama3", dict(target_modules=["q_proj"], layers_to_transform=[0, 2, 7])),
    ("llama3", dict(target_modules=["q_proj"], layers_to_transform=[])),
    ("llama3", dict(target_modules=["q_proj"], layers_to_transform=[9])),
    ("llama3", dict(target_modules=["q_proj", "model.layers.2.self_attn.v_proj"], layers_to_transform=[1])),
    ("llama3", dict(target_modules=["q_proj"], layers_to_transform=[1], layers_pattern="layers")),
    ("llama3", dict(target_modules=["q_proj"], layers_to_transform=[1], layers_pattern=["blocks", "layers"])),
    ("llama3", dict(target_modules=["q_proj"], layers_to_transform=[1], layers_pattern=["lay.*"])),
    ("llama3", dict(target_modules=["q_proj"], layers_to_transform=[1], layers_pattern="blocks")),
    ("llama3", dict(target_modules="all-linear", layers_to_transform=[1])),
    ("llama3", dict(target_modules=["q_proj"], layers_pattern="layers")),
    ("gpt2", dict(target_modules=["c_attn"], layers_to_transform=[1], layers_pattern="h")),
    ("llama2", dict(target_modules=["q_proj", "k_proj"], rank_pattern={"q_proj": 2}, alpha_pattern={"layers.1.self_attn.k_proj": 3})),
    ("llama2", dict(target_modules=["q_proj", "k_proj"], rank_pattern={"proj": 2})),
    ("llama2", dict(target_modules=["q_proj", "k_proj"], rank_pattern={".*_proj": 2, "q_proj": 3})),
    ("llama2", dict(target_modules=["q_proj", "k_proj"], rank_pattern={"q_proj": 3, ".*_proj": 2})),
    ("llama2", dict(target_modules=["q_proj", "k_proj"], rank_pattern={"^q_proj": 3, r"^model\.layers\.0.*k_proj": 5})),
    ("llama2", dict(target_modules=["q_proj", "k_proj"], rank_pattern={"model.layers.0.self_attn.q_proj": 3})),
    ("llama2", dict(target_modules=["q_proj", "k_proj"], rank_pattern={"layers.0.self_attn.q_proj|k_proj": 3})),
    ("llama2", dict(target_modules=["q_proj", "k_proj"], alpha_pattern={"self.attn.q_proj": 3, "ttn.k_proj": 5})),
]


def layers_hit(model, options):
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            adapted = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", r=4, lora_alpha=6, **options))
    except (ValueError, Exception) as error:  # re.error is not a ValueError
        print(json.dumps(options), type(error).__name__, str(error)[:90])
        return None
    return sorted([name.removeprefix("base_model.model."), module.r["default"], module.lora_alpha["default"]]
                  for name, module in adapted.named_modules() if hasattr(module, "lora_A"))


def main():
    reference = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "reference")
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", default=os.path.join(reference, "models"))
    parser.add_argument("--out", default=os.path.join(reference, "adapters"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    table = []
    for base, options in CASES:
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(os.path.join(args.models, base)))
        table.append(dict(base=base, options=options, layers=layers_hit(model, options)))
    with open(os.path.join(args.out, "matching.json"), "w") as f:
        f.write("[\n" + ",\n".join(json.dumps(row) for row in table) + "\n]\n")


if __name__ == "__main__":
    main()
