#!/usr/bin/env python3
"""Bottleneck adapters, Compacter, invertible adapters and ReFT made by AdapterHub's package `adapters`, and what the adapted models compute.

Writes <out>/<name>/{adapter_config.json, adapter.safetensors or pytorch_adapter.bin, expected.safetensors}, the last with input_ids, labels,
logits, loss and grad.<key of the file>.  The package wants transformers 4.57: run with a Python that has adapters 1.3.0 and that; the models
are those of models.py, in f32.  Every parameter is what the package starts with and normal noise, so that nothing is zero.
"""
import argparse
import json
import os
import shutil
import zlib

import adapters
import torch
from adapters import (AdapterPlusConfig, AutoAdapterModel, BnConfig, CompacterConfig, DiReftConfig, DoubleSeqBnConfig, LoReftConfig, NoReftConfig, ParBnConfig,
                      SeqBnConfig, SeqBnInvConfig)
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, GenerationMixin

HERE = os.path.dirname(os.path.abspath(__file__))
REFERENCE = os.path.join(HERE, "..", "reference")

CASES = {
    "seq_bn": ("llama2", SeqBnConfig()),
    "seq_bn_gpt2": ("gpt2", SeqBnConfig(non_linearity="gelu", residual_before_ln=False)),
    "double_seq_bn": ("llama2", DoubleSeqBnConfig(reduction_factor={"1": 6, "default": 4})),
    "double_seq_bn_gpt2": ("gpt2", DoubleSeqBnConfig(reduction_factor=8, ln_before=True, ln_after=True, adapter_residual_before_ln=True)),
    "bn_norms": ("llama2", DoubleSeqBnConfig(leave_out=[1], ln_before=True, ln_after=True, use_gating=True, scaling="channel")),
    "bn_after": ("llama2", DoubleSeqBnConfig(original_ln_before=True, residual_before_ln=False, non_linearity="leakyrelu",
                                             init_weights="houlsby")),
    "par_bn": ("llama2", ParBnConfig()),
    "par_bn_gpt2": ("gpt2", ParBnConfig(mh_adapter=True, reduction_factor=5, scaling="learned", ln_after=True)),
    "adapter_plus": ("llama2", AdapterPlusConfig(reduction_factor=9, stochastic_depth=0.0)),
    "compacter": ("llama2", CompacterConfig(reduction_factor=4)),
    "compacter_own": ("gpt2", CompacterConfig(reduction_factor=4, shared_phm_rule=False, factorized_phm_rule=True, factorized_phm_W=False,
                                              phm_dim=2, phm_bias=False)),
    "compacter_shared": ("llama2", CompacterConfig(reduction_factor=4, shared_W_phm=True, phm_rank=2)),
    "seq_bn_inv": ("llama2", SeqBnInvConfig()),
    "seq_bn_inv_gpt2": ("gpt2", SeqBnInvConfig(inv_adapter_reduction_factor=3)),
    "seq_bn_roberta": ("roberta", SeqBnConfig(reduction_factor=4)),
    "double_seq_bn_distilbert": ("distilbert", DoubleSeqBnConfig(reduction_factor=8)),
    "bn_after_bert": ("bert", DoubleSeqBnConfig(original_ln_before=True, residual_before_ln=False, reduction_factor=8)),
    "seq_bn_inv_roberta": ("roberta", SeqBnInvConfig(reduction_factor=8)),
    "loreft": ("llama2", LoReftConfig(r=3, suffix_positions=2)),
    "noreft_gpt2": ("gpt2", NoReftConfig(r=2, layers=[1], prefix_positions=0, suffix_positions=3, non_linearity="relu")),
    "direft": ("llama2", DiReftConfig(r=2, prefix_positions=7, suffix_positions=7, tied_weights=True)),
}
GRADIENTS_KEPT = 6


def add_noise(model, generator):
    for name, p in sorted(model.named_parameters()):
        if p.requires_grad and "parametrizations" not in name:
            p.data = p.data + 0.2 * torch.randn(p.shape, generator=generator)
        elif p.requires_grad:  # the reflectors of an orthogonal matrix; on the diagonal are signs
            p.data = p.data + 0.2 * torch.randn(p.shape, generator=generator).triu(1)


