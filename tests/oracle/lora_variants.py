#!/usr/bin/env python3
"""Every variant of LoRA in random combinations, from Cambium to PEFT and from PEFT to Cambium.

    python lora_variants.py ours   --build ../../build --seeds 0 40     we train, PEFT reads
    python lora_variants.py theirs --build ../../build --seeds 0 40     PEFT trains, we read, go on training and merge

A seed is a case of each architecture of random_models.py with options by random_options(): starts, DoRA, rsLoRA, patterns, embeddings and
heads, tokens, biases, modules_to_save, tied heads.  The judge is PEFT in f64; compared with it are, relative to the largest logit, ours in
f32 with the adapter and those of what `cambium merge` wrote.  They may be off by 1e-5, or, where PEFT's own f32 is further off (some of these
networks multiply rounding errors), four times as far as that: it is one sample of the same rounding.  Where merge_and_unload() is PEFT's
unmerged model, it is also ours.  With `ours` half of the cases are over a base that `cambium convert` quantised; PEFT has it dequantised.

Combinations that PEFT, or `cambium train`, refuses are counted and shown; what PEFT saved and we do not read is a failure unless EXPECTED says
why.  Exit code 1 on failures.
"""
import argparse
import collections
import json
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import traceback
import warnings

os.environ["HF_HUB_OFFLINE"] = "1"

import peft
import torch
import transformers
from peft.tuners.lora.config import CordaConfig, EvaConfig
from peft.tuners.lora.corda import preprocess_corda
from peft.tuners.lora.eva import initialize_lora_eva_weights

import random_models
from ours import Ours, compare
from peft_loads_ours import load_adapter

HERE = os.path.dirname(os.path.abspath(__file__))
TEXT = os.path.join(HERE, "..", "..", "examples", "data", "king-james-held-out.txt")
BOUND = 1e-5
STARTS = ["true", "false", "gaussian", "orthogonal", "pissa", "pissa_niter_4", "olora", "eva", "corda"]
GPT2 = dict(blocks="h", linear=["c_attn", "attn.c_proj", "c_fc", "mlp.c_proj"], embedding="wte", norms=["ln_f", "ln_1"], other="attn.c_proj")
LLAMA = dict(blocks="layers", linear=["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"], embedding="embed_tokens",
             norms=["norm", "input_layernorm"], other="o_proj")

# Parts of messages by which we refuse on purpose what PEFT takes.
EXPECTED = [
    # PiSSA and OLoRA change the weight of an adapted head, and PEFT saves the changed one
    "lm_head.base_layer.weight: found other values than in the given model",
]


# ---- options ---------------------------------------------------------------------------------------------------------------------


def random_targets(rng, names):
    kind = rng.choice(["list", "list", "list", "all-linear", "regex"])
    if kind == "all-linear":
        return kind
    chosen = rng.sample(names["linear"], rng.randint(1, len(names["linear"])))
    if kind == "regex":
        return rf".*\.{names['blocks']}\.\d+\.(.*\.)?({'|'.join(re.escape(n) for n in chosen)})"
    return chosen + [n for n in (names["embedding"], "lm_head") if rng.random() < 0.25]


def random_options(rng, architecture):
    """Options of LoraConfig; those of other values than PEFT's defaults."""
    names = GPT2 if architecture == "gpt2" else LLAMA
    targets = random_targets(rng, names)
    start = rng.choice(STARTS)
    options = dict(r=rng.choice([2, 4, 6]) if start == "orthogonal" else rng.choice([1, 2, 3, 5, 8]), lora_alpha=rng.choice([1, 4, 9, 16]),
                   target_modules=targets)
    listed = targets if isinstance(targets, list) else names["linear"]

    def sometimes(share, key, make):
        if rng.random() < share:
            options[key] = make()

    if start != "true":
        options["init_lora_weights"] = False if start == "false" else start
    sometimes(0.3, "use_rslora", lambda: True)
    sometimes(0.3, "use_dora", lambda: True)
    sometimes(0.3, "rank_pattern", lambda: {rng.choice(listed): rng.choice([2, 4])})
    sometimes(0.3, "alpha_pattern", lambda: {rng.choice(listed): rng.choice([2, 7]), rf"{names['blocks']}\.0\..*": 5})
    sometimes(0.2, "bias", lambda: rng.choice(["all", "lora_only"]))
    sometimes(0.4 if start in ("true", "false") and "use_dora" not in options else 0, "lora_bias", lambda: True)
    sometimes(0.15, "exclude_modules", lambda: [rng.choice(names["linear"])])
    sometimes(0.15 if isinstance(targets, list) else 0, "layers_to_transform", lambda: [0])
    sometimes(0.3, "modules_to_save", lambda: rng.sample(["lm_head", names["embedding"], names["other"], *names["norms"]], rng.randint(1, 2)))
    sometimes(0.25, "trainable_token_indices", lambda: rng.choice(
        [rng.sample(range(300), 4), {names["embedding"]: rng.sample(range(300), 3), "lm_head": rng.sample(range(300), 2)}]))
    sometimes(0.2, "ensure_weight_tying", lambda: True)
    if start == "eva":
        options["eva_config"] = dict(rho=rng.choice([1.0, 2.0]), tau=0.9)
    if start == "corda":
        options["corda_config"] = dict(corda_method=rng.choice(["ipm", "kpm"]))
    if architecture == "gpt2":
        options["fan_in_fan_out"] = True
    return options


