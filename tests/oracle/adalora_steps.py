#!/usr/bin/env python3
"""Training steps of AdaLoRA by PEFT: reference/adalora/.

    adapter_config.json, adapter_model.safetensors      the adapter before the first step
    steps.safetensors
        input_ids, labels   i64 (2, 12), the one batch of all steps
        loss                f32 (steps), with the regulariser
        E.<layer>           f32 (steps, r, 1), lora_E after each step
        importance.<name>, uncertainty.<name>   f32, PEFT's moving averages of one layer's factors, after step AVERAGES_AT
        final.<name>        f32, factors of one layer after the last step

Ranks fall between steps 2 and 9, every second step, and gradients are clipped.  Run models.py first.
"""
import os
import shutil

import peft
import torch
from safetensors.torch import save_file

from models import batch, load_f32
from peft_adapters import sort_lists

STEPS, AVERAGES_AT, LAYER = 12, 5, "model.layers.1.self_attn.v_proj"


def main():
    here = os.path.dirname(os.path.abspath(__file__))
    path = os.path.abspath(os.path.join(here, "..", "reference", "adalora"))
    torch.set_num_threads(1)
    torch.manual_seed(3)
    generator = torch.Generator().manual_seed(4)
    os.chdir(os.path.join(here, "..", "reference", "models"))
    model = load_f32("llama2")
    ids, labels, _ = batch(model.config.vocab_size, generator, False)
    config = peft.AdaLoraConfig(task_type="CAUSAL_LM", init_r=6, target_r=3, tinit=2, tfinal=3, deltaT=2, total_step=STEPS, lora_alpha=24,
                                orth_reg_weight=0.1, target_modules=["q_proj", "v_proj"])
    adapted = peft.get_peft_model(model, config)
    shutil.rmtree(path, ignore_errors=True)
    adapted.save_pretrained(path)
    os.remove(os.path.join(path, "README.md"))
    sort_lists(os.path.join(path, "adapter_config.json"))
    trained = [p for p in adapted.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=0.02, weight_decay=0)
    inner = adapted.base_model
    own = {n.replace(".default", ""): p for n, p in inner.model.named_parameters() if ".lora_" in n}
    out = dict(input_ids=ids, labels=labels, loss=[], **{f"E.{n[:-len('.lora_E')]}": [] for n in own if n.endswith("lora_E")})
    for step in range(STEPS):
        loss = adapted(input_ids=ids, labels=labels, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 0.5)
        optimizer.step()
        inner.update_and_allocate(step)
        if step == AVERAGES_AT:
            for part in ("lora_A", "lora_E", "lora_B"):
                allocator, name = inner.rankallocator, f"{LAYER}.{part}"
                out[f"importance.{name}"] = allocator.exp_avg_ipt[name + ".default"].clone()
                out[f"uncertainty.{name}"] = allocator.exp_avg_unc[name + ".default"].clone()
        optimizer.zero_grad()
        out["loss"].append(loss.detach())
        for name, p in own.items():
            if name.endswith("lora_E"):
                out[f"E.{name[:-len('.lora_E')]}"].append(p.detach().clone())
    out |= {f"final.{n}": p.detach() for n, p in own.items() if LAYER in n}
    save_file({k: torch.stack(v) if isinstance(v, list) else v.contiguous() for k, v in out.items()}, os.path.join(path, "steps.safetensors"))
    print([round(x.item(), 4) for x in out["loss"]], {n: [int((e != 0).sum()) for e in out[n]] for n in out if n.startswith("E.")})


if __name__ == "__main__":
    main()
