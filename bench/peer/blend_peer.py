#!/usr/bin/env python3
"""The peer of bench/blend.c: PEFT's mixed batch (`adapter_names`) beside its base alone, and what loading one adapter more takes.

ADAPTERS holds the directories 0, 1, ... that `blend --save` wrote. A pass is the prompt: hidden states of every token, logits of the last.
"""
import argparse
import json
import os
import statistics
import time

os.environ["HF_HUB_OFFLINE"] = "1"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True)
    parser.add_argument("--ids", required=True)
    parser.add_argument("--adapters", required=True)
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--dtype", choices=("bf16", "f32"), default="bf16")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    import numpy
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(args.threads)
    names = sorted(os.listdir(args.adapters), key=int)
    dtype = torch.bfloat16 if args.dtype == "bf16" else torch.float32
    model = AutoModelForCausalLM.from_pretrained(args.model, dtype=dtype)
    loads = []
    for i, name in enumerate(names):
        start = time.perf_counter()
        path = os.path.join(args.adapters, name)
        model = PeftModel.from_pretrained(model, path, adapter_name=name) if i == 0 else model
        if i:
            model.load_adapter(path, adapter_name=name)
        loads.append(time.perf_counter() - start)
    model.eval()
    ids = torch.from_numpy(numpy.fromfile(args.ids, dtype=numpy.int32)[: args.rows * args.tokens].reshape(args.rows, -1).astype(numpy.int64))

    def seconds(rows):
        start = time.perf_counter()
        with torch.inference_mode():
            model(input_ids=ids, adapter_names=rows, logits_to_keep=1, use_cache=True)
        return time.perf_counter() - start

    base_rows, mixed_rows = ["__base__"] * args.rows, [names[i % len(names)] for i in range(args.rows)]
    seconds(base_rows)
    base, mixed = zip(*((seconds(base_rows), seconds(mixed_rows)) for _ in range(args.rounds)))
    print(json.dumps({"adapters": len(names), "rows": args.rows, "tokens": args.tokens, "dtype": args.dtype,
                      "base_seconds": statistics.median(base), "blend_seconds": statistics.median(mixed),
                      "ratio": statistics.median(m / b for b, m in zip(base, mixed)), "load_seconds_second": loads[1],
                      "load_seconds_last": loads[-1]}))


if __name__ == "__main__":
    main()