def config_of(options):
    kinds = dict(eva_config=EvaConfig, corda_config=CordaConfig)
    return peft.LoraConfig(task_type="CAUSAL_LM", **{k: kinds[k](**v) if k in kinds else v for k, v in options.items()})


def as_words(options):
    """The same as options of `cambium train`."""
    words = []
    for key, value in options.items():
        if key == "fan_in_fan_out":
            continue
        if key.endswith("_config"):
            group = key.removesuffix("config")
            words += as_words({k if k.startswith(group) else group + k: v for k, v in value.items()})
        elif isinstance(value, bool) and key != "init_lora_weights":
            words += [f"--{'' if value else 'no-'}{key}"]
        elif isinstance(value, dict):
            items = [f"{k}:{i}" for k, v in value.items() for i in v] if key == "trainable_token_indices" else [f"{k}={v}" for k, v in value.items()]
            words += [f"--{key}", ",".join(items)]
        else:
            words += [f"--{key}", ",".join(map(str, value)) if isinstance(value, list) else str(value).lower() if isinstance(value, bool) else str(value)]
    return words


# ---- PEFT's side -----------------------------------------------------------------------------------------------------------------


def load_base(path):
    return transformers.AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, attn_implementation="eager").eval()


def logits_of(model, ids):
    with torch.no_grad():
        return model(input_ids=torch.tensor(ids)[None], use_cache=False).logits[0].double().numpy()


def in_f64(decompose):
    """A decomposition that PEFT asks for in f32: exact but for the rounding of its result."""
    return lambda x, **options: tuple(part.to(x.dtype) for part in decompose(x.double(), **options))


def exact_logits(base, adapter, ids):
    svd, qr = torch.linalg.svd, torch.linalg.qr
    torch.linalg.svd, torch.linalg.qr = in_f64(svd), in_f64(qr)
    try:
        model = load_adapter(load_base(base), adapter)
    finally:
        torch.linalg.svd, torch.linalg.qr = svd, qr
    return logits_of(model.double(), ids)


def some_ids(seed, count=40):
    generator = random.Random(seed)
    return [generator.randrange(3, 300) for _ in range(count)]


def what_peft_can(options):
    """The options without what PEFT refuses beside others of them, at the start or when it saves or reads."""
    options, start = dict(options), options.get("init_lora_weights")
    saved = options.get("modules_to_save", [])
    names = GPT2 if "fan_in_fan_out" in options else LLAMA
    if start == "olora" and names is GPT2:
        options["init_lora_weights"] = start = "pissa"
    if start in ("corda", "pissa_niter_4"):  # these can only be saved converted
        for key in ("bias", "use_dora", "trainable_token_indices", "modules_to_save"):
            options.pop(key, None)
        if "rank_pattern" in options or "alpha_pattern" in options:
            options.pop("use_rslora", None)
        if start == "corda" and isinstance(options["target_modules"], str):
            options["target_modules"] = names["linear"]
    if start not in (None, False, "gaussian", "orthogonal") and isinstance(options["target_modules"], list):
        options["target_modules"] = [n for n in options["target_modules"] if n in names["linear"]] or names["linear"]
    if start == "eva" or {names["embedding"], "lm_head"} & {*options["target_modules"], *saved}:
        options.pop("trainable_token_indices", None)
    return options


