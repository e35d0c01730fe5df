#!/usr/bin/env python3
"""A tiny random Llama quantised by transformers with bitsandbytes and in compressed-tensors' layout, and what its dequantised weights compute.

Writes <out>/NAME (default out: ../reference/quantized) for NAME in nf4, nf4_plain (no double quantisation), int8, int8_block:
    config.json, model.safetensors      as save_pretrained writes them
    expected.safetensors                ids (2, 12) i32; logits (2, 12, V) f32 of the same model with weights dequantised to f32
and <out>/base, the model they were made from (bf16).

With --check DIR ...: loads directories that `cambium convert <out>/base --quantize ...` wrote with transformers and compares their weights with
the base's.
"""
import argparse
import copy
import os
import shutil
import sys

import bitsandbytes as bnb
import torch
import transformers
from safetensors.torch import save_file

CONFIG = dict(vocab_size=96, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
              max_position_embeddings=64, tie_word_embeddings=False, initializer_range=0.2, bos_token_id=1, eos_token_id=2)
KINDS = {
    "nf4": dict(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True),
    "nf4_plain": dict(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=False),
    "int8": dict(load_in_8bit=True),
}
SCHEME = {"quant_method": "compressed-tensors", "format": "int-quantized", "quantization_status": "compressed",
          "config_groups": {"group_0": {"format": "int-quantized", "targets": ["Linear"], "input_activations": None, "output_activations": None,
                                        "weights": {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "group", "group_size": 32}}},
          "ignore": ["lm_head"]}


def ids():
    return torch.randint(3, 96, (2, 12), generator=torch.Generator().manual_seed(3))


def plain_weight(module):
    if isinstance(module, bnb.nn.Linear4bit):
        state = copy.copy(module.weight.quant_state)
        state.dtype = torch.float32  # not rounded to the model's dtype
        return bnb.functional.dequantize_4bit(module.weight.data, state)
    if isinstance(module, bnb.nn.Linear8bitLt):
        scb = module.weight.SCB if getattr(module.weight, "SCB", None) is not None else module.state.SCB
        data = module.weight.data if module.weight.data.dtype == torch.int8 else module.state.CB
        return data.float() * scb.float().reshape(-1, 1) / 127
    return None


def exact_logits(model, weights):
    """Logits of an f32 model of this config with these weights in place of the linear layers'."""
    config = transformers.LlamaConfig(**CONFIG)
    twin = transformers.LlamaForCausalLM(config).float().eval()
    state = {k: v.float() for k, v in model.state_dict().items() if k in twin.state_dict() and v.is_floating_point()}
    state.update({name + ".weight": w for name, w in weights.items()})
    missing = twin.load_state_dict(state, strict=False).missing_keys
    assert not missing, missing
    with torch.no_grad():
        return twin(ids()).logits


def keep(directory, logits):
    save_file({"ids": ids().to(torch.int32), "logits": logits.contiguous()}, os.path.join(directory, "expected.safetensors"))
    for name in os.listdir(directory):
        if name not in ("config.json", "model.safetensors", "expected.safetensors"):
            os.remove(os.path.join(directory, name))


def make(out):
    torch.manual_seed(11)
    base = os.path.join(out, "base")
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**CONFIG)).to(torch.bfloat16).eval()
    model.save_pretrained(base)
    keep(base, exact_logits(model, {}))
    for name, options in KINDS.items():
        directory = os.path.join(out, name)
        shutil.rmtree(directory, ignore_errors=True)
        quantized = transformers.AutoModelForCausalLM.from_pretrained(
            base, dtype=torch.bfloat16, device_map="cpu", quantization_config=transformers.BitsAndBytesConfig(**options))
        weights = {n: plain_weight(m) for n, m in quantized.named_modules() if plain_weight(m) is not None}
        assert len(weights) == 14
        quantized.save_pretrained(directory)
        keep(directory, exact_logits(quantized, weights))
    blocks(model, os.path.join(out, "int8_block"))


def blocks(model, directory):
    """compressed-tensors' arithmetic: scale = largest magnitude / 127.5, in the weight's dtype; codes round(x / scale)."""
    from compressed_tensors.quantization import QuantizationArgs
    from compressed_tensors.quantization.lifecycle.forward import dequantize, quantize
    from compressed_tensors.quantization.utils.helpers import calculate_qparams
    args = QuantizationArgs(**SCHEME["config_groups"]["group_0"]["weights"])
    os.makedirs(directory, exist_ok=True)
    tensors, weights = {}, {}
    for name, value in model.state_dict().items():
        if "_proj." not in name:
            tensors[name] = value
            continue
        groups = value.reshape(value.shape[0], -1, args.group_size)
        scale, zero = calculate_qparams(groups.amin(-1), groups.amax(-1), args)
        codes = quantize(value, scale, zero, args, dtype=torch.int8)
        tensors[name], tensors[name + "_scale"] = codes, scale
        weights[name[:-len(".weight")]] = dequantize(codes.float(), scale.float(), None, args)
    save_file(tensors, os.path.join(directory, "model.safetensors"), {"format": "pt"})
    config = transformers.LlamaConfig(**CONFIG, architectures=["LlamaForCausalLM"], dtype="bfloat16", quantization_config=SCHEME)
    config.save_pretrained(directory)
    keep(directory, exact_logits(model, weights))


def check(directory, base):
    """Loads a directory that Cambium quantised; every layer must be the base's but for rounding."""
    model = transformers.AutoModelForCausalLM.from_pretrained(directory, device_map="cpu")
    original = {n: p.float() for n, p in transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).named_parameters()}
    model(ids())
    worst, layers = 0.0, 0
    for name, module in model.named_modules():
        weight = plain_weight(module)
        if weight is None and name.endswith("_proj"):
            weight = module.weight.float()  # compressed-tensors takes weights apart while it loads
        if weight is not None:
            reference = original[name + ".weight"]
            worst = max(worst, ((weight - reference).norm() / reference.norm()).item())
            layers += 1
    print(f"{directory}: {layers} quantised layers, largest relative error {worst:.3g}")
    return layers > 0 and worst < 0.12


def main():
    here = os.path.dirname(os.path.abspath(__file__))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", default=os.path.join(here, "..", "reference", "quantized"))
    parser.add_argument("--check", metavar="DIR", nargs="*", default=[])
    args = parser.parse_args()
    if args.check:
        sys.exit(not all([check(directory, os.path.join(args.out, "base")) for directory in args.check]))
    make(args.out)


if __name__ == "__main__":
    main()
