#!/usr/bin/env python3
"""Starts of LoRA that PEFT works out beforehand: EVA and CorDA from what the layers of the tiny models are given, LoftQ from quantised weights.

Writes <out>/NAME/{options.json, expected.safetensors}; run models.py and quantized_models.py first.
options.json holds base, options (as in adapter_config.json) and, of eva, what PEFT made of them: rank_pattern, alpha_pattern,
target_modules, batches (how many were looked at).  expected.safetensors:
    input_ids, labels, attention_mask   i64 (N, B, T): N batches (corda: rows of them one by one)
    A.LAYER                             eva: f32 (R, in), the rows of A
    S.LAYER, delta.LAYER                corda: f32 (R) singular values; (out, in) s B A
    delta.LAYER, base.LAYER             loftq: f32 (out, in) B A, and what the quantised weight is worth
PEFT's PCA starts from random projections; where its number of them (twice the components) is the layer's width they change nothing.
"""
import argparse
import inspect
import json
import os
import shutil
import types

import torch
from peft import EvaConfig, LoraConfig, get_peft_model
from peft.tuners.lora.config import CordaConfig
from peft.tuners.lora.corda import preprocess_corda
from peft.tuners.lora.eva import initialize_lora_eva_weights
from peft.utils import loftq_utils
from safetensors.torch import load_file, save_file

from models import load_f32

QKVO = ["q_proj", "k_proj", "v_proj", "o_proj"]
BATCHES, ROWS, LENGTH = 4, 3, 24
LOFTQ_KEPT = ["model.layers.0.self_attn.q_proj", "model.layers.1.self_attn.k_proj", "model.layers.1.mlp.down_proj"]

CASES = {
    "eva": ("qwen2", dict(r=8, lora_alpha=12, target_modules=QKVO, init_lora_weights="eva", eva_config=dict(rho=2.0, tau=0.99))),
    "eva_patterns": ("llama2", dict(r=12, lora_alpha=6, target_modules=QKVO + ["up_proj", "down_proj"], init_lora_weights="eva",
                                    rank_pattern={"k_proj": 5, "down_proj": 14}, alpha_pattern={"up_proj": 4},
                                    eva_config=dict(rho=2.0, tau=0.9))),
    "eva_projected": ("llama2", dict(r=4, lora_alpha=8, target_modules=["o_proj", "down_proj"], init_lora_weights="eva",
                                     eva_config=dict(rho=2.0, tau=0.8))),
    "eva_gpt2": ("gpt2", dict(r=3, lora_alpha=8, target_modules=["c_attn", "c_proj", "c_fc"], init_lora_weights="eva",
                              fan_in_fan_out=True, eva_config=dict(rho=2.5, tau=0.95, whiten=True, adjust_scaling_factors=False))),
    "eva_all_tokens": ("qwen2", dict(r=8, lora_alpha=8, target_modules=QKVO, init_lora_weights="eva", use_rslora=True,
                                     eva_config=dict(rho=1.0, tau=0.9, use_label_mask=False))),
    "eva_left_out": ("qwen2", dict(r=1, lora_alpha=3, target_modules=QKVO + ["gate_proj", "up_proj"], init_lora_weights="eva",
                                   eva_config=dict(rho=16.0, tau=0.5))),
    "corda": ("llama2", dict(r=4, lora_alpha=6, target_modules=QKVO + ["up_proj", "down_proj"], init_lora_weights="corda",
                             rank_pattern={"o_proj": 6}, corda_config=dict(corda_method="ipm"))),
    "corda_gpt2": ("gpt2", dict(r=4, lora_alpha=8, target_modules=["c_attn", "c_proj"], init_lora_weights="corda", fan_in_fan_out=True,
                                use_rslora=True, corda_config=dict(corda_method="kpm"))),
    "loftq": ("base", dict(r=4, lora_alpha=4, target_modules="all-linear", init_lora_weights="loftq",
                           loftq_config=dict(loftq_bits=4, loftq_iter=1))),
    "loftq_iterated": ("base", dict(r=4, lora_alpha=4, target_modules="all-linear", init_lora_weights="loftq",
                                    loftq_config=dict(loftq_bits=4, loftq_iter=4))),
    "loftq_int8": ("base", dict(r=4, lora_alpha=4, target_modules="all-linear", init_lora_weights="loftq",
                                loftq_config=dict(loftq_bits=8, loftq_iter=3))),
}


