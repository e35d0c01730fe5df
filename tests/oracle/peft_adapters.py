#!/usr/bin/env python3
"""Adapters made by PEFT on the tiny models, and what the adapted models compute.

Writes <out>/<name>/{adapter_config.json, adapter_model.safetensors, expected.safetensors}; run models.py first.
expected.safetensors holds
    input_ids, labels   i64 (2, 17)
    logits, loss        f32, base weights raised to f32, eager attention, adapter active
    grad.<key>          f32, gradient of the loss, <key> exactly as in adapter_model.safetensors
    losses, after.<key> f32, those of WITH_STEPS only: the losses of three steps of AdamW (rate 0.01, no decay) on this batch, and what
                        the parameters are then
lora_B and the trained biases are randomised: a fresh adapter would leave the model unchanged.
base_model_name_or_path is the name of a directory beside it under models/.
"""
import argparse
import json
import os
import shutil

import torch
from peft import IA3Config, LoraConfig, TrainableTokensConfig, get_peft_model
from safetensors.torch import load_file, save_file

from models import batch, load_f32

QV = ["q_proj", "v_proj"]

# name: (base, LoraConfig arguments)
ADAPTERS = {
    "lora_qv": ("llama2", dict(r=8, lora_alpha=16, target_modules=QV)),
    "lora_all_linear": ("llama2", dict(r=4, lora_alpha=8, target_modules="all-linear")),
    "lora_regex": ("llama2", dict(r=4, lora_alpha=6, target_modules=r".*\.(q|k)_proj|model\.layers\.1\.mlp\.(up|down)_proj")),
    "lora_rslora": ("llama2", dict(r=4, lora_alpha=6, target_modules=QV, use_rslora=True)),
    "lora_patterns": ("llama2", dict(r=4, lora_alpha=8, target_modules=["q_proj", "k_proj", "down_proj"],
                                     rank_pattern={"q_proj": 2, r"layers\.1\.mlp\.down_proj": 6},
                                     alpha_pattern={"k_proj": 3, r"^model\.layers\.0\.self_attn\.q_proj": 5})),
    "lora_layers": ("llama3", dict(r=4, lora_alpha=8, target_modules=["q_proj", "o_proj"],
                                   layers_to_transform=[0, 2], layers_pattern="layers")),
    "lora_modules_to_save": ("llama2", dict(r=4, lora_alpha=8, target_modules=QV, modules_to_save=["lm_head"])),
    "lora_bias_all": ("qwen2", dict(r=4, lora_alpha=8, target_modules=["q_proj", "o_proj"], bias="all")),
    "lora_bias_only": ("qwen2", dict(r=4, lora_alpha=8, target_modules=["q_proj", "o_proj"], bias="lora_only")),
    "lora_exclude": ("llama2", dict(r=4, lora_alpha=8, target_modules="all-linear",
                                    exclude_modules=["k_proj", "layers.0.mlp.up_proj"])),
    "lora_gpt2": ("gpt2", dict(r=4, lora_alpha=8, target_modules=["c_attn", "c_proj", "c_fc"], fan_in_fan_out=True)),
    "lora_gpt2_bias_all": ("gpt2", dict(r=4, lora_alpha=8, target_modules=["c_attn"], fan_in_fan_out=True, bias="all")),
    "lora_bias_b": ("qwen2", dict(r=4, lora_alpha=8, target_modules=QV, lora_bias=True)),
    "lora_qwen3": ("qwen3", dict(r=4, lora_alpha=8, target_modules="all-linear")),
    "lora_llama3": ("llama3", dict(r=4, lora_alpha=8, target_modules="all-linear")),
    "lora_mistral": ("mistral", dict(r=4, lora_alpha=8, target_modules=["q_proj", "k_proj", "v_proj", "o_proj"])),
    "lora_embedding": ("llama2", dict(r=4, lora_alpha=8, target_modules=["embed_tokens", "q_proj"])),
    "dora_qv": ("llama2", dict(r=4, lora_alpha=8, target_modules=QV, use_dora=True)),
    "lora_head": ("smollm", dict(r=4, lora_alpha=8, target_modules=["q_proj", "lm_head"])),
    "lora_embedding_gpt2": ("gpt2", dict(r=4, lora_alpha=8, target_modules=["wte", "c_attn"], fan_in_fan_out=True)),
    "lora_untied_head": ("llama2", dict(r=4, lora_alpha=8, target_modules=["lm_head", "v_proj"])),
    "lora_norms_saved": ("llama2", dict(r=4, lora_alpha=8, target_modules=QV, modules_to_save=["norm", "input_layernorm",
                                                                                              "embed_tokens"])),
    "dora_biases": ("qwen2", dict(r=4, lora_alpha=6, target_modules=["q_proj", "o_proj"], use_dora=True, use_rslora=True)),
    "dora_gpt2": ("gpt2", dict(r=4, lora_alpha=8, target_modules=["c_attn", "c_proj"], use_dora=True, fan_in_fan_out=True)),
    "dora_embedding": ("llama2", dict(r=4, lora_alpha=8, target_modules=["embed_tokens", "down_proj"], use_dora=True)),
    "pissa": ("llama2", dict(r=4, lora_alpha=6, target_modules=QV, init_lora_weights="pissa")),
    "pissa_gpt2": ("gpt2", dict(r=4, lora_alpha=8, target_modules=["c_fc"], init_lora_weights="pissa", fan_in_fan_out=True)),
    "pissa_dora": ("qwen2", dict(r=4, lora_alpha=8, target_modules=["q_proj", "o_proj"], init_lora_weights="pissa", use_dora=True)),
    "olora": ("llama2", dict(r=4, lora_alpha=6, target_modules=["q_proj", "up_proj"], init_lora_weights="olora", use_rslora=True)),
    "tokens_tied": ("smollm", dict(r=4, lora_alpha=8, target_modules=QV, trainable_token_indices=list(range(3, 23)))),
    "tokens_untied": ("llama2", dict(r=4, lora_alpha=8, target_modules=QV,
                                     trainable_token_indices={"embed_tokens": list(range(3, 23)), "lm_head": [60, 4, 21]})),
    "tokens_apart": ("qwen2", dict(r=4, lora_alpha=8, target_modules=QV,
                                   trainable_token_indices={"embed_tokens": list(range(3, 23)), "lm_head": [60, 4, 21]})),
    "tied_embedding": ("smollm", dict(r=4, lora_alpha=8, target_modules=["q_proj", "embed_tokens"], ensure_weight_tying=True)),
    "tied_head_dora": ("smollm", dict(r=4, lora_alpha=8, target_modules=["q_proj", "lm_head"], use_dora=True, ensure_weight_tying=True)),
    "tied_saved": ("smollm", dict(r=4, lora_alpha=8, target_modules=QV, modules_to_save=["lm_head"], ensure_weight_tying=True)),
    "tokens_only": ("llama2", dict(kind=TrainableTokensConfig, token_indices=list(range(3, 43)))),
    "tokens_only_tied": ("smollm", dict(kind=TrainableTokensConfig, token_indices=list(range(50, 3, -2)))),
    "tokens_only_gpt2": ("gpt2", dict(kind=TrainableTokensConfig, token_indices=list(range(3, 43)), target_modules=["wte"])),
}
ADAPTERS |= {
    "ia3_default": ("llama2", dict(kind=IA3Config)),
    "ia3_biases": ("qwen2", dict(kind=IA3Config, target_modules=["q_proj", "v_proj", "up_proj", "down_proj"],
                                 feedforward_modules=["up_proj"])),
    "ia3_none": ("llama2", dict(kind=IA3Config, target_modules=["k_proj", "down_proj"], feedforward_modules=[],
                                modules_to_save=["lm_head"])),
    "ia3_regex": ("llama2", dict(kind=IA3Config, target_modules=r".*\.(k|down)_proj",
                                 feedforward_modules=r"model\.layers\.[01]\.mlp\..*")),
    "ia3_gpt2": ("gpt2", dict(kind=IA3Config, fan_in_fan_out=True)),
    "lora_gpt2_bias_saved": ("gpt2", dict(r=2, lora_alpha=4, target_modules=["c_attn"], fan_in_fan_out=True, bias="all", modules_to_save=["ln_1"])),
}
WITH_STEPS = ["tied_saved", "tokens_tied", "tokens_untied", "tokens_apart", "tokens_only", "tokens_only_tied", "tokens_only_gpt2", "lora_embedding", "lora_embedding_gpt2", "lora_untied_head", "lora_norms_saved", "dora_qv", "dora_biases", "dora_gpt2",
              "dora_embedding", "pissa", "pissa_gpt2", "pissa_dora", "olora"]
