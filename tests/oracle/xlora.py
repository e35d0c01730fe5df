#!/usr/bin/env python3
"""X-LoRA by PEFT: directories that PEFT loads, and what the model computes with them.

Writes <out>/<name>/{adapter_config.json, adapter_model.safetensors, 0/, 1/, 2/} and expected.safetensors with input_ids, labels, logits, loss,
scalings and grad.<classifier's tensor>.  The files are not save_pretrained()'s, which in PEFT 0.21.2 leaves out every tensor with an adapter's name
between dots, and adapters must be called "0", "1", ... there: what is written is the classifier's whole state under the names that
PeftModel.from_pretrained() looks for, which is checked here.  With --load DIR --base MODEL --ids FILE --logits FILE it loads a directory of ours instead.
"""
import argparse
import json
import os
import shutil
import zlib

import torch
from peft import LoraConfig, PeftModel, XLoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

HERE = os.path.dirname(os.path.abspath(__file__))
REFERENCE = os.path.join(HERE, "..", "reference")

EXPERTS = [dict(r=2, lora_alpha=6, target_modules=["q_proj", "down_proj"]), dict(r=1, lora_alpha=3, target_modules=["q_proj", "v_proj"]),
           dict(r=2, lora_alpha=4, target_modules=["v_proj", "up_proj"])]
CASES = {
    "plain": dict(),
    "layerwise": dict(xlora_depth=2, xlora_size=7, layerwise_scalings=True, softmax_temperature=0.5, global_scaling_weight=0.7),
    "topk": dict(xlora_depth=3, xlora_size=6, xlora_dropout_p=0.0, top_k_lora=2, enable_softmax=False, enable_softmax_topk=True),
    "value": dict(top_k_lora=1, scaling_pass_value=0.3, layerwise_scalings=True),
    "raw": dict(enable_softmax=False, scaling_pass_value=0.5),  # scalings of up to 5, so as not to magnify rounding
}


def base_model(name):
    model = AutoModelForCausalLM.from_pretrained(os.path.join(REFERENCE, "models", name), dtype=torch.float32)
    model.config.use_cache = False
    return model


def make(name, options, path, generator):
    os.makedirs(path)
    for i, expert in enumerate(EXPERTS):
        model = get_peft_model(base_model("llama2"), LoraConfig(task_type="CAUSAL_LM", **expert))
        for key, p in model.named_parameters():
            if "lora_" in key:
                p.data = 0.4 * torch.randn(p.shape, generator=generator)
        part = os.path.join(path, str(i))
        model.save_pretrained(part)
        os.remove(os.path.join(part, "README.md"))
        with open(os.path.join(part, "adapter_config.json")) as f:
            config = json.load(f)
        config["target_modules"].sort()
        with open(os.path.join(part, "adapter_config.json"), "w") as f:
            json.dump(config | dict(base_model_name_or_path="llama2"), f, indent=2, sort_keys=True)
    names = {str(i): os.path.join(path, str(i)) for i in range(len(EXPERTS))}
    model = base_model("llama2")
    config = XLoraConfig(task_type="CAUSAL_LM", hidden_size=model.config.hidden_size, adapters=names, **options)
    adapted = get_peft_model(model, config)
    classifier = adapted.base_model.internal_xlora_classifier
    for key, p in sorted(classifier.named_parameters()):
        p.data = p.data + (0.1 if name == "raw" else 0.5) * torch.randn(p.shape, generator=generator)
    state = {"base_model.internal_xlora_classifier." + key: t.contiguous() for key, t in classifier.state_dict().items()}
    save_file(state, os.path.join(path, "adapter_model.safetensors"), metadata={"format": "pt"})
    written = config.to_dict() | dict(peft_type="XLORA", inference_mode=True, base_model_name_or_path="llama2")
    with open(os.path.join(path, "adapter_config.json"), "w") as f:
        json.dump(written, f)
    ids = torch.randint(3, model.config.vocab_size, (2, 9), generator=generator)
    out = adapted(input_ids=ids, labels=ids)
    out.loss.backward()
    tensors = dict(input_ids=ids, labels=ids, logits=out.logits, loss=out.loss, scalings=adapted.base_model.internal_xlora_scalings)
    for key, p in classifier.named_parameters():
        tensors["grad." + key] = p.grad
    save_file({k: v.detach().clone().contiguous() for k, v in tensors.items()}, os.path.join(path, "expected.safetensors"))
    again = PeftModel.from_pretrained(base_model("llama2"), path)  # finds the adapters where the config says they are
    assert torch.equal(again(input_ids=ids).logits, out.logits)
    with open(os.path.join(path, "adapter_config.json"), "w") as f:
        json.dump(written | dict(adapters={key: key for key in names}), f, indent=2, sort_keys=True)
        f.write("\n")
    for directory, _, files in os.walk(path):
        for file in files:
            os.chmod(os.path.join(directory, file), 0o644)
    print(name, [k for k in state], "loss", round(out.loss.item(), 4))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", default=os.path.join(REFERENCE, "xlora"))
    parser.add_argument("--load")
    parser.add_argument("--base")
    parser.add_argument("--ids")
    parser.add_argument("--logits")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.load:
        adapted = PeftModel.from_pretrained(base_model(args.base), args.load)
        with torch.no_grad():
            save_file({"logits": adapted(input_ids=load_file(args.ids)["input_ids"]).logits.contiguous()}, args.logits)
        return
    shutil.rmtree(args.out, ignore_errors=True)
    for name, options in CASES.items():
        generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
        torch.manual_seed(1)
        make(name, options, os.path.join(args.out, name), generator)


if __name__ == "__main__":
    main()