def batches(vocabulary, seed):
    """Batches with prompts that are not learned and rows that are shorter than others."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, vocabulary, (BATCHES, ROWS, LENGTH), generator=generator)
    labels, mask = ids.clone(), torch.ones_like(ids)
    labels[:, 0, :7] = -100
    labels[:, 1, 10:12] = -100
    mask[:, 2, 19:] = 0
    labels[mask == 0] = -100
    return ids, labels, mask


def expected_eva(model, config, ids, labels, mask):
    seen = []
    loader = [dict(input_ids=i, labels=l, attention_mask=m) for i, l, m in zip(ids, labels, mask)]
    peft = get_peft_model(model, config)

    def forward(m, inputs):
        seen.append(1)
        return m(**inputs, use_cache=False)

    initialize_lora_eva_weights(peft, loader, forward_fn=forward, show_progress_bar=False)
    made = peft.peft_config["default"]
    facts = dict(rank_pattern=made.rank_pattern, alpha_pattern=made.alpha_pattern, target_modules=sorted(made.target_modules),
                 batches=len(seen) - 1)  # the first pass only finds equal inputs
    rows = {"A." + name.removeprefix("base_model.model."): module.lora_A["default"].weight.detach()
            for name, module in peft.named_modules() if hasattr(module, "lora_A") and "default" in module.lora_A}
    return rows, facts


def expected_corda(model, config, ids, labels, mask):
    model.eval()
    rows = [(i[m == 1], ) for batch, masks in zip(ids, mask) for i, m in zip(batch, masks)]

    def run():
        for (row, ) in rows:
            model(input_ids=row[None], use_cache=False)

    preprocess_corda(model, config, run_model=run)
    values = {name: m.eigens.S_WC.clone() for name, m in model.named_modules() if hasattr(m, "eigens")}
    peft = get_peft_model(model, config)
    tensors = {"S." + name: value for name, value in values.items()}
    for name, module in peft.named_modules():
        if hasattr(module, "lora_A") and "default" in module.lora_A:
            product = module.lora_B["default"].weight @ module.lora_A["default"].weight * module.scaling["default"]
            tensors["delta." + name.removeprefix("base_model.model.")] = product.detach()
    return tensors, {}


def loftq_on_cpu():
    """PEFT's loftq_init(), which names a GPU, for the CPU."""
    source = inspect.getsource(loftq_utils.loftq_init).replace('"cuda"', '"cpu"')
    scope = dict(vars(loftq_utils))
    exec(source, scope)
    assert isinstance(scope["loftq_init"], types.FunctionType)
    return scope["loftq_init"]


def expected_loftq(directory, config):
    loftq_init, tensors = loftq_on_cpu(), {}
    for name, weight in load_file(os.path.join(directory, "model.safetensors")).items():
        if name.removesuffix(".weight") not in LOFTQ_KEPT:
            continue
        base, a, b = loftq_init(weight.float(), num_bits=config["loftq_bits"], reduced_rank=4, num_iter=config["loftq_iter"])
        layer = name.removesuffix(".weight")
        tensors["base." + layer] = base
        tensors["delta." + layer] = b @ a
    return tensors


def main():
    here = os.path.dirname(os.path.abspath(__file__))
    reference = os.path.abspath(os.path.join(here, "..", "reference"))
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", default=os.path.join(reference, "starts"))
    parser.add_argument("--only", nargs="*", help="names to make (default: all)")
    args = parser.parse_args()
    torch.set_num_threads(1)

    for index, (name, (base, options)) in enumerate(CASES.items()):
        if args.only and name not in args.only:
            continue
        start, facts, tensors = options["init_lora_weights"], {}, {}
        if start == "loftq":
            tensors = expected_loftq(os.path.join(reference, "quantized", base), options["loftq_config"])
        else:
            torch.manual_seed(index)
            sub = dict(eva_config=EvaConfig) if start == "eva" else dict(corda_config=CordaConfig)
            arguments = options | {key: kind(**options[key]) for key, kind in sub.items()}
            model = load_f32(os.path.join(reference, "models", base))
            ids, labels, mask = batches(model.config.vocab_size, 300 + index)
            work = expected_eva if start == "eva" else expected_corda
            tensors, facts = work(model, LoraConfig(task_type="CAUSAL_LM", **arguments), ids, labels, mask)
            tensors |= dict(input_ids=ids, labels=labels, attention_mask=mask)
        path = os.path.join(args.out, name)
        shutil.rmtree(path, ignore_errors=True)
        os.makedirs(path)
        save_file({k: v.clone().contiguous() for k, v in tensors.items()}, os.path.join(path, "expected.safetensors"))
        with open(os.path.join(path, "options.json"), "w") as f:
            json.dump(dict(base=base, options=options, **facts), f, indent=2)
            f.write("\n")
        print(json.dumps(dict(case=name, tensors=len(tensors), bytes=os.path.getsize(os.path.join(path, "expected.safetensors")),
                              batches=facts.get("batches"), ranks=facts.get("rank_pattern"))))


if __name__ == "__main__":
    main()
