#!/usr/bin/env python3
"""What PEFT's add_weighted_adapter() makes of small adapters, for every combination type that draws nothing at random; run models.py first.

    adapter_merging.py tests/reference/adapter_merging --models tests/reference/models

Writes the adapters {a,b,c,ia3_a,ia3_b}/ of models/llama2 as PEFT saves them, and for each case <number>.safetensors and a line of cases.tsv:
number, adapters with their weights, options of `cambium merge --into adapter`.  dare_* are run with density 1; what they draw otherwise is
torch's.  Singular vectors get the sign that makes the largest element of a right one positive: svd_clamp depends on it.
"""
import argparse
import pathlib
import warnings

import torch
from peft import IA3Config, LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

ADAPTERS = {
    "a": LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "embed_tokens"]),
    "b": LoraConfig(r=4, lora_alpha=3, target_modules=["q_proj", "down_proj"], use_rslora=True, alpha_pattern={"layers.1.self_attn.q_proj": 5}),
    "c": LoraConfig(r=3, lora_alpha=6, target_modules=["q_proj", "down_proj"], rank_pattern={"down_proj": 2}),
    "ia3_a": IA3Config(target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"]),
    "ia3_b": IA3Config(target_modules=["v_proj", "down_proj"], feedforward_modules=["down_proj"]),
}
AB = {"a": 0.7, "b": 0.4}
ABC = {"a": 0.7, "b": -0.5, "c": 1.2}
# adapters, PEFT's arguments
CASES = [
    (AB, dict(combination_type="linear")),
    ({"a": 1.0, "b": -0.5}, dict(combination_type="linear")),
    ({"b": 0.6}, dict(combination_type="ties", density=0.2)),
    (ABC, dict(combination_type="cat")),
    (ABC, dict(combination_type="svd")),
    (ABC, dict(combination_type="svd", svd_rank=6)),
    (ABC, dict(combination_type="svd", svd_rank=3, svd_clamp=0.9)),
    (AB, dict(combination_type="ties", density=0.5)),
    ({"a": 0.7, "b": -0.4}, dict(combination_type="ties", density=0.3, majority_sign_method="frequency")),
    (ABC, dict(combination_type="ties_svd", density=0.4, svd_rank=8)),
    (ABC, dict(combination_type="ties_svd", density=0.6, majority_sign_method="frequency", svd_full_matrices=False)),
    (AB, dict(combination_type="magnitude_prune", density=0.6)),
    (ABC, dict(combination_type="magnitude_prune_svd", density=0.6, svd_rank=5)),
    (AB, dict(combination_type="dare_linear", density=1.0)),
    (AB, dict(combination_type="dare_ties", density=1.0)),
    (ABC, dict(combination_type="dare_linear_svd", density=1.0, svd_rank=7)),
    (ABC, dict(combination_type="dare_ties_svd", density=1.0)),
    ({"ia3_a": 0.8, "ia3_b": 0.5}, dict()),
]
FLAGS = {"combination_type": "--combination-type", "density": "--density", "majority_sign_method": "--majority-sign-method",
         "svd_rank": "--rank", "svd_clamp": "--svd-clamp"}


def signed_svd(matrix, full_matrices=True, driver=None, svd=torch.linalg.svd):
    u, s, vh = svd(matrix, full_matrices=full_matrices, driver=driver)
    k = s.numel()
    sign = torch.gather(vh[:k], 1, vh[:k].abs().argmax(1, keepdim=True)).sign()
    u, vh = u.clone(), vh.clone()
    u[:, :k] *= sign.T
    vh[:k] *= sign
    return u, s, vh


def make(out, models):
    for number, (name, config) in enumerate(ADAPTERS.items()):
        model = get_peft_model(AutoModelForCausalLM.from_pretrained(models / "llama2", dtype=torch.float32), config)
        model.peft_config["default"].base_model_name_or_path = "llama2"
        generator = torch.Generator().manual_seed(11 + number)
        for key, p in model.named_parameters():
            if "ia3_l" in key:
                p.data = 1 + 0.3 * torch.randn(p.shape, generator=generator)
            elif "lora_" in key:
                p.data = 0.15 * torch.randn(p.shape, generator=generator)
        model.save_pretrained(out / name, save_embedding_layers=False)
        (out / name / "README.md").unlink(missing_ok=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output", type=pathlib.Path)
    parser.add_argument("--models", type=pathlib.Path, required=True)
    args = parser.parse_args()
    out = args.output
    out.mkdir(parents=True, exist_ok=True)
    warnings.simplefilter("ignore")
    torch.linalg.svd = signed_svd
    make(out, args.models)
    with open(out / "cases.tsv", "w") as lines:
        for number, (adapters, arguments) in enumerate(CASES):
            names = list(adapters)
            base = AutoModelForCausalLM.from_pretrained(args.models / "llama2", dtype=torch.float32)
            model = PeftModel.from_pretrained(base, out / names[0], adapter_name=names[0])
            for name in names[1:]:
                model.load_adapter(out / name, adapter_name=name)
            model.add_weighted_adapter(adapters=names, weights=list(adapters.values()), adapter_name="merged", **arguments)
            state = get_peft_model_state_dict(model, adapter_name="merged", save_embedding_layers=False)
            save_file({k: v.contiguous() for k, v in state.items()}, out / f"{number}.safetensors")
            options = " ".join(f"{FLAGS[k]} {v}" for k, v in (arguments or {"combination_type": "linear"}).items() if k in FLAGS)
            lines.write("\t".join([str(number), ",".join(f"{n}={w}" for n, w in adapters.items()), options]) + "\n")


main()
