#!/usr/bin/env python3
"""Quantised arrays made without Cambium: the bytes that our quantisers must give and the numbers that our readers must read.

Writes <out>/blocks.safetensors (default out: ../reference/quantized):
    x                               (4, 512) f32: groups of normal numbers of many magnitudes, zeros, constants, outliers
    TYPE.bytes, TYPE.values         GGUF's q8_0 q5_0 q5_1 q4_0 q4_1 (the gguf package), q6_k q5_k q4_k q3_k q2_k iq4_nl iq4_xs (ggml) of x;
                                    values: what the package reads
    random.TYPE.bytes, .values      bytes at random, all codes and scales (f16 scales finite)
    nf4.codes .absmax .values       bitsandbytes, blocks of 64
    nested.scales .codes .absmax .offset .values .levels
                                    its double quantisation of 700 scales
    int8.codes .scb .values         its LLM.int8 rows

The types that the gguf package cannot make come from ggml's quantisers: --ggml names its libggml-base.so.
"""
import argparse
import ctypes
import os

import bitsandbytes.functional as bnb
import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType as T
from safetensors.numpy import save_file

PACKAGE = {"q8_0": T.Q8_0, "q5_0": T.Q5_0, "q4_0": T.Q4_0, "q5_1": T.Q5_1, "q4_1": T.Q4_1}
GGML = {"q6_k": T.Q6_K, "q5_k": T.Q5_K, "q4_k": T.Q4_K, "q3_k": T.Q3_K, "q2_k": T.Q2_K, "iq4_nl": T.IQ4_NL, "iq4_xs": T.IQ4_XS}
SCALES = {"q6_k": [208], "q5_k": [0, 2], "q4_k": [0, 2], "q3_k": [108], "q2_k": [80, 82], "q5_1": [0, 2], "q4_1": [0, 2]}  # f16, else [0]


def numbers(generator):
    x = generator.standard_normal((4, 512)).astype(np.float32)
    x[0, :256] *= np.repeat(2.0 ** np.arange(-12, 4), 16).astype(np.float32)
    x[1, 64:128] = 0
    x[1, 128:160] = 0.25
    x[1, 160:192] = np.abs(x[1, 160:192])
    x[1, 256:] = 0
    x[2, ::37] *= 20
    x[2, 256:288] = -np.abs(x[2, 256:288])
    x[3] *= 0.02
    return x


def with_ggml(path, name, x):
    """What llama.cpp's quantiser makes without an importance matrix."""
    library, kind = ctypes.CDLL(path, mode=os.RTLD_LAZY), GGML[name]
    library.ggml_quantize_chunk.restype = ctypes.c_size_t
    block, size = gguf.GGML_QUANT_SIZES[kind]
    out = np.zeros(x.size // block * size, np.uint8)
    written = library.ggml_quantize_chunk(int(kind), x.ctypes.data_as(ctypes.c_void_p), out.ctypes.data_as(ctypes.c_void_p),
                                          ctypes.c_int64(0), ctypes.c_int64(x.shape[0]), ctypes.c_int64(x.shape[1]), None)
    assert written == out.size
    return out


def nearest_codes(x, state):
    """The nearest level, as bitsandbytes' GPU and portable backends take it; its CPU backend rounds x to a grid of 65536 steps first."""
    scaled = x.clone()
    for i, absmax in enumerate(state.absmax):
        scaled[256 * i:256 * (i + 1)] *= 1.0 / absmax
    return torch.bucketize(scaled.clamp(-1, 1), (state.code[:-1] + state.code[1:]) / 2).to(torch.uint8)


def random_blocks(generator, name, kind):
    block, size = gguf.GGML_QUANT_SIZES[kind]
    raw = generator.integers(0, 256, (512 // block * 2, size), dtype=np.uint8)
    for at in SCALES.get(name, [0]):
        raw[:, at:at + 2] = generator.standard_normal(len(raw)).astype(np.float16).view(np.uint8).reshape(-1, 2)
    return raw.reshape(-1)


def main():
    here = os.path.dirname(os.path.abspath(__file__))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", default=os.path.join(here, "..", "reference", "quantized"))
    parser.add_argument("--ggml", required=True, help="shared library with ggml-quants.c")
    args = parser.parse_args()
    generator = np.random.default_rng(7)
    x = numbers(generator)
    tensors = {"x": x}
    first, later = ["q8_0", "q5_0", "q4_0", "q6_k", "q5_k", "q4_k"], np.random.default_rng(8)
    for name in first + [n for n in {**PACKAGE, **GGML} if n not in first]:
        kind = {**PACKAGE, **GGML}[name]
        packed = gguf.quants.quantize(x, kind).reshape(-1) if name in PACKAGE else with_ggml(args.ggml, name, x)
        tensors[name + ".bytes"] = packed
        tensors[name + ".values"] = gguf.quants.dequantize(packed.reshape(4, -1), kind)
        raw = random_blocks(generator if name in first else later, name, kind)
        tensors["random." + name + ".bytes"] = raw
        tensors["random." + name + ".values"] = gguf.quants.dequantize(raw.reshape(2, -1), kind)
    w = torch.from_numpy(x)
    codes, state = bnb.quantize_4bit(w, blocksize=64, quant_type="nf4")
    tensors["nf4.codes"] = codes.numpy().reshape(-1)
    tensors["nf4.absmax"] = state.absmax.numpy()
    tensors["nf4.values"] = bnb.dequantize_4bit(codes, state).numpy()
    scales = torch.from_numpy((np.abs(generator.standard_normal(700)) * 0.02 + 0.05).astype(np.float32))
    offset = scales.mean()
    _, state2 = bnb.quantize_blockwise(scales - offset, blocksize=256)
    nested = nearest_codes(scales - offset, state2)
    tensors["nested.scales"] = scales.numpy()
    tensors["nested.codes"] = nested.numpy()
    tensors["nested.absmax"] = state2.absmax.numpy()
    tensors["nested.offset"] = offset.reshape(1).numpy()
    tensors["nested.levels"] = state2.code.numpy()
    tensors["nested.values"] = (bnb.dequantize_blockwise(nested, state2) + offset).numpy()
    rows, scb, _ = bnb.int8_vectorwise_quant(w.half())
    tensors["int8.codes"] = rows.numpy().view(np.uint8)
    tensors["int8.scb"] = scb.numpy()
    tensors["int8.values"] = torch.ops.bitsandbytes.int8_vectorwise_dequant(rows, scb).numpy()
    os.makedirs(args.out, exist_ok=True)
    save_file({k: np.ascontiguousarray(v) for k, v in tensors.items()}, os.path.join(args.out, "blocks.safetensors"), {"format": "pt"})


if __name__ == "__main__":
    main()