def trained_by_peft(path, options, output, seed):
    """A few steps of AdamW from where the options start, and noise on what is trained, since little happens in a few steps."""
    torch.manual_seed(seed)
    batches = [dict(input_ids=torch.tensor([some_ids(seed + i)])) for i in range(4)]
    model, config = load_base(path), config_of(options)
    start = options.get("init_lora_weights")
    if start == "corda":
        preprocess_corda(model, config, run_model=lambda: [model(**batch, use_cache=False) for batch in batches])
    model = peft.get_peft_model(model, config)
    if start == "eva":
        initialize_lora_eva_weights(model, [b | dict(labels=b["input_ids"], attention_mask=torch.ones_like(b["input_ids"])) for b in batches],
                                    show_progress_bar=False)
    plain = not {"bias", "use_dora", "trainable_token_indices", "use_rslora"} & set(options)
    converted = start in ("corda", "pissa_niter_4") or (start in ("pissa", "olora") and seed % 2 == 1 and plain)
    if converted:
        model.peft_config["default"].init_lora_weights = True
        model.save_pretrained(output + "_initial")
        model.peft_config["default"].init_lora_weights = start
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.02, weight_decay=0.0)
    for step in range(3):
        optimizer.zero_grad()
        model(**batches[step], labels=batches[step]["input_ids"], use_cache=False).loss.backward()
        optimizer.step()
    with torch.no_grad():
        for p in model.parameters():
            if p.requires_grad:
                p += 0.02 * torch.randn(p.shape)
    model.save_pretrained(output, **(dict(path_initial_model_for_weight_conversion=output + "_initial") if converted else {}))


def relative_difference(ours, theirs):
    return compare(ours, theirs)[0]


# ---- cases -----------------------------------------------------------------------------------------------------------------------


class Refused(Exception):
    pass


def case_of(seed, architecture, folder):
    """A random model and options for it."""
    path = f"{folder}/{architecture}{seed}"
    random_models.make(seed, architecture, path, kinds=["default", "linear"], dtype=random.Random(seed).choice([torch.float32, torch.bfloat16]))
    return path, random_options(random.Random(f"options {seed} {architecture}"), architecture)


def train(ours, base, output, seed, *words):
    good, said = ours.run("train", base, "--data", TEXT, "--output", output, "--steps", "3", "--learning-rate", "0.03", "--batch-size", "2",
                          "--sequence-length", "32", "--dtype", "f32", "--seed", str(seed), "--start-batches", "4", "--threads", "1",
                          "--lr-scheduler-type", "constant", "--max-records", "1", *words)
    if not good:
        raise Refused(said)


def peft_reads(base, adapter):
    try:
        return load_adapter(load_base(base), adapter).eval()
    except Exception as error:
        raise RuntimeError(f"PEFT cannot read it: {type(error).__name__}: {str(error)[:300]}") from error


def compare_adapter(ours, base, plain, adapter, ids, found, prefix=""):
    """What both compute with an adapter; `plain` is what PEFT takes for the base."""
    model, exact = peft_reads(plain, adapter), exact_logits(plain, adapter, ids)
    found[prefix + "logits"] = relative_difference(ours.logits(base, ids, adapter), exact)
    found[prefix + "peft"] = relative_difference(logits_of(model, ids), exact)
    found[prefix + "moved"] = relative_difference(ours.logits(base, ids), exact)
    return model, exact


def unloads(model):
    try:
        return model.merge_and_unload() is not None
    except RuntimeError:
        return False


def compare_merged(ours, base, adapter, model, exact, ids, found):
    output = adapter + "_merged"
    good, said = ours.run("merge", base, "--adapter", adapter, "--output", output, "--dtype", "f32", "--threads", "1")
    if not good:
        found["failed"] = f"merge: {said}"
        if "adds a bias, and the layer of the base has none" in said and not unloads(model):
            del found["failed"]
        return
    merged = logits_of(load_base(output), ids)
    found["merged"] = relative_difference(merged, exact)
    unloaded = logits_of(model.merge_and_unload(), ids)
    found["peft_merges"] = relative_difference(unloaded, exact)
    found["unloaded"] = relative_difference(merged, unloaded)


