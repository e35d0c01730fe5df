#!/usr/bin/env python3
"""What mergekit makes of recipes (YAML): slices of layers, gradients over them, filters, a base that is added, arcee_fusion.

    merge_recipes.py tests/reference/merge_recipes

Writes three tiny Llamas {base,a,b}/, and for each recipe <name>.yml and <name>.safetensors, the merged weights.  Paths in a recipe are relative to
the directory, from which it must be run.
"""
import argparse
import os
import pathlib
import shutil
import tempfile

import torch
import yaml
from mergekit.config import MergeConfiguration
from mergekit.merge import run_merge
from mergekit.options import MergeOptions
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

CONFIG = LlamaConfig(vocab_size=24, hidden_size=16, intermediate_size=20, num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=2,
                     max_position_embeddings=32, tie_word_embeddings=False)
RECIPES = {
    "passthrough": """
slices:
  - sources:
      - model: a
        layer_range: [0, 3]
  - sources:
      - model: b
        layer_range: [1, 4]
        parameters:
          scale:
            - filter: o_proj
              value: 0.5
            - filter: down_proj
              value: [0.25, 1.0]
            - value: 1.0
  - sources:
      - model: base
        layer_range: [3, 4]
merge_method: passthrough
dtype: float32
""",
    "slerp": """
slices:
  - sources:
      - model: a
        layer_range: [0, 4]
      - model: b
        layer_range: [0, 4]
merge_method: slerp
base_model: a
parameters:
  t:
    - filter: self_attn
      value: [0, 0.5, 0.3, 0.7, 1]
    - filter: mlp
      value: [1, 0.5, 0.7, 0.3, 0]
    - value: 0.5
dtype: float32
""",
    "ties": """
models:
  - model: a
    parameters:
      density: [1, 0.7, 0.1]
      weight: 1.0
  - model: b
    parameters:
      density: 0.5
      weight: [0, 0.3, 0.7, 1]
merge_method: ties
base_model: base
parameters:
  normalize: true
  int8_mask: true
dtype: float32
""",
    "linear": """
models:
  - model: a
    parameters:
      weight:
        - filter: mlp
          value: 0.2
        - value: 1.0
  - model: b
    parameters:
      weight: 5e-1
merge_method: linear
parameters:
  normalize: false
dtype: float32
""",
    "breadcrumbs": """
slices:
  - sources:
      - model: base
        layer_range: [1, 3]
      - model: a
        layer_range: [1, 3]
        parameters: {weight: 0.6, density: 0.8, gamma: 0.05}
      - model: b
        layer_range: [2, 4]
        parameters: {weight: 0.4, density: 0.9, gamma: 0.05}
    parameters:
      lambda: 1.5
  - sources:
      - model: base
        layer_range: [0, 1]
      - model: b
        layer_range: [0, 1]
merge_method: breadcrumbs
base_model: base
parameters:
  weight: 0.3
dtype: float32
""",
    "arcee_fusion": """
models:
  - model: base
  - model: a
merge_method: arcee_fusion
base_model: base
dtype: float32
""",
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output", type=pathlib.Path)
    out = parser.parse_args().output
    out.mkdir(parents=True, exist_ok=True)
    os.chdir(out)
    torch.manual_seed(3)
    base = LlamaForCausalLM(CONFIG)
    for p in base.parameters():
        p.data = torch.randn(p.shape)
    state = {k: v.clone() for k, v in base.state_dict().items()}
    for number, name in enumerate(("base", "a", "b")):
        generator = torch.Generator().manual_seed(number)
        base.load_state_dict({k: v + (0.3 * number) * torch.randn(v.shape, generator=generator) for k, v in state.items()})
        base.save_pretrained(name)
        pathlib.Path(name, "generation_config.json").unlink()
    for name, text in RECIPES.items():
        pathlib.Path(name + ".yml").write_text(text.lstrip())
        with tempfile.TemporaryDirectory() as directory:
            run_merge(MergeConfiguration.model_validate(yaml.safe_load(text)), directory, MergeOptions(copy_tokenizer=False, quiet=True, write_model_card=False))
            merged = {}
            for file in pathlib.Path(directory).glob("*.safetensors"):
                merged |= load_file(file)
            save_file(merged, name + ".safetensors")


main()