GRADIENTS_KEPT = 5  # per adapter, spread over its keys


def randomise(model, generator):
    for name, p in model.named_parameters():
        if "lora_magnitude_vector" in name:
            p.data = p.data * (1 + 0.1 * torch.randn(p.shape, generator=generator))
        elif "ia3_l" in name:
            p.data = 1 + 0.3 * torch.randn(p.shape, generator=generator)
        elif "lora_" in name:
            p.data = 0.15 * torch.randn(p.shape, generator=generator)
        elif p.requires_grad:  # biases and modules_to_save
            p.data = p.data + 0.1 * torch.randn(p.shape, generator=generator)


def tied_factors(model):
    """Pairs of parameters of an embedding's and a head's factors that are one: PEFT gives each a gradient of its own."""
    causal = model.base_model.model
    embedding, head = getattr(getattr(causal, "model", None), "embed_tokens", None), getattr(causal, "lm_head", None)
    if embedding is None or not getattr(model.peft_config["default"], "ensure_weight_tying", False) or not hasattr(head, "lora_A"):
        return []
    return [(embedding.lora_embedding_A["default"], head.lora_B["default"].weight),
            (embedding.lora_embedding_B["default"], head.lora_A["default"].weight)]


def file_keys(model, saved):
    """Map keys of the adapter file to the parameters they were written from (PEFT drops the adapter's name)."""
    parameters = {}
    for name, p in model.named_parameters():
        key = name.replace(".default", "").replace(".modules_to_save", "")
        parameters[key.removesuffix(".weight") if "lora_magnitude_vector" in key else key] = p
    return {key: parameters[key] for key in saved if key in parameters and parameters[key].requires_grad}