def ours_case(ours, seed, architecture, folder):
    path, options = case_of(seed, architecture, folder)
    quantized = random.Random(f"base {seed} {architecture}").choice([None, None, None, "nf4", "int8", "int8-block"])
    base, plain, found = path, path, {}
    if quantized:
        base, plain = path + "_quantized", path + "_plain"
        blocks = ["--block-size", "2"] if quantized == "int8-block" else []  # which divides every row
        good, said = ours.run("convert", path, "--quantize", quantized, "--max-kl", "100", "--output", base, *blocks)
        good2, said2 = ours.run("convert", base, "--dtype", "f32", "--output", plain) if good else (False, "")
        if not good2:
            return options, dict(refused=f"convert --quantize {quantized}: {said} {said2}")
        if random.Random(seed).random() < 0.5:
            options["init_lora_weights"] = "loftq"
    label, adapter = options | (dict(base=quantized) if quantized else {}), path + "_adapter"
    try:
        train(ours, base, adapter, seed, *as_words(options), *(["--loftq-model", path] if "loftq" == options.get("init_lora_weights") else []))
    except Refused as refusal:
        return label, dict(refused=str(refusal))
    ids = some_ids(seed)
    model, exact = compare_adapter(ours, base, plain, adapter, ids, found)
    compare_merged(ours, plain, adapter, model, exact, ids, found)
    return label, found


def theirs_case(ours, seed, architecture, folder):
    path, options = case_of(seed, architecture, folder)
    options = what_peft_can(options)
    adapter, ids, found = path + "_peft", some_ids(seed), {}
    try:
        trained_by_peft(path, options, adapter, seed)
        peft_reads(path, adapter)
    except Exception as error:
        return options, dict(refused=f"PEFT: {type(error).__name__}: {str(error)[:200]}")
    try:
        model, exact = compare_adapter(ours, path, path, adapter, ids, found)
    except RuntimeError as error:
        return options, dict(refused=str(error)) if any(text in str(error) for text in EXPECTED) else dict(failed=str(error))
    compare_merged(ours, path, adapter, model, exact, ids, found)
    try:
        train(ours, path, path + "_further", seed, "--adapter", adapter)
    except Refused as refusal:
        return options, found | dict(failed=f"training on: {refusal}")
    _, further = compare_adapter(ours, path, path, path + "_further", ids, found, "further_")
    if relative_difference(further, exact) < 1e-3:
        found["failed"] = "training on changed nothing"
    return options, found


def judge(found):
    """Why this is a failure, or None."""
    if "failed" in found:
        return found["failed"]
    if "refused" in found:
        return None
    for key, peers in (("logits", "peft"), ("merged", "peft"), ("further_logits", "further_peft")):
        if not found.get(key, 0) <= max(BOUND, 4 * found.get(peers, 0)):
            return f"{key} differ"
    if "merged" not in found:
        return None
    itself = found.get("peft_merges", 1) <= max(BOUND, 4 * found["peft"])
    if itself and not found["unloaded"] <= max(BOUND, 4 * found["peft"]):
        return "merged differently"
    return None if found["moved"] > 1e-3 else "the adapter changes nothing"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", choices=["ours", "theirs"])
    parser.add_argument("--build", required=True)
    parser.add_argument("--seeds", type=int, nargs=2, default=[0, 5])
    parser.add_argument("--architectures", nargs="+", default=random_models.ARCHITECTURES)
    args = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    ours, cases = Ours(args.build), {"ours": ours_case, "theirs": theirs_case}
    counts, worst, above = collections.Counter(), collections.Counter(), collections.Counter()
    for seed in range(*args.seeds):
        for architecture in args.architectures:
            with tempfile.TemporaryDirectory() as folder:
                try:
                    options, found = cases[args.run](ours, seed, architecture, folder)
                except Exception as error:
                    options, found = traceback.format_exc().splitlines()[-12:], dict(failed=f"{type(error).__name__}: {error}")
            why = judge(found)
            state = "FAIL" if why else "refused" if "refused" in found else "ok"
            counts[state] += 1
            if state == "ok":
                for key, value in found.items():
                    worst[key] = max(worst[key], value)
                    above[key] += value > BOUND
            figures = " ".join(f"{k} {v:.1e}" for k, v in found.items() if isinstance(v, float))
            print(f"{state} {architecture} {seed} {options}: {why or found.get('refused', '')} {figures}", flush=True)
    print(json.dumps(dict(run=args.run, seeds=args.seeds, counts=counts, worst=worst, above_bound=above)))
    sys.exit(counts["FAIL"] > 0)


if __name__ == "__main__":
    main()
