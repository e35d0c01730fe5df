#!/usr/bin/env python3
"""The peer side of bench/compare_classifiers.py: transformers, PEFT and torch's fused AdamW on the steps that bench/classifier.c takes.

--setting says how: `plain`; `channels-last` memory of images and weights; of bf16 also autocast over f32 weights (`autocast`) or frozen weights in
bf16 under an f32 adapter (`half`); `compile` for torch.compile.  Several are joined by `+`.
"""
import argparse
import json
import os
import resource
import statistics
import time

WARM_UP = 2  # steps left out of the speed


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True)
    parser.add_argument("--inputs", required=True)
    parser.add_argument("--train", choices=("whole", "adapter", "norms", "nothing"), default="whole")
    parser.add_argument("--adapter")
    parser.add_argument("--dtype", choices=("f32", "bf16"), default="f32")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--learning-rate", type=float, default=1e-4)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--processor-time", choices=("true", "false"), default="false")
    parser.add_argument("--setting", default="plain")
    return parser.parse_args()


def norms_of(model):
    import torch
    return [m for m in model.modules() if isinstance(m, (torch.nn.BatchNorm2d, torch.nn.LayerNorm))]


def prepare(args, setting):
    """The model and what is trained.  Batch norms go by the batch's statistics, and follow, only where everything is trained (as ours do)."""
    import peft
    import torch
    import transformers
    half = torch.bfloat16 if "half" in setting else torch.float32
    kind = getattr(transformers, json.load(open(os.path.join(args.model, "config.json")))["architectures"][0])
    options = {"attn_implementation": "sdpa"} if "ResNet" not in kind.__name__ else {}
    model = kind.from_pretrained(args.model, dtype=half, **options)
    if args.train == "adapter":
        model = peft.PeftModel.from_pretrained(model, args.adapter, is_trainable=True)
    if "channels-last" in setting:
        model = model.to(memory_format=torch.channels_last)
    model.train(args.train != "nothing")
    if args.train == "nothing":
        model.requires_grad_(False)
    if args.train == "adapter":
        for norm in norms_of(model):
            norm.eval()
    if args.train == "norms":
        model.requires_grad_(False)
        for norm in norms_of(model):
            norm.requires_grad_(True)
            norm.track_running_stats, norm.running_mean, norm.running_var = False, None, None
    for module in model.modules():  # the base's own dropout is not applied on either side
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        if hasattr(module, "attention_dropout") and isinstance(module.attention_dropout, float):
            module.attention_dropout = 0.0
    return model, [p for p in model.parameters() if p.requires_grad]


def batches_of(args, model, setting):
    import numpy
    import torch
    if model.config.model_type == "bert":
        return torch.from_numpy(numpy.fromfile(args.inputs, dtype="<i4").astype("int64")).view(-1, args.batch_size, args.size), "input_ids"
    pixels = torch.from_numpy(numpy.fromfile(args.inputs, dtype="<f4")).view(-1, args.batch_size, 3, args.size, args.size)
    if "half" in setting:
        pixels = pixels.to(torch.bfloat16)
    last = torch.channels_last if "channels-last" in setting else torch.contiguous_format
    return [batch.contiguous(memory_format=last) for batch in pixels], "pixel_values"


def main():
    args = arguments()
    os.environ["OMP_NUM_THREADS"] = str(args.threads)
    os.environ["HF_HUB_OFFLINE"] = "1"
    import peft
    import torch
    import transformers
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    setting = args.setting.split("+")
    model, trained = prepare(args, setting)
    batches, name = batches_of(args, model, setting)
    labels = torch.arange(len(batches) * args.batch_size).view(len(batches), -1) % model.config.num_labels
    optimizer = torch.optim.AdamW(trained, lr=args.learning_rate, weight_decay=0.0, fused=True) if trained else None
    forward = torch.compile(model) if "compile" in setting else model
    now = time.process_time if args.processor_time == "true" else time.perf_counter

    def loss_of(batch, wanted):
        with torch.autocast("cpu", torch.bfloat16, enabled="autocast" in setting):
            logits = forward(**{name: batch}).logits
        logits = logits.float()
        if args.train == "norms":
            return -(logits.softmax(1) * logits.log_softmax(1)).sum(1).mean()
        return torch.nn.functional.cross_entropy(logits, wanted)

    losses, seconds = [], []
    torch.set_grad_enabled(args.train != "nothing")
    for i in range(args.steps):
        start = now()
        loss = loss_of(batches[i % len(batches)], labels[i % len(batches)])
        if optimizer:
            loss.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        losses.append(loss.item())
        seconds.append(now() - start)
    timed = seconds[WARM_UP:] if args.steps > 3 else seconds
    print(json.dumps(dict(
        losses=losses, seconds_per_step=statistics.median(timed), examples_per_second=args.batch_size / statistics.median(timed),
        peak_rss_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, trainable_parameters=sum(p.numel() for p in trained),
        versions=dict(torch=torch.__version__, transformers=transformers.__version__, peft=peft.__version__))))


if __name__ == "__main__":
    main()
