#!/usr/bin/env python3
"""The peer side of the LoRA benchmark: transformers + PEFT + torch's AdamW, in their fastest ordinary configuration.

Trains a LoRA adapter on every linear layer with labels = input ids: plain AdamW, constant learning rate, no clipping.
The base is loaded in --dtype; the adapter's weights are f32, PEFT's default, unless --adapter-dtype base.
Linux only: the time to the first step counts from the start of the process, imports included.
"""
import argparse
import json
import os
import resource
import statistics
import sys
import time

WARM_UP = 3  # steps left out of the speed


def seconds_since_process_start():
    with open("/proc/self/stat") as f:
        started = int(f.read().rsplit(")", 1)[1].split()[19]) / os.sysconf("SC_CLK_TCK")
    return time.clock_gettime(time.CLOCK_BOOTTIME) - started


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, help="Hugging Face Llama directory")
    parser.add_argument("--ids", required=True, help="little-endian int32 ids: steps * batch size * sequence length")
    parser.add_argument("--adapter-init", help="PEFT directory with the initial LoRA weights (its rank and alpha win)")
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--alpha", type=float, default=16)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--sequence-length", type=int, default=256)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--dtype", choices=("bf16", "f32"), default="bf16")
    parser.add_argument("--adapter-dtype", choices=("f32", "base"), default="f32", help="base: the same as --dtype")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output instead of lines")
    return parser.parse_args()


def main():
    args = arguments()
    os.environ["OMP_NUM_THREADS"] = str(args.threads)
    os.environ["HF_HUB_OFFLINE"] = "1"
    import numpy
    import peft
    import torch
    import transformers
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()

    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    dtype = {"bf16": torch.bfloat16, "f32": torch.float32}[args.dtype]
    model = transformers.AutoModelForCausalLM.from_pretrained(args.model, dtype=dtype, attn_implementation="sdpa")
    model.config.use_cache = False
    raise_to_f32 = args.adapter_dtype == "f32"
    if args.adapter_init:
        model = peft.PeftModel.from_pretrained(model, args.adapter_init, is_trainable=True, autocast_adapter_dtype=raise_to_f32)
    else:
        config = peft.LoraConfig(task_type="CAUSAL_LM", r=args.rank, lora_alpha=args.alpha, target_modules="all-linear")
        model = peft.get_peft_model(model, config, autocast_adapter_dtype=raise_to_f32)
    model.train()
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=args.learning_rate, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0)

    ids = torch.from_numpy(numpy.fromfile(args.ids, dtype="<i4").astype("int64"))
    needed = args.steps * args.batch_size * args.sequence_length
    if ids.numel() < needed:
        sys.exit(f"{args.ids}: {ids.numel()} ids, expected at least {needed}")
    batches = ids[:needed].view(args.steps, args.batch_size, args.sequence_length)

    losses, seconds, first_step = [], [], None
    step_start = seconds_since_process_start()
    for batch in batches:
        start = time.perf_counter()
        loss = model(input_ids=batch, labels=batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(loss.item())
        seconds.append(time.perf_counter() - start)
        first_step = first_step or seconds_since_process_start()

    timed = seconds[WARM_UP:] or seconds
    report = dict(
        losses=losses, tokens_per_second=args.batch_size * args.sequence_length / statistics.median(timed),
        seconds_per_step=statistics.median(timed), seconds_to_first_step=first_step, seconds_to_step_start=step_start,
        peak_rss_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        trainable_parameters=sum(p.numel() for p in trained), adapter_dtype=str(trained[0].dtype).removeprefix("torch."),
        dtype=args.dtype, batch_size=args.batch_size, sequence_length=args.sequence_length, steps=args.steps,
        threads=torch.get_num_threads(), cpu_capability=torch.backends.cpu.get_cpu_capability(),
        versions=dict(torch=torch.__version__, transformers=transformers.__version__, peft=peft.__version__,
                      python=sys.version.split()[0]))
    if args.json:
        print(json.dumps(report))
    else:
        for key, value in report.items():
            print(f"{key}: {value}")


if __name__ == "__main__":
    main()