def three_steps(model, ids, labels):
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.01, weight_decay=0.0)
    losses = []
    for _ in range(3):
        optimizer.zero_grad()
        loss = model(input_ids=ids, labels=labels, use_cache=False).loss
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    return torch.stack(losses)


def sort_lists(path):
    """PEFT writes sets in hash order; sort them so that two runs give the same file."""
    with open(path) as f:
        config = json.load(f)
    for key in ("target_modules", "exclude_modules", "modules_to_save", "feedforward_modules"):
        if isinstance(config.get(key), list):
            config[key].sort()
    with open(path, "w") as f:
        json.dump(config, f, indent=2, sort_keys=True)


def main():
    here = os.path.dirname(os.path.abspath(__file__))
    reference = os.path.join(here, "..", "reference")
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", default=os.path.join(reference, "models"))
    parser.add_argument("--out", default=os.path.join(reference, "adapters"))
    parser.add_argument("--only", nargs="*", help="names to make (default: all)")
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.out = os.path.abspath(args.out)
    os.chdir(args.models)  # so that base_model_name_or_path is just the model's name

    for index, (name, (base, options)) in enumerate(ADAPTERS.items()):
        if args.only and name not in args.only:
            continue
        path = os.path.join(args.out, name)
        shutil.rmtree(path, ignore_errors=True)
        torch.manual_seed(index)
        generator = torch.Generator().manual_seed(2000 + index)
        options = dict(options)
        kind = options.pop("kind", LoraConfig)
        if kind is LoraConfig:
            options["lora_dropout"] = 0.0
        model = get_peft_model(load_f32(base), kind(task_type="CAUSAL_LM", **options))
        randomise(model, generator)
        for one, other in tied_factors(model):  # as they are made: over the same memory
            other.data = one.data.t()
        model.save_pretrained(path)
        readme = os.path.join(path, "README.md")
        if os.path.exists(readme):
            os.remove(readme)

        sort_lists(os.path.join(path, "adapter_config.json"))
        ids, labels, _ = batch(model.config.vocab_size, generator, False)
        out = model(input_ids=ids, labels=labels, use_cache=False)
        out.loss.backward()
        for one, other in tied_factors(model):
            one.grad += other.grad.t()
        tensors = dict(input_ids=ids, labels=labels, logits=out.logits.detach(), loss=out.loss.detach())
        saved = load_file(os.path.join(path, "adapter_model.safetensors"))
        pairs = file_keys(model, saved)
        keys = sorted(pairs)
        step = max(1, len(keys) // GRADIENTS_KEPT) if name not in WITH_STEPS else 1
        if tied_factors(model):
            keys = [k for k in keys if "lm_head.lora_A" not in k and "lm_head.lora_B" not in k]
        chosen = keys[::step] + [k for k in keys if "lora_" not in k][:2]
        for key in chosen:
            tensors["grad." + key] = pairs[key].grad.clone()
        if name in WITH_STEPS:
            tensors["losses"] = three_steps(model, ids, labels)
            tensors |= {"after." + key: pairs[key].detach() for key in chosen[::2]}
        save_file({k: v.clone().contiguous() for k, v in tensors.items()}, os.path.join(path, "expected.safetensors"))
        for file in os.listdir(path):
            os.chmod(os.path.join(path, file), 0o644)
        size = sum(os.path.getsize(os.path.join(path, f)) for f in os.listdir(path))
        print(json.dumps(dict(adapter=name, base=base, keys=len(saved), unmapped=len(saved) - len(pairs), bytes=size,
                              loss=round(out.loss.item(), 4))))


if __name__ == "__main__":
    main()
