#!/usr/bin/env python3
"""PEFT's prompt encoder with an LSTM of two layers in both directions, as P-tuning trains it: its parameters, what it gives, and the gradients
of sum(what it gives * weights); and what PEFT saves of it, which is what it gives and nothing else.

Writes reference/prompt_encoder.safetensors, f32: the parameters under PEFT's names, weights, prompt_embeddings and grad.<name>.
"""
import os

import peft
import torch
from peft import PromptEncoderConfig, get_peft_model, get_peft_model_state_dict
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

TOKENS = 5


def main():
    here = os.path.dirname(os.path.abspath(__file__))
    reference = os.path.join(here, "..", "reference")
    torch.manual_seed(11)
    torch.set_num_threads(1)
    model = AutoModelForCausalLM.from_pretrained(os.path.join(reference, "models/llama2"), dtype=torch.float32)
    adapted = get_peft_model(model, PromptEncoderConfig(task_type="CAUSAL_LM", num_virtual_tokens=TOKENS, encoder_hidden_size=7,
                                                        encoder_reparameterization_type="LSTM", encoder_num_layers=2, encoder_dropout=0.1))
    adapted.eval()  # no dropout
    encoder = adapted.prompt_encoder["default"]
    given = encoder(torch.arange(TOKENS)[None])[0]
    weights = torch.randn_like(given)
    (given * weights).sum().backward()
    saved = get_peft_model_state_dict(adapted)
    assert list(saved) == ["prompt_embeddings"] and torch.equal(saved["prompt_embeddings"], given.detach())
    tensors = dict(weights=weights, prompt_embeddings=given)
    for name, p in encoder.named_parameters():
        tensors[name] = p
        tensors["grad." + name] = p.grad
    save_file({name: t.detach().clone().contiguous() for name, t in tensors.items()}, os.path.join(reference, "prompt_encoder.safetensors"))
    print(f"peft {peft.__version__}: saved {list(saved)}, {len(tensors)} tensors")


if __name__ == "__main__":
    main()
