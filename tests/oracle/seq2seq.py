#!/usr/bin/env python3
"""Tiny random models with an encoder and a decoder, and what transformers computes with them.

Writes <out>/<name>/{config.json, model.safetensors, expected.safetensors}.  expected.safetensors holds
    input_ids, attention_mask         i64 (3, 11): sources; the second and third row are padded on the right
    hidden                            f32 (3, 11, C): the encoder's states; at masked positions they mean nothing
    labels                            i64 (3, 9), with -100 where a row is padded; the decoder reads them shifted to the right
    decoder_input_ids                 i64 (3, 9): so shifted
    logits, loss                      f32
    grad.<parameter>                  f32, gradient of `loss`, of every parameter
    greedy                            i64 (3, n): what generate() gives, padded behind the end of a text
    adapted                           f32, logits with the LoRA of PEFT in <name>/adapter, of those in ADAPTERS
Of T5EncoderModel there are the first three only.
"""
import argparse
import json
import os
import shutil

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import save_file
from transformers import (AutoModelForSeq2SeqLM, MT5Config, MT5ForConditionalGeneration, T5Config, T5EncoderModel,
                          T5ForConditionalGeneration, UMT5Config, UMT5ForConditionalGeneration)

ROWS, SOURCE, TARGET, WORDS, NEW = 3, 11, 9, 30, 12

# both kinds of distances occur: exact ones and such that share a bucket
SMALL = dict(vocab_size=WORDS, d_model=16, d_kv=6, d_ff=20, num_layers=2, num_heads=2, relative_attention_num_buckets=8,
             relative_attention_max_distance=8, dropout_rate=0.0, decoder_start_token_id=0, pad_token_id=0, eos_token_id=1)

# name: (class, config, whether the head has weights of its own)
MODELS = {
    "t5": (T5ForConditionalGeneration, T5Config(**SMALL), False),
    "t5_v1_1": (T5ForConditionalGeneration, T5Config(**{**SMALL, "num_layers": 1}, num_decoder_layers=2, feed_forward_proj="gated-gelu",
                                                     tie_word_embeddings=False), True),
    "mt5": (MT5ForConditionalGeneration, MT5Config(**{**SMALL, "decoder_start_token_id": 2}), True),
    "umt5": (UMT5ForConditionalGeneration, UMT5Config(**SMALL), False),
    "t5_encoder": (T5EncoderModel, T5Config(**SMALL), False),
}

ADAPTERS = {
    "t5": dict(),  # PEFT's own choice: q and v
    "t5_v1_1": dict(target_modules="all-linear"),
    "umt5": dict(target_modules=["k", "o", "wi_0", "embed_tokens", "relative_attention_bias"]),
}


def randomise(model, generator):
    """Norm weights 1 + noise, everything else std 0.3."""
    for _, p in model.named_parameters():
        noise = torch.randn(p.shape, generator=generator)
        p.data = 1 + 0.2 * noise if p.dim() == 1 else 0.3 * noise


def make(kind, config, own_head, generator):
    model = kind(config)
    randomise(model, generator)
    if own_head:  # transformers 5 makes it tied, but keeps what a checkpoint has
        model.lm_head.weight = torch.nn.Parameter(0.3 * torch.randn((WORDS, config.d_model), generator=generator))
        model.config.tie_word_embeddings = False
    return model


def inputs_of(generator):
    ids = torch.randint(3, WORDS, (ROWS, SOURCE), generator=generator)
    mask = torch.ones_like(ids)
    mask[1, -4:] = 0
    mask[2, -1:] = 0
    ids[mask == 0] = 0
    return dict(input_ids=ids, attention_mask=mask)


def labels_of(generator):
    labels = torch.randint(3, WORDS, (ROWS, TARGET), generator=generator)
    labels[0, -3:] = -100
    labels[2, -1] = 1
    return labels


def greedy(model, inputs):
    out = model.generate(**inputs, do_sample=False, num_beams=1, max_new_tokens=NEW, output_scores=True,
                         return_dict_in_generate=True, use_cache=False)  # its caches want as many layers in both stacks
    for scores in out.scores:
        best = scores.topk(2, -1).values
        assert (best[:, 0] - best[:, 1]).min() > 5e-4, "greedy text too close to a tie: change the seed"
    return out.sequences[:, 1:]


def expected(kind, model, generator):
    inputs = inputs_of(generator)
    with torch.no_grad():
        tensors = dict(inputs, hidden=model.encoder(**inputs).last_hidden_state)
    if kind is T5EncoderModel:
        return tensors
    labels = labels_of(generator)
    out = model(**inputs, labels=labels)
    out.loss.backward()
    tensors.update(labels=labels, decoder_input_ids=model._shift_right(labels), logits=out.logits.detach(), loss=out.loss.detach(),
                   greedy=greedy(model.eval(), inputs))
    for name, p in model.named_parameters():
        if p.grad is not None:
            tensors["grad." + name] = p.grad
    return tensors


def adapted(path, options, tensors, generator):
    """Makes an adapter that changes something, and gives the logits with what was written."""
    model = get_peft_model(AutoModelForSeq2SeqLM.from_pretrained(path), LoraConfig(task_type="SEQ_2_SEQ_LM", r=2, lora_alpha=3, **options))
    for name, p in sorted(model.named_parameters()):
        if p.requires_grad:
            p.data += 0.3 * torch.randn(p.shape, generator=generator)
    target = os.path.join(path, "adapter")
    model.save_pretrained(target, save_embedding_layers=False)
    config = os.path.join(target, "adapter_config.json")
    with open(config) as f:
        values = json.load(f)
    values["base_model_name_or_path"] = os.path.basename(path)
    with open(config, "w") as f:
        json.dump(values, f, indent=2, sort_keys=True)
        f.write("\n")
    os.remove(os.path.join(target, "README.md"))
    model = PeftModel.from_pretrained(AutoModelForSeq2SeqLM.from_pretrained(path), target)
    with torch.no_grad():
        return model(**{k: tensors[k] for k in ("input_ids", "attention_mask", "labels")}).logits


def main():
    here = os.path.dirname(os.path.abspath(__file__))
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", default=os.path.join(here, "..", "reference", "seq2seq"))
    parser.add_argument("--only", nargs="*", help="names to make (default: all)")
    args = parser.parse_args()
    torch.set_num_threads(1)
    for index, (name, (kind, config, own_head)) in enumerate(MODELS.items()):
        if args.only and name not in args.only:
            continue
        path = os.path.join(args.out, name)
        shutil.rmtree(path, ignore_errors=True)
        generator = torch.Generator().manual_seed(3000 + index)
        make(kind, config, own_head, generator).save_pretrained(path)
        model = kind.from_pretrained(path, attn_implementation="eager").train()
        if kind is not T5EncoderModel:
            assert own_head != torch.equal(model.lm_head.weight, model.shared.weight)
        tensors = expected(kind, model, generator)
        if name in ADAPTERS:
            tensors["adapted"] = adapted(path, ADAPTERS[name], tensors, generator)
        save_file({k: v.clone().contiguous() for k, v in tensors.items()}, os.path.join(path, "expected.safetensors"))
        extra = os.path.join(path, "generation_config.json")
        if os.path.exists(extra):
            os.remove(extra)
        files = [os.path.join(folder, file) for folder, _, names in os.walk(path) for file in names]
        for file in files:
            os.chmod(file, 0o644)
        size = sum(os.path.getsize(file) for file in files)
        print(json.dumps(dict(model=name, bytes=size, loss=round(tensors["loss"].item(), 4) if "loss" in tensors else None)))


if __name__ == "__main__":
    main()
