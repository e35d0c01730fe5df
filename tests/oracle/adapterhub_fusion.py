#!/usr/bin/env python3
"""AdapterFusion by AdapterHub's package: setups of fused adapters as save_adapter_setup() writes them, and what the model computes with them.

Writes <out>/<name>/{adapter_setup.json, <part>/..., <fusion>/...} and expected.safetensors with input_ids, labels, logits, loss and
grad.<key of the fusion's file>; --load DIR --base MODEL instead loads such a directory, as this program or ours wrote it, and writes the
logits of --ids FILE's input_ids into --logits FILE.  Runs where adapterhub.py does.
"""
import argparse
import json
import os
import shutil
import zlib

import adapters
import torch
from adapters import DoubleSeqBnConfig, SeqBnConfig
from adapters.composition import Fuse
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

import adapterhub

CASES = {  # base, the adapters' config, that of fusion, safetensors
    "fusion": ("llama2", SeqBnConfig(), "dynamic", True),
    "fusion_static": ("gpt2", DoubleSeqBnConfig(leave_out=[0], reduction_factor=8), "static", False),
}
PARTS = ["style", "words"]
GRADIENTS_KEPT = 6


def base_model(name):
    path = os.path.join(adapterhub.REFERENCE, "models", name)
    model = AutoModelForCausalLM.from_pretrained(path, torch_dtype=torch.float32, attn_implementation="eager")
    adapters.init(model)
    model.config.attention_probs_dropout_prob = 0.0
    return model


def make(name, base, config, fusion, safe, path):
    torch.manual_seed(zlib.crc32(name.encode()))
    generator = torch.Generator().manual_seed(zlib.crc32(name.encode()) + 1)
    model = base_model(base)
    for part in PARTS:
        model.add_adapter(part, config=config)
        model.train_adapter(part)
        adapterhub.add_noise(model, generator)
    setup = Fuse(*PARTS)
    model.add_adapter_fusion(setup, fusion)
    model.train_adapter_fusion(setup)
    adapterhub.add_noise(model, generator)
    model.eval()
    model.save_adapter_setup(path, setup, use_safetensors=safe)
    for directory, _, files in os.walk(path):
        for file in files:
            if "head" in file:
                os.remove(os.path.join(directory, file))
            elif file.endswith("config.json"):
                with open(os.path.join(directory, file)) as f:
                    written = json.load(f)
                with open(os.path.join(directory, file), "w") as f:
                    json.dump(written | dict(model_name=base), f, indent=2, sort_keys=True)
                    f.write("\n")
    ids = torch.randint(3, model.config.vocab_size, (2, 9), generator=generator)
    out = model(input_ids=ids, labels=ids, use_cache=False)
    out.loss.backward()
    tensors = dict(input_ids=ids, labels=ids, logits=out.logits, loss=out.loss)
    named = {key: p for key, p in model.named_parameters() if "adapter_fusion_layer" in key and p.grad is not None}
    keys = sorted(named)
    for key in keys[:: max(1, len(keys) // GRADIENTS_KEPT)]:
        tensors["grad." + key] = named[key].grad
    save_file({k: v.detach().clone().contiguous() for k, v in tensors.items()}, os.path.join(path, "expected.safetensors"))
    for directory, _, files in os.walk(path):
        for file in files:
            os.chmod(os.path.join(directory, file), 0o644)
    print(name, base, len(named), "trained, loss", round(out.loss.item(), 4))


def load(args):
    model = base_model(args.base)
    setup, _ = model.load_adapter_setup(args.load, set_active=True, use_safetensors=True)
    model.eval()
    ids = load_file(args.ids)["input_ids"]
    with torch.no_grad():
        save_file({"logits": model(input_ids=ids, use_cache=False).logits.contiguous()}, args.logits)
    print(setup)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", default=os.path.join(adapterhub.REFERENCE, "adapterhub"))
    parser.add_argument("--load")
    parser.add_argument("--base")
    parser.add_argument("--ids")
    parser.add_argument("--logits")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.load:
        load(args)
        return
    for name, (base, config, fusion, safe) in CASES.items():
        path = os.path.join(args.out, name)
        shutil.rmtree(path, ignore_errors=True)
        make(name, base, config, fusion, safe, path)


if __name__ == "__main__":
    main()
