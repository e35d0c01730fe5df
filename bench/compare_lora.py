#!/usr/bin/env python3
"""Cambium and PyTorch + PEFT on the same LoRA job, in turn, and the ratios.

    python3 bench/compare_lora.py --peer-python VENV/bin/python --program build/bench/lora [--shape 15m 125m 1b] [--dtype bf16 bf16:f32 f32]

Both sides read the same weights, initial adapter and token ids (made by bench/peer/make_model.py).  Runs alternate, peer then us,
--rounds times; figures are medians over rounds and ratios are taken within a round, so a drifting machine cancels out.
bf16:f32 is our bf16 beside the peer's f32, its fastest where the processor has no products of bf16.
"""
import argparse
import json
import os
import pathlib
import statistics
import subprocess
import tempfile

HERE = pathlib.Path(__file__).resolve().parent


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peer-python", required=True, help="a Python with torch, transformers and peft")
    parser.add_argument("--program", required=True, help="the built bench/lora program")
    parser.add_argument("--shape", nargs="+", default=["15m", "125m"])
    parser.add_argument("--dtype", nargs="+", default=["bf16", "f32"], help="ours, or ours:peer's")
    parser.add_argument("--adapter-dtype", default="f32", help="f32: PEFT's default; base: PEFT's fastest")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--sequence-length", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--use-dora", action="store_true", help="DoRA instead of plain LoRA")
    parser.add_argument("--work", help="directory for the models (default: temporary)")
    return parser.parse_args()


def run(command):
    environment = dict(os.environ, HF_HUB_OFFLINE="1")
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout.splitlines()[-1])


def main():
    args = arguments()
    work = pathlib.Path(args.work or tempfile.mkdtemp())
    method = "DoRA" if args.use_dora else "LoRA"
    print(f"Cambium and PyTorch + PEFT side by side: {method} rank 8 on every linear layer, batch {args.batch_size} x {args.sequence_length}, plain AdamW.")
    print(f"Medians of {args.rounds} rounds of {args.steps} steps, {args.threads} threads; ratios within a round. Start: from the process's start to the "
          "beginning of the first step, and to its end.\n")
    print("| shape | dtype | tokens/s: us | peer | ratio | peak MB: us | peer | share | start s: us | peer | share | first step done s: us | peer | share "
          "| necessary GF/s | of the product rate | allocations a step | largest loss difference |")
    print("|" + "---|" * 18)
    for shape in args.shape:
        base = work / (shape + ("-dora" if args.use_dora else ""))
        if not (base / "ids.bin").exists():
            subprocess.run([args.peer_python, HERE / "peer/make_model.py", base, "--shape", shape, "--ids",
                            str(args.steps * args.batch_size * args.sequence_length), *(["--use-dora"] if args.use_dora else [])],
                           check=True, capture_output=True)
        for dtype in args.dtype:
            ours, theirs = dtype.split(":") if ":" in dtype else (dtype, dtype)
            pairs = []
            for _ in range(args.rounds):
                common = ["--model", base / "model", "--ids", base / "ids.bin", "--steps", str(args.steps), "--threads", str(args.threads),
                          "--batch-size", str(args.batch_size), "--sequence-length", str(args.sequence_length)]
                peer = run([args.peer_python, HERE / "peer/lora_peer.py", *common, "--dtype", theirs, "--adapter-init", base / "adapter", "--json",
                            "--adapter-dtype", args.adapter_dtype])
                us = run([args.program, *common, "--dtype", ours, "--adapter", base / "adapter"])
                pairs.append((us, peer))

            def middle(f):
                return statistics.median(f(us, peer) for us, peer in pairs)

            def both(key, scale=1.0):
                return middle(lambda u, p: u[key] * scale), middle(lambda u, p: p[key] * scale), middle(lambda u, p: u[key] / p[key])

            speed, memory = both("tokens_per_second"), both("peak_rss_bytes", 1e-6)
            start, first = both("seconds_to_step_start"), both("seconds_to_first_step")
            worst = max(abs(a - b) for us, peer in pairs for a, b in zip(us["losses"], peer["losses"]))
            us = pairs[-1][0]
            rate = speed[0] * us["flops_per_token"] * 1e-9
            product = gemm_rate(args, ours)
            print(f"| {shape} | {dtype} | {speed[0]:.0f} | {speed[1]:.0f} | {speed[2]:.2f}x | {memory[0]:.0f} | {memory[1]:.0f} | 1/{1 / memory[2]:.1f} "
                  f"| {start[0]:.3f} | {start[1]:.2f} | 1/{1 / start[2]:.0f} | {first[0]:.2f} | {first[1]:.2f} | 1/{1 / first[2]:.1f} "
                  f"| {rate:.0f} | {100 * rate / product:.0f} % | {us['allocations_after_warm_up']} | {worst:.4f} |", flush=True)
    versions = pairs[-1][1]["versions"]
    print(f"\nPeer: torch {versions['torch']}, transformers {versions['transformers']}, peft {versions['peft']}, adapter weights {pairs[-1][1]['adapter_dtype']}.")


def gemm_rate(args, dtype):
    """GF/s of the 125 M shape's largest frozen product on this machine, by `cambium bench gemm` of the same build."""
    cambium = pathlib.Path(args.program).parent.parent / "cambium"
    rows = run([cambium, "bench", "gemm", "--threads", str(args.threads), "--json"])["gflops"]
    return max(r[kind] for r in rows if (r["m"], r["n"], r["k"], r["dtype"]) == (1024, 768, 2048, dtype) for kind in ("NN", "NT", "TN"))


if __name__ == "__main__":
    main()