def base_model(name):
    """A decoder as it is, or an encoder with the package's own head, before which invertible adapters are undone."""
    options = dict(torch_dtype=torch.float32, attn_implementation="eager")
    if os.path.isdir(os.path.join(REFERENCE, "models", name)):
        model = AutoModelForCausalLM.from_pretrained(os.path.join(REFERENCE, "models", name), **options)
        adapters.init(model)
        return model
    path = os.path.join(REFERENCE, "encoders", name)
    model = AutoAdapterModel.from_pretrained(path, **options)
    model.add_masked_lm_head("words")
    trained = AutoModelForMaskedLM.from_pretrained(path, **options)
    head = [m for n, m in trained.named_modules() if isinstance(m, (torch.nn.Linear, torch.nn.LayerNorm)) and n.split(".")[0] in (
        "cls", "lm_head", "vocab_transform", "vocab_layer_norm", "vocab_projector")]
    own = [m for m in model.heads["words"].modules() if isinstance(m, (torch.nn.Linear, torch.nn.LayerNorm))]
    assert [type(m) for m in head] == [type(m) for m in own], (head, own)
    for a, b in zip(own, head):
        a.load_state_dict(b.state_dict())
    for p in model.heads.parameters():  # stay as they are
        p.requires_grad = False
    return model


def make(name, base, config, path):
    torch.manual_seed(zlib.crc32(name.encode()))
    generator = torch.Generator().manual_seed(zlib.crc32(name.encode()) + 1)
    model = base_model(base)
    model.add_adapter("style", config=config)
    model.train_adapter("style")
    add_noise(model, generator)
    model.eval()
    os.makedirs(path)
    binary = config.get("ln_before", False)  # the file would have one tensor under two names
    model.save_adapter(path, "style", use_safetensors=not binary)
    for file in os.listdir(path):
        if "head" in file:
            os.remove(os.path.join(path, file))
    with open(os.path.join(path, "adapter_config.json")) as f:
        written = json.load(f)
    with open(os.path.join(path, "adapter_config.json"), "w") as f:
        if name == "direft":  # what the package does not write
            written["config"]["subtract_projection"] = False
        json.dump(written | dict(model_name=base), f, indent=2, sort_keys=True)
        f.write("\n")
    ids = torch.randint(3, model.config.vocab_size, (2, 11), generator=generator)
    out = model(input_ids=ids, labels=ids, **({"use_cache": False} if isinstance(model, GenerationMixin) else {}))
    out.loss.backward()
    tensors = dict(input_ids=ids, labels=ids, logits=out.logits, loss=out.loss)
    file = os.path.join(path, "pytorch_adapter.bin" if binary else "adapter.safetensors")
    saved = torch.load(file) if binary else load_file(file)
    # the reflectors are of another basis here than there, and a unit of ReFT without positions has a gradient of zero
    named = {key: p for key, p in model.named_parameters()
             if key in saved and p.grad is not None and "parametrizations" not in key and p.grad.abs().max() > 0}
    keys = sorted(named)
    for key in keys[:: max(1, len(keys) // GRADIENTS_KEPT)]:
        tensors["grad." + key] = named[key].grad
    save_file({k: v.detach().clone().contiguous() for k, v in tensors.items()}, os.path.join(path, "expected.safetensors"))
    print(name, base, len(saved), "tensors,", len(named), "trained, loss", round(out.loss.item(), 4),
          sum(os.path.getsize(os.path.join(path, f)) for f in os.listdir(path)), "bytes")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", default=os.path.join(REFERENCE, "adapterhub"))
    parser.add_argument("--only", nargs="*", help="names to make, or beginnings of names (default: all)")
    args = parser.parse_args()
    torch.set_num_threads(1)
    for name, (base, config) in CASES.items():
        if args.only and not any(name.startswith(only) for only in args.only):
            continue
        path = os.path.join(args.out, name)
        shutil.rmtree(path, ignore_errors=True)
        make(name, base, config, path)


if __name__ == "__main__":
    main()
