#!/usr/bin/env python3
"""Inputs of the LoRA benchmark: a random-weights Llama, Zipf-distributed token ids, a fresh LoRA adapter.

Writes OUT/model (Hugging Face directory, bf16), OUT/adapter (PEFT directory, rank 8 on every linear layer, f32) and
OUT/ids.bin (little-endian int32, batches * batch size * sequence length ids).
"""
import argparse
import os

import numpy
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, LlamaConfig

SHAPES = {
    "15m": dict(hidden_size=288, num_hidden_layers=6, num_attention_heads=6, intermediate_size=768),
    "125m": dict(hidden_size=768, num_hidden_layers=12, num_attention_heads=12, intermediate_size=2048),
    "1b": dict(hidden_size=2048, num_hidden_layers=22, num_attention_heads=32, num_key_value_heads=4, intermediate_size=5632,
               tie_word_embeddings=False),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out")
    parser.add_argument("--shape", choices=SHAPES, default="15m")
    parser.add_argument("--ids", type=int, default=64 * 4 * 256, help="number of token ids (default: 64 steps of 4 x 256)")
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--alpha", type=float, default=16)
    parser.add_argument("--use-dora", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    torch.manual_seed(args.seed)
    config = LlamaConfig(vocab_size=32000, max_position_embeddings=2048, **{"tie_word_embeddings": True, **SHAPES[args.shape]})
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(os.path.join(args.out, "model"))

    model = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", r=args.rank, lora_alpha=args.alpha,
                                             target_modules="all-linear", use_dora=args.use_dora))
    model.peft_config["default"].base_model_name_or_path = "model"
    model.save_pretrained(os.path.join(args.out, "adapter"))

    draws = numpy.random.default_rng(args.seed).zipf(1.3, args.ids)  # as skewed as words, so that the loss can fall
    ids = (draws - 1) % (config.vocab_size - 3) + 3
    ids.astype("<i4").tofile(os.path.join(args.out, "ids.bin"))
    print(args.out, sum(p.numel() for p in model.parameters()), "parameters,",
          sum(p.numel() for p in model.parameters() if p.requires_grad), "trainable,", args.ids, "ids")


if __name__ == "__main__":
    main()
