#!/usr/bin/env python3
"""What mergekit makes of small checkpoints, for every method that it and Cambium know and that draws nothing at random.

    model_merging.py tests/reference/merging

Writes {base,a,b,c}/{config.json, model.safetensors} (f32; numbers without equals, since equals have no order), and for each case
<number>.safetensors and a line of cases.tsv: number, mergekit's method, the models with their weights, options of `cambium merge`.
"""
import argparse
import json
import pathlib

import torch
from mergekit.merge_methods.base import TensorGroup
from mergekit.merge_methods.registry import get
from safetensors.torch import save_file

SHAPES = {"matrix": (9, 14), "vector": (23,), "kernel": (3, 4, 5)}
ABC = {"a": 0.7, "b": 0.4, "c": 0.5}
AB = {"a": 0.3, "b": 0.9}

# method, models, whether mergekit sees the base, its parameters ("weight" and "density" for each model), ours
CASES = [
    ("linear", ABC, False, {}, ""),
    ("linear", ABC, False, {"normalize": False}, "--normalize false"),
    ("task_arithmetic", ABC, True, {"lambda": 0.8}, "--lambda 0.8"),
    ("task_arithmetic", ABC, True, {"normalize": True}, "--normalize true"),
    ("ties", ABC, True, {"density": 0.4}, "--density 0.4"),
    ("ties", {"a": 1.0, "b": -0.6, "c": 0.5}, True, {"density": {"a": 0.3, "b": 0.6, "c": 0.01}, "normalize": False, "lambda": 1.3},
     "--density 0.3,0.6,0.01 --normalize false --lambda 1.3"),
    ("ties", ABC, True, {"density": 0.5, "rescale": True}, "--density 0.5 --rescale norm"),
    ("ties", ABC, True, {"density": {"a": 0.0, "b": 1.0, "c": 0.5}}, "--density 0,1,0.5"),
    ("breadcrumbs", ABC, True, {"density": 0.6, "gamma": 0.1}, "--density 0.6 --gamma 0.1"),
    ("breadcrumbs", ABC, True, {"density": 0.95, "gamma": 0.2}, "--density 0.95 --gamma 0.2"),
    ("breadcrumbs_ties", ABC, True, {"density": 0.5, "gamma": 0.05, "normalize": True}, "--density 0.5 --gamma 0.05 --normalize true"),
    ("slerp", {"a": 1.0}, True, {"t": 0.3}, "--t 0.3"),
    ("nuslerp", AB, False, {}, ""),
    ("nuslerp", AB, True, {}, "--changes"),
    ("multislerp", ABC, False, {}, ""),
    ("multislerp", ABC, True, {}, "--changes"),
    ("multislerp", AB, False, {"normalize_weights": False}, "--normalize false"),
    ("karcher", {"a": 1.0, "b": 1.0, "c": 1.0}, False, {}, ""),
    ("karcher", {"a": 1.0, "b": 1.0}, False, {"max_iter": 1}, "--max-iter 1"),
    ("model_stock", {"a": 1.0, "b": 1.0}, True, {}, ""),
    ("model_stock", {"a": 1.0, "b": 1.0, "c": 1.0}, True, {"filter_wise": True}, "--filter-wise"),
    ("sce", {"a": 1.0, "b": 1.0, "c": 1.0}, True, {}, ""),
    ("sce", {"a": 1.0, "b": 1.0, "c": 1.0}, True, {"select_topk": 0.3}, "--select-topk 0.3"),
    ("nearswap", {"a": 1.0}, True, {"t": 0.2}, "--t 0.2"),
    ("ram", {"a": 1.0, "b": 1.0, "c": 1.0}, True, {"epsilon": 0.3}, "--ram-epsilon 0.3"),
    ("ramplus_tl", {"a": 1.0, "b": 1.0, "c": 1.0}, True, {"epsilon": 0.3, "r": 0.4, "alpha": 0.9},
     "--ram-epsilon 0.3 --ram-r 0.4 --ram-alpha 0.9"),
]
WEIGHTLESS = {"karcher", "model_stock", "sce", "nearswap", "slerp", "ram", "ramplus_tl"}
DENSE = {"task_arithmetic", "ties", "breadcrumbs", "breadcrumbs_ties"}


def merge(method, models, with_base, parameters, checkpoints, name):
    ids = (["base"] if with_base else []) + list(models)
    group = TensorGroup.from_tensors([checkpoints[i][name].clone() for i in ids], ids=ids, base_index=0 if with_base else None, name=name)
    parameters = dict(parameters)
    if method not in WEIGHTLESS:
        parameters["weight"] = models
    if method in DENSE:
        density = parameters.get("density", 1.0)
        parameters["density"] = density if isinstance(density, dict) else {m: density for m in models}
    return get(method)([group], parameters=parameters)[0]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output", type=pathlib.Path)
    out = parser.parse_args().output
    generator = torch.Generator().manual_seed(5)
    base = {name: torch.randn(shape, generator=generator) for name, shape in SHAPES.items()}
    common = {name: 0.3 * torch.randn(shape, generator=generator) for name, shape in SHAPES.items()}
    checkpoints = {"base": base}
    for model in "abc":
        checkpoints[model] = {name: base[name] + common[name] + 0.4 * torch.randn(shape, generator=generator) for name, shape in SHAPES.items()}
    for model, tensors in checkpoints.items():
        (out / model).mkdir(parents=True, exist_ok=True)
        save_file(tensors, out / model / "model.safetensors", {"format": "pt"})
        (out / model / "config.json").write_text(json.dumps({"model_type": "none"}) + "\n")
    with open(out / "cases.tsv", "w") as lines:
        for number, (method, models, with_base, parameters, options) in enumerate(CASES):
            save_file({n: merge(method, models, with_base, parameters, checkpoints, n).contiguous() for n in SHAPES}, out / f"{number}.safetensors")
            lines.write("\t".join([str(number), method, ",".join(f"{m}={w}" for m, w in models.items()), options]) + "\n")


main()
