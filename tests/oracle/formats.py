#!/usr/bin/env python3
"""Small files in the formats that Cambium reads and writes, made without it.

Writes into <out> (default: ../reference/formats):
    types.safetensors         every element type that torch has, empty and 0-d tensors, names that JSON must escape; by the safetensors package
    llama2c.bin, llama2c_tokenizer.bin
                              a random llama2.c model (version 0, head of its own) and tokenizer, as export.py and tokenizer.py write them
    llama2c.safetensors       its tensors under Hugging Face's names, q and k permuted as transformers' convert_llama_weights_to_hf.py does
    llama2c_tied.bin          the same model with a shared head
    llama2c.expected.json     [{"text", "ids"}]: what the encode() of llama2.c's run.c makes of texts
"""
import argparse
import json
import os
import struct

import numpy as np
import torch
from safetensors.numpy import save_file as save_arrays
from safetensors.torch import save_file as save_tensors

TYPES = ("bool uint8 int8 float8_e5m2 float8_e4m3fn float8_e8m0fnu float8_e4m3fnuz float8_e5m2fnuz float4_e2m1fn_x2 int16 uint16 float16 "
         "bfloat16 int32 uint32 float32 complex64 float64 int64 uint64").split()


def every_type(path):
    generator = torch.Generator().manual_seed(1)
    tensors = {"scalar": torch.tensor(-2.5), "empty": torch.zeros(3, 0, 2), 'quote" back\\slash \b\f\n\r\t \x01 \x7f é 漢 😀': torch.arange(3)}
    for name in TYPES:
        raw = torch.randint(0, 256, (2, 16), dtype=torch.uint8, generator=generator)
        tensors["type." + name] = raw % 2 == 1 if name == "bool" else raw.view(getattr(torch, name))
    save_tensors(tensors, path, metadata={"format": "pt"})


# ---- llama2.c ----------------------------------------------------------------------------------------------------------

DIM, HIDDEN, LAYERS, HEADS, KV_HEADS, POSITIONS = 8, 12, 2, 2, 1, 16
PIECES = ["▁t", "▁th", "▁the", "he", "▁a", "an", "▁an", "and", "▁and", "in", "ing", "▁ ", "aa", "▁", "a", "d", "e", "g", "h", "i", "n", "t",
          "é", "."]
VOCAB = 3 + 256 + len(PIECES)


def weights(generator):
    kv = DIM // HEADS * KV_HEADS
    shapes = {"tok_embeddings": (VOCAB, DIM), "attention_norm": (LAYERS, DIM), "wq": (LAYERS, DIM, DIM), "wk": (LAYERS, kv, DIM),
              "wv": (LAYERS, kv, DIM), "wo": (LAYERS, DIM, DIM), "ffn_norm": (LAYERS, DIM), "w1": (LAYERS, HIDDEN, DIM),
              "w2": (LAYERS, DIM, HIDDEN), "w3": (LAYERS, HIDDEN, DIM), "norm": (DIM,), "freqs_cos": (POSITIONS, DIM // HEADS // 2),
              "freqs_sin": (POSITIONS, DIM // HEADS // 2), "output": (VOCAB, DIM)}
    return {name: generator.standard_normal(shape).astype("<f4") for name, shape in shapes.items()}


def write_model(path, arrays, shared):
    with open(path, "wb") as f:
        f.write(struct.pack("<7i", DIM, HIDDEN, LAYERS, HEADS, KV_HEADS, VOCAB if shared else -VOCAB, POSITIONS))
        for name, array in arrays.items():
            if name != "output" or not shared:
                f.write(array.tobytes())


def permute(w, heads):
    rows, columns = w.shape
    return w.reshape(heads, rows // heads // 2, 2, columns).swapaxes(1, 2).reshape(rows, columns)


def hugging_face(arrays):
    out = {"model.embed_tokens.weight": arrays["tok_embeddings"], "model.norm.weight": arrays["norm"], "lm_head.weight": arrays["output"]}
    for i in range(LAYERS):
        layer = {"input_layernorm": arrays["attention_norm"][i], "self_attn.q_proj": permute(arrays["wq"][i], HEADS),
                 "self_attn.k_proj": permute(arrays["wk"][i], KV_HEADS), "self_attn.v_proj": arrays["wv"][i],
                 "self_attn.o_proj": arrays["wo"][i], "post_attention_layernorm": arrays["ffn_norm"][i], "mlp.gate_proj": arrays["w1"][i],
                 "mlp.down_proj": arrays["w2"][i], "mlp.up_proj": arrays["w3"][i]}
        out |= {f"model.layers.{i}.{name}.weight": np.ascontiguousarray(w) for name, w in layer.items()}
    return out


def tokens():
    """(bytes, score) in the order of the ids, as tokenizer.py exports them; scores fall with the ids, as SentencePiece trains them."""
    yield b"<unk>", 0.0
    yield b"\n<s>\n", 0.0
    yield b"\n</s>\n", 0.0
    for byte in range(256):
        yield f"<0x{byte:02X}>".encode(), 0.0
    for i, piece in enumerate(PIECES):
        yield piece.replace("▁", " ").encode(), -float(i)


def write_tokenizer(path):
    with open(path, "wb") as f:
        f.write(struct.pack("<I", max(len(text) for text, _ in tokens())))
        for text, score in tokens():
            f.write(struct.pack("<fi", score, len(text)) + text)


def encode(text):
    """run.c: encode(): a blank in front, characters or their bytes, then the best-scored pair joined until there is none."""
    texts, scores = zip(*tokens())
    lookup = {t: i for i, t in enumerate(texts)}
    ids = [1] + ([lookup[b" "]] if text else [])
    for character in text:
        utf8 = character.encode()
        ids += [lookup[utf8]] if utf8 in lookup else [byte + 3 for byte in utf8]
    while True:
        pairs = [(scores[lookup[texts[a] + texts[b]]], -i, lookup[texts[a] + texts[b]])
                 for i, (a, b) in enumerate(zip(ids, ids[1:])) if texts[a] + texts[b] in lookup]
        if not pairs:
            return ids
        _, at, joined = max(pairs)
        ids[-at:-at + 2] = [joined]


TEXTS = ["", " ", "the", "the the and in", "thing and an anthem", "aaa aaaa", "  two  blanks ", "élan 漢\n😀.", "Zebra"]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", default=os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "reference", "formats"))
    out = parser.parse_args().out
    os.makedirs(out, exist_ok=True)
    torch.set_num_threads(1)
    every_type(os.path.join(out, "types.safetensors"))
    arrays = weights(np.random.default_rng(2))
    write_model(os.path.join(out, "llama2c.bin"), arrays, shared=False)
    write_model(os.path.join(out, "llama2c_tied.bin"), arrays, shared=True)
    save_arrays(hugging_face(arrays), os.path.join(out, "llama2c.safetensors"), metadata={"format": "pt"})
    write_tokenizer(os.path.join(out, "llama2c_tokenizer.bin"))
    with open(os.path.join(out, "llama2c.expected.json"), "w", encoding="utf-8") as f:
        json.dump([{"text": t, "ids": encode(t)} for t in TEXTS], f, ensure_ascii=False, indent=1)
        f.write("\n")


if __name__ == "__main__":
    main()
