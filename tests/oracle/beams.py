#!/usr/bin/env python3
"""What transformers' beam search makes of the tiny random models that other scripts here have written.

Writes <out>/beams.json: for each case the model's directory below tests/reference, the prompt, the options, the tokens that end a text, and the new tokens; a decoder's without the
prompt, an encoder-decoder's without the token that it begins with.
"""
import argparse
import json
import os

import torch
import transformers

HERE = os.path.dirname(os.path.abspath(__file__))
REFERENCE = os.path.join(HERE, "..", "reference")
MODELS = ["seq2seq/t5", "seq2seq/mt5", "models/llama2", "models/gpt2", "models/qwen2"]
OPTIONS = [
    dict(num_beams=2, max_new_tokens=8),
    dict(num_beams=4, max_new_tokens=12),
    dict(num_beams=3, max_new_tokens=20, length_penalty=2.0),
    dict(num_beams=3, max_new_tokens=20, length_penalty=-1.0),
    dict(num_beams=4, max_new_tokens=20, early_stopping=True),
    dict(num_beams=4, max_new_tokens=10, repetition_penalty=1.3),
]
PROMPTS = [[5, 9, 2, 17, 4], [3, 11, 8]]
ENDS = [[1, 2], [7, 12, 20]]


def new_tokens(model, prompt, options, eos):
    with torch.no_grad():
        out = model.generate(torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt), dtype=torch.long), do_sample=False, eos_token_id=eos,
                             pad_token_id=0, **options)[0].tolist()
    return out[1:] if model.config.is_encoder_decoder else out[len(prompt):]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", default=REFERENCE)
    args = parser.parse_args()
    torch.set_num_threads(1)
    cases = []
    for name in MODELS:
        path = os.path.join(REFERENCE, name)
        seq2seq = name.startswith("seq2seq")
        kind = transformers.AutoModelForSeq2SeqLM if seq2seq else transformers.AutoModelForCausalLM
        model = kind.from_pretrained(path, dtype=torch.float32).eval()
        model.generation_config = transformers.GenerationConfig(decoder_start_token_id=model.config.decoder_start_token_id if seq2seq else None)
        for options in OPTIONS:
            for prompt in PROMPTS:
                for eos in ENDS:
                    cases.append(dict(model=name, prompt=prompt, options=options, eos=eos, ids=new_tokens(model, prompt, options, eos)))
        own = [c for c in cases if c["model"] == name]
        print(json.dumps(dict(model=name, ended=sum(c["ids"][-1] in c["eos"] for c in own), lengths=[len(c["ids"]) for c in own])))
    with open(os.path.join(args.out, "beams.json"), "w") as f:
        f.write("[" + ",\n ".join(json.dumps(c) for c in cases) + "]\n")


if __name__ == "__main__":
    main()
