#!/usr/bin/env python3
"""Every format into every other: random small models and adapters in every container, made by the packages that define them
(transformers, peft, safetensors, torch.save, gguf; llama2.c, MLX and AdapterHub by the formats' definitions), converted by
`cambium convert` into every target.

    python conversion_matrix.py models   --build ../../build --seeds 0 20     each seed: a model in every container, --pairs conversions
    python conversion_matrix.py adapters --build ../../build --seeds 0 20     each seed: an adapter in every container, into every format

Of each conversion is checked: the logits of the result, ours and those of the package that can read it (transformers, PEFT, the gguf
package's reader and dequantiser), against those of the input; the dtype of its matrices; what its tokenizer makes of random Unicode
texts; the printed difference, which is computed again from both sides' logits on the same probe; and that a refusal names its reason.
Exit code 1 when anything differs.
"""
import argparse
import collections
import json
import math
import os
import random
import re
import shutil
import struct
import sys
import tempfile

os.environ["TRANSFORMERS_VERBOSITY"] = "error"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["HF_HUB_OFFLINE"] = "1"

import gguf  # noqa: E402
import numpy as np  # noqa: E402
import peft  # noqa: E402
import torch  # noqa: E402
import transformers  # noqa: E402
from safetensors import safe_open  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402
from tokenizers import Tokenizer  # noqa: E402

import adapter_formats  # noqa: E402
import gguf_models  # noqa: E402
import random_models  # noqa: E402
import tokenizer_files  # noqa: E402
import tokenizer_variants as variants  # noqa: E402
from ours import Ours, compare, random_adapter  # noqa: E402
from tokenizer_fuzz import piece  # noqa: E402

COUNTS, FAILURES = collections.Counter(), []
ADDED = ["<s>", "</s>", "<unk>", "<|endoftext|>", "<|im_start|>", "<tool>"]
SAME = 3e-5  # f32 sums in another order, over the largest logit


def check(good, text):
    COUNTS["checks"] += 1
    if not good:
        FAILURES.append(text)
        print("FAIL " + text, flush=True)
    return good


def json_of(said):
    """What the program printed, warnings apart."""
    return json.loads(next(line for line in said.splitlines() if line.startswith("{")))


# ---- the probe of `cambium convert` ----

def philox(seed, stream, counter):
    """Philox4x32-10 of Salmon et al., 2011."""
    mask = 0xFFFFFFFF
    c, k = [counter & mask, counter >> 32, stream & mask, stream >> 32], [seed & mask, seed >> 32]
    for _ in range(10):
        p, q = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [(q >> 32) ^ c[1] ^ k[0], q & mask, (p >> 32) ^ c[3] ^ k[1], p & mask]
        k = [(k[0] + 0x9E3779B9) & mask, (k[1] + 0xBB67AE85) & mask]
    return c[1] << 32 | c[0]


def probe(seed, vocabulary, positions):
    """2 rows of at most 32 tokens."""
    length = min(32, positions)
    draws, counter, limit = [], 0, (1 << 64) % vocabulary
    while len(draws) < 2 * length:
        draw = philox(seed, 0x6d65726765, counter)
        counter += 1
        if draw >= limit:
            draws.append(draw % vocabulary)
    return np.array(draws).reshape(2, length)


def measured(p, q):
    """max_absolute_difference, mean_kl and agreement as they are defined."""
    p, q = p.astype(np.float64), q.astype(np.float64)
    p_log, q_log = (x - x.max(-1, keepdims=True) - np.log(np.exp(x - x.max(-1, keepdims=True)).sum(-1, keepdims=True)) for x in (p, q))
    return float(np.abs(p - q).max()), float((np.exp(p_log) * (p_log - q_log)).sum(-1).mean()), float((p.argmax(-1) == q.argmax(-1)).mean())


def check_printed(name, said, before, after):
    result = json_of(said)
    if not check(result.get("verified") is True, f"{name}: not verified: {said}"):
        return
    largest, kl, agreement = measured(before, after)
    scale = float(np.abs(before).max())
    # a difference of nothing but rounding is not the same twice
    check(abs(result["max_absolute_difference"] - largest) < 1e-3 * largest + 2 * SAME * scale, f"{name}: printed {result}, found {largest:.3g}")
    check(abs(result["mean_kl"] - kl) < 1e-3 * kl + 1e-5, f"{name}: printed {result}, found a KL of {kl:.3g}")
    check(abs(result["agreement"] - agreement) <= 2 / before[..., 0].size, f"{name}: printed {result}, found an agreement of {agreement:.3g}")


# ---- models, by container ----

def weights_of(path):
    return {k: v for f in sorted(os.listdir(path)) if f.endswith(".safetensors") for k, v in load_file(os.path.join(path, f)).items()}


def besides(source, path):
    os.makedirs(path)
    for name in os.listdir(source):
        if not name.endswith((".safetensors", ".index.json")):
            shutil.copy(os.path.join(source, name), path)


def bin_file(source, path, old):
    besides(source, path)
    torch.save(weights_of(source), os.path.join(path, "pytorch_model.bin"), _use_new_zipfile_serialization=not old)


def bin_shards(source, path):
    besides(source, path)
    weights, placed = weights_of(source), {}
    parts = [sorted(weights)[i::3] for i in range(3)]
    for i, part in enumerate(parts):
        file = f"pytorch_model-{i + 1:05}-of-00003.bin"
        torch.save({k: weights[k] for k in part}, os.path.join(path, file))
        placed |= dict.fromkeys(part, file)
    with open(os.path.join(path, "pytorch_model.bin.index.json"), "w") as f:
        json.dump({"metadata": {"total_size": sum(w.nbytes for w in weights.values())}, "weight_map": placed}, f)


def shards(source, path):
    besides(source, path)
    transformers.AutoModelForCausalLM.from_pretrained(source, dtype="auto").save_pretrained(path, max_shard_size="60KB")


PRE = {"qwen2": "qwen2", "qwen3": "qwen2", "gpt2": "gpt-2", "llama": "llama-bpe", "mistral": "llama-bpe"}


def gguf_file(source, path, kind, architecture, split=0):
    """As llama.cpp's converter lays it out, with the gguf package; the values that it holds, by Hugging Face's names, in f32."""
    with open(os.path.join(source, "config.json")) as f:
        config = json.load(f)
    known = "llama" if architecture == "mistral" else architecture
    names = gguf.get_tensor_name_map(gguf_models.ARCHITECTURES[known], config.get("num_hidden_layers") or config["n_layer"])
    writer = gguf.GGUFWriter(path, known, split_max_tensors=split)
    writer.add_vocab_size(config["vocab_size"])
    gguf_models.write_settings(writer, config, known)
    with open(os.path.join(source, "tokenizer.json")) as f:
        tokenizer = json.load(f)
    tokens = {i: (t, gguf.TokenType.NORMAL) for t, i in tokenizer["model"]["vocab"].items()}
    tokens |= {t["id"]: (t["content"], gguf.TokenType.CONTROL if t["special"] else gguf.TokenType.USER_DEFINED) for t in tokenizer["added_tokens"]}
    tokens = [tokens.get(i, (f"[PAD{i}]", gguf.TokenType.UNUSED)) for i in range(config["vocab_size"])]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(PRE[architecture])
    writer.add_token_list([t for t, _ in tokens])
    writer.add_token_types([k for _, k in tokens])
    writer.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in tokenizer["model"]["merges"]])
    writer.add_bos_token_id(config["bos_token_id"])
    writer.add_eos_token_id(config["eos_token_id"])
    values = {}
    tied = config.get("tie_word_embeddings", True)
    for key, value in sorted(weights_of(source).items()):
        if tied and key == "lm_head.weight":
            continue
        data = value.float().numpy()
        turned = architecture == "gpt2" and data.ndim == 2 and ".c_" in key
        data = np.ascontiguousarray(data.T) if turned else data
        if known == "llama" and re.search(r"\.[qk]_proj\.", key):
            data = np.ascontiguousarray(gguf_models.neighbouring(data, config["num_attention_heads" if ".q_" in key else "num_key_value_heads"]))
        size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]][0]
        dtype = gguf.GGMLQuantizationType[kind if data.ndim > 1 and data.shape[-1] % size == 0 else "F16" if data.ndim > 1 and size > 1 else "F32"]
        raw = gguf.quants.quantize(data, dtype)
        writer.add_tensor(names.get_name(key, try_suffixes=(".weight", ".bias")), raw, raw_dtype=dtype)
        values[key] = from_gguf(gguf.quants.dequantize(raw, dtype).reshape(data.shape), key, config, known)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return values


def from_gguf(data, key, config, known):
    if known == "llama" and re.search(r"\.[qk]_proj\.", key):
        heads = config["num_attention_heads" if ".q_" in key else "num_key_value_heads"]
        data = data.reshape(heads, data.shape[0] // heads // 2, 2, *data.shape[1:]).swapaxes(1, 2).reshape(data.shape)
    return np.ascontiguousarray(data.T if known == "gpt2" and data.ndim == 2 and ".c_" in key else data)


def gguf_values(path, model, config, architecture):
    """What the gguf package reads of a file, by Hugging Face's names, and the types."""
    known = "llama" if architecture == "mistral" else architecture
    names = gguf.get_tensor_name_map(gguf_models.ARCHITECTURES[known], config.get("num_hidden_layers") or config["n_layer"])
    tensors = {t.name: t for t in gguf.GGUFReader(path).tensors}
    values, types = {}, {}
    for key in model.state_dict():
        tensor = tensors.get(names.get_name(key, try_suffixes=(".weight", ".bias")))
        if tensor is not None:
            shape = [int(n) for n in reversed(tensor.shape)]
            values[key] = from_gguf(gguf.quants.dequantize(tensor.data, tensor.tensor_type).reshape(shape).astype(np.float32), key, config, known)
            types[key] = tensor.tensor_type.name
    return values, types


def llama2c_file(path, seed):
    """A Llama as llama2.c's export.py writes it (version 0), its tokenizer.bin, and the same model in transformers."""
    rng = random.Random(seed)
    model_path, bin_path, tokenizer = path + ".model", path + ".bin", path + ".tok.bin"
    torch.manual_seed(seed)
    heads = rng.choice([2, 4])
    width, kv, hidden = heads * rng.choice([8, 12]), rng.choice([1, heads]), rng.choice([24, 40])
    spm = path + ".spm"
    tokenizer_files.spm(spm, model_type="bpe", byte_fallback=True, size=520, remove_extra_whitespaces=False)
    pieces = tokenizer_files.sentencepiece.SentencePieceProcessor(model_file=spm)
    vocabulary = pieces.vocab_size()
    config = transformers.LlamaConfig(vocab_size=vocabulary, hidden_size=width, intermediate_size=hidden, num_hidden_layers=rng.choice([1, 2]),
                                      num_attention_heads=heads, num_key_value_heads=kv, max_position_embeddings=64, rms_norm_eps=1e-5,
                                      tie_word_embeddings=rng.random() < 0.5, bos_token_id=1, eos_token_id=2)
    model = transformers.LlamaForCausalLM(config).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(torch.randn_like(weight) * 1.2 / weight.shape[-1] ** 0.5 if weight.ndim > 1 else 1 + 0.2 * torch.randn_like(weight))
    values = {k: v.numpy() for k, v in model.state_dict().items()}
    with open(bin_path, "wb") as f:
        f.write(struct.pack("<7i", width, hidden, config.num_hidden_layers, heads, kv,
                            vocabulary if config.tie_word_embeddings else -vocabulary, 64))
        layer = lambda name, heads_=0: [gguf_models.neighbouring(values[f"model.layers.{i}.{name}.weight"], heads_) if heads_ else
                                        values[f"model.layers.{i}.{name}.weight"] for i in range(config.num_hidden_layers)]  # noqa: E731
        blocks = [[values["model.embed_tokens.weight"]], layer("input_layernorm"), layer("self_attn.q_proj", heads), layer("self_attn.k_proj", kv),
                  layer("self_attn.v_proj"), layer("self_attn.o_proj"), layer("post_attention_layernorm"), layer("mlp.gate_proj"),
                  layer("mlp.down_proj"), layer("mlp.up_proj"), [values["model.norm.weight"]], [np.zeros((2 * 64, width // heads // 2))]]
        for block in blocks + ([] if config.tie_word_embeddings else [[values["lm_head.weight"]]]):
            for data in block:
                f.write(np.ascontiguousarray(data, np.float32).tobytes())
    with open(tokenizer, "wb") as f:  # as llama2.c's tokenizer.py writes it
        texts = ["\n<s>\n" if i == 1 else "\n</s>\n" if i == 2 else pieces.id_to_piece(i) for i in range(vocabulary)]
        texts = [t.replace("▁", " ").encode() for t in texts]
        f.write(struct.pack("<I", max(map(len, texts))))
        for i, text in enumerate(texts):
            f.write(struct.pack("<fI", pieces.get_score(i), len(text)) + text)
    model.save_pretrained(model_path)
    return bin_path, tokenizer, model_path, spm


# ---- tokenizers ----

def texts(rng, count):
    return ["".join(piece(rng, ADDED) for _ in range(rng.randint(1, 10))).replace("\0", "") for _ in range(count)]


def ids_by(library, path, lines, specials=True):
    ours = tokenizer_files.OurFile(library, path)
    found = [ours.encode({"text": line, "add_special_tokens": specials})["ids"] for line in lines]
    ours.close()
    return found


# ---- runs ----

# what a target cannot hold, by the words that say so
REFUSALS = [r"rope_type: found", r"attention_bias: found true", r"mlp_bias: found true", r"hidden_act", r"expected rows of whole blocks",
            r"which .* cannot hold", r"does not adapt", r"adapted in different places", r"found a \w+ model; of those",
            r"which only PEFT's format holds", r"no multiple of the block"]


def refused(name, said):
    known = any(re.search(words, said) for words in REFUSALS)
    COUNTS["refused"] += 1
    return check(known, f"{name}: refused, and no reason that is known: {said}")


def matrices(path, quantised_as=None):
    """dtypes of a directory's tensors of more than one dimension."""
    kinds = set()
    for file in sorted(os.listdir(path)):
        if file.endswith(".safetensors"):
            with safe_open(os.path.join(path, file), "pt") as f:
                kinds |= {f.get_slice(k).get_dtype() for k in f.keys() if len(f.get_slice(k).get_shape()) > 1}
    return kinds


def logits_of(model, values, ids):
    model.load_state_dict({k: torch.from_numpy(np.array(v)) for k, v in values.items()}, strict=False)
    model.tie_weights()
    with torch.no_grad():
        return model(torch.tensor(ids)).logits.numpy()


def containers(ours, seed, architecture, source, folder):
    """(name, path, values or None, dtype of matrices) of every container of the model in `source`."""
    dtype = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}[next(iter(weights_of(source).values())).dtype]
    yield "safetensors", source, None, dtype
    for name, make in [("shards", lambda p: shards(source, p)), ("bin", lambda p: bin_file(source, p, False)),
                       ("bin old", lambda p: bin_file(source, p, True)), ("bin shards", lambda p: bin_shards(source, p))]:
        path = f"{folder}/{name.replace(' ', '_')}"
        make(path)
        yield name, path, None, dtype
    with open(f"{source}/config.json") as f:
        config = json.load(f)
    rope = config.get("rope_parameters") or {}
    # what llama.cpp has no tensors for, and a factor that has another meaning there
    beyond = "attention_factor" in rope or architecture.startswith("qwen") and rope["rope_type"] == "llama3" or \
        architecture == "qwen3" and config.get("attention_bias")
    for kind in [] if beyond else ["F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1"]:
        path = f"{folder}/{kind}.gguf"
        yield f"gguf {kind}", path, gguf_file(source, path, kind, architecture), kind
    if not beyond:
        values = gguf_file(source, f"{folder}/split.gguf", "F16", architecture, split=5)
        first = sorted(f for f in os.listdir(folder) if f.startswith("split-00001"))[0]
        yield "gguf split", f"{folder}/{first}", values, "F16"
    for kind in ["q6_k", "q5_k_m", "q4_k_m", "q3_k_m", "q2_k", "iq4_nl"]:  # the package reads these, but does not make them
        path = f"{folder}/{kind}.gguf"
        good, said = ours.run("convert", source, "--to", "gguf", "--dtype", kind, "--output", path, "--max-kl", "1e9")
        if good:
            yield f"gguf {kind}", path, "read", kind
        else:
            refused(f"{architecture} {seed} to {kind}", said)
    for kind in ["int8", "nf4", "int8-block"]:
        path = f"{folder}/{kind}"
        good, said = ours.run("convert", source, "--quantize", kind, "--output", path, "--max-kl", "1e9")
        if good:
            yield kind, path, "ours", kind
        else:
            refused(f"{architecture} {seed} to {kind}", said)


TARGETS = [("hf", "keep"), ("hf", "f32"), ("hf", "bf16"), ("hf", "f16"), ("gguf", "keep"), ("gguf", "f32"), ("gguf", "f16"), ("gguf", "bf16"),
           ("gguf", "q8_0"), ("gguf", "q4_0"), ("gguf", "q4_k_m"), ("gguf", "q6_k")]


def kept(kind, to, dtype):
    """The dtype of a target's matrices."""
    if dtype != "keep":
        return dtype.upper()
    plain = kind in ("F32", "F16", "BF16")
    return kind if plain else "F16" if to == "hf" or not kind.startswith(("q", "Q", "iq")) else None


def one_model(ours, library, args, seed, architecture, folder):
    rng = random.Random(seed)
    source = f"{folder}/source"
    random_models.make(seed, architecture, source, wide=seed % 2 == 0, kinds=["default", "linear", "llama3", "yarn"])
    with open(f"{source}/config.json") as f:
        config = json.load(f)
    model = transformers.AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32, attn_implementation="eager").eval()
    original = {k: v.clone().numpy() for k, v in model.state_dict().items()}
    ids = probe(0, config["vocab_size"], config.get("max_position_embeddings") or config["n_positions"])
    lines = texts(rng, 60)
    theirs = Tokenizer.from_file(f"{source}/tokenizer.json")
    expected_ids = [theirs.encode(line, add_special_tokens=False).ids for line in lines]
    found = list(containers(ours, seed, architecture, source, folder))
    pairs = [(container, target) for container in found for target in TARGETS]
    for number, ((name, path, values, kind), (to, dtype)) in enumerate(rng.sample(pairs, min(args.pairs, len(pairs)))):
        title = f"{architecture} {seed}: {name} to {to} {dtype}"
        good, said = ours.run("inspect", path, "--json")
        check(good and json_of(said)["files"], f"{title}: inspect: {said[:300]}")
        if values == "read":
            values = gguf_values(path, model, config, architecture)[0]
        before = ours.logits(path, ids)
        if values != "ours":
            reference = logits_of(model, values or original, ids)
            check(compare(before, reference)[0] < SAME, f"{title}: our logits of the input are {compare(before, reference)[0]:.1e} from the reference's")
        output = f"{folder}/out{number}" + (".gguf" if to == "gguf" else "")
        good, said = ours.run("convert", path, "--to", to, "--dtype", dtype, "--output", output, "--json", "--max-kl", "1e9")
        COUNTS["conversions"] += 1
        if not good:
            refused(title, said)
            check(not os.path.exists(output), f"{title}: refused, and left something")
            continue
        after = ours.logits(output, ids)
        if to == "hf":
            model_after = transformers.AutoModelForCausalLM.from_pretrained(output, dtype=torch.float32, attn_implementation="eager").eval()
            with torch.no_grad():
                judged = model_after(torch.tensor(ids)).logits.numpy()
            check(matrices(output) == {kept(kind, to, dtype)}, f"{title}: matrices of {matrices(output)}, expected {kept(kind, to, dtype)}")
        else:
            read, types = gguf_values(output, model, config, architecture)
            judged = logits_of(model, read, ids)
            expected = kept(kind, to, dtype)
            if expected in ("F32", "F16", "BF16"):
                kinds = {t for k, t in types.items() if read[k].ndim > 1}
                check(kinds <= {expected} | ({"F32"} if architecture == "gpt2" else set()), f"{title}: matrices of {kinds}, expected {expected}")
        check(compare(after, judged)[0] < SAME, f"{title}: our logits of the result are {compare(after, judged)[0]:.1e} from the reference's")
        exact = dtype == "f32" or (dtype == "keep" and (kind in ("F32", "F16", "BF16") or to == "gguf" and kind not in ("int8", "nf4", "int8-block")))
        check(not exact or compare(after, before)[0] < SAME, f"{title}: nothing is lost, but the logits differ by {compare(after, before)[0]:.1e}")
        check_printed(title, said, before, after)
        found_ids = ids_by(library, output, lines, False)
        differ = [(line, a, b) for line, a, b in zip(lines, found_ids, expected_ids) if a != b]
        check(not differ, f"{title}: the tokenizer makes other ids of {len(differ)} texts: {differ[:1]}")
        shutil.rmtree(output) if to == "hf" else os.remove(output)


def one_llama2c(ours, library, args, seed, folder):
    rng = random.Random(seed)
    path, tokenizer, model_path, spm = llama2c_file(f"{folder}/l2c", seed)
    model = transformers.AutoModelForCausalLM.from_pretrained(model_path, dtype=torch.float32, attn_implementation="eager").eval()
    config = model.config.to_dict()
    ids = probe(0, config["vocab_size"], 64)
    with torch.no_grad():
        reference = model(torch.tensor(ids)).logits.numpy()
    lines = [line for line in texts(rng, 60) if not any(t in line for t in ADDED)]
    pieces = tokenizer_files.sentencepiece.SentencePieceProcessor(model_file=spm)
    expected = [[1] + pieces.encode(line) for line in lines]
    for to, dtype in TARGETS:
        output = f"{folder}/l2c.{to}.{dtype}"
        title = f"llama2.c {seed} to {to} {dtype}"
        good, said = ours.run("convert", path, "--tokenizer", tokenizer, "--to", to, "--dtype", dtype, "--output", output, "--max-kl", "1e9")
        COUNTS["conversions"] += 1
        if not good:
            refused(title, said)
            continue
        after = ours.logits(output, ids)
        if dtype in ("keep", "f32"):
            check(compare(after, reference)[0] < SAME, f"{title}: {compare(after, reference)[0]:.1e} from the reference's logits")
        judged = logits_of(model, gguf_values(output, model, config, "llama")[0], ids) if to == "gguf" else None
        if to == "hf":
            other = transformers.AutoModelForCausalLM.from_pretrained(output, dtype=torch.float32, attn_implementation="eager").eval()
            with torch.no_grad():
                judged = other(torch.tensor(ids)).logits.numpy()
        check(compare(after, judged)[0] < SAME, f"{title}: our logits of the result are {compare(after, judged)[0]:.1e} from the reference's")
        found = ids_by(library, output, lines)
        differ = [line for line, a, b in zip(lines, found, expected) if a != b]
        check(not differ, f"{title}: {len(differ)} of {len(lines)} texts have other ids than with sentencepiece: {differ[:1]!r}")


def models(ours, library, args, seed, folder):
    architecture = random_models.ARCHITECTURES[seed % 5]
    one_model(ours, library, args, seed, architecture, folder)
    if seed % 3 == 0:
        one_llama2c(ours, library, args, seed, folder)


# ---- adapters ----

def pairs_of(path):
    """{layer: (A, B, scale)} of a PEFT directory, by PEFT's definitions."""
    with open(os.path.join(path, "adapter_config.json")) as f:
        config = json.load(f)
    safe = os.path.join(path, "adapter_model.safetensors")
    tensors = {k: v.float().numpy() for k, v in (load_file(safe) if os.path.exists(safe) else torch.load(safe[:-11] + "bin")).items()}
    layers = {}
    for key, a in tensors.items():
        if key.endswith(".lora_A.weight"):
            layer, alpha = key[len("base_model.model."):-len(".lora_A.weight")], config["lora_alpha"]
            for pattern, value in (config["alpha_pattern"] or {}).items():
                if re.match(rf"(.*\.)?({pattern})$", layer):
                    alpha = value
                    break
            rank = a.shape[0]
            layers[layer] = (a, tensors[key.replace("lora_A", "lora_B")], alpha / (math.sqrt(rank) if config["use_rslora"] else rank))
    return layers


def one_rank(layers):
    """Padded with zeros to the largest rank."""
    rank = max(a.shape[0] for a, _, _ in layers.values())
    return rank, {k: (np.pad(a, ((0, rank - a.shape[0]), (0, 0))), np.pad(b, ((0, 0), (0, rank - b.shape[1]))), s) for k, (a, b, s) in layers.items()}


def gguf_names(config, architecture):
    known = "llama" if architecture == "mistral" else architecture
    return known, gguf.get_tensor_name_map(gguf_models.ARCHITECTURES[known], config.get("num_hidden_layers") or config["n_layer"])


def write_gguf_lora(layers, path, config, architecture, alpha):
    known, names = gguf_names(config, architecture)
    writer = gguf.GGUFWriter(path, known)
    writer.add_type(gguf.GGUFType.ADAPTER)
    writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
    writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, alpha)
    for layer, (a, b, scale) in sorted(layers.items()):
        b = b * np.float32(scale * a.shape[0] / alpha if alpha else scale)
        if known == "llama" and re.search(r"\.[qk]_proj$", layer):
            b = gguf_models.neighbouring(b, config["num_attention_heads" if "q_proj" in layer else "num_key_value_heads"])
        name = names.get_name(layer + ".weight", try_suffixes=(".weight",))
        writer.add_tensor(name + ".lora_a", np.ascontiguousarray(a))
        writer.add_tensor(name + ".lora_b", np.ascontiguousarray(b))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def read_gguf_lora(path, model, config, architecture):
    known, names = gguf_names(config, architecture)
    reader = gguf.GGUFReader(path)
    alpha = reader.fields["adapter.lora.alpha"].contents()
    tensors = {t.name: np.array(t.data).reshape([int(n) for n in reversed(t.shape)]).astype(np.float32) for t in reader.tensors}
    layers = {}
    for key in model.state_dict():
        name = names.get_name(key, try_suffixes=(".weight", ".bias"))
        if name + ".lora_a" in tensors:
            a, b = tensors[name + ".lora_a"], tensors[name + ".lora_b"]
            if known == "llama" and re.search(r"\.[qk]_proj\.", key):
                b = from_gguf(b, key, config, known)
            layers[key[:-len(".weight")]] = (a, b, alpha / b.shape[1] if alpha else 1)
    assert len(layers) * 2 == len(tensors), sorted(tensors)
    return layers


def write_mlx(layers, path, scale, blocks):
    os.makedirs(path)
    rank, layers = one_rank(layers)
    tensors = {}
    for layer, (a, b, own) in layers.items():
        tensors[layer + ".lora_a"] = torch.from_numpy(np.ascontiguousarray(a.T))
        tensors[layer + ".lora_b"] = torch.from_numpy(np.ascontiguousarray(b.T * np.float32(own / scale)))
    save_file(tensors, os.path.join(path, "adapters.safetensors"))
    keys = sorted({re.split(r"\.\d+\.", k, maxsplit=1)[1] for k in layers})
    adapter_formats.write_json(os.path.join(path, "adapter_config.json"), dict(
        fine_tune_type="lora", num_layers=blocks, lora_parameters=dict(keys=keys, rank=rank, scale=scale, dropout=0.0)))


def read_mlx(path):
    with open(os.path.join(path, "adapter_config.json")) as f:
        scale = json.load(f)["lora_parameters"]["scale"]
    tensors = load_file(os.path.join(path, "adapters.safetensors"))
    return {k[:-7]: (tensors[k].numpy().T, tensors[k[:-1] + "b"].numpy().T, scale) for k in tensors if k.endswith(".lora_a")}


def write_adapterhub(layers, path, alpha, pickled, width):
    os.makedirs(path)
    rank, layers = one_rank(layers)
    tensors = {}
    for layer, (a, b, own) in layers.items():
        tensors[f"{layer}.loras.style.lora_A"] = torch.from_numpy(np.ascontiguousarray(a))
        tensors[f"{layer}.loras.style.lora_B"] = torch.from_numpy(b * np.float32(own * rank / alpha))
    if pickled:
        torch.save(tensors, os.path.join(path, "pytorch_adapter.bin"))
    else:
        save_file(tensors, os.path.join(path, "adapter.safetensors"))
    adapter_formats.write_json(os.path.join(path, "adapter_config.json"), dict(
        config=dict(architecture="lora", r=rank, alpha=alpha, dropout=0.0, attn_matrices=["q", "v"], selfattn_lora=True, intermediate_lora=False,
                    output_lora=False, composition_mode="add", use_gating=False, init_weights="lora", leave_out=[]),
        hidden_size=width, model_class="LlamaForCausalLM", model_name="base", model_type="llama", name="style", version="adapters.1.2.0"))


def read_adapterhub(path):
    with open(os.path.join(path, "adapter_config.json")) as f:
        config = json.load(f)
    tensors, middle = load_file(os.path.join(path, "adapter.safetensors")), f".loras.{config['name']}.lora_"
    scale = config["config"]["alpha"] / config["config"]["r"]
    return {k.split(middle)[0]: (v.numpy(), tensors[k[:-1] + "B"].numpy(), scale) for k, v in tensors.items() if k.endswith("lora_A")}


def with_layers(model, original, layers, ids):
    """Logits of the base with the deltas added; GPT-2's weights are stored transposed."""
    values = dict(original)
    for layer, (a, b, scale) in layers.items():
        delta = np.float32(scale) * (b.astype(np.float32) @ a)
        values[layer + ".weight"] = values[layer + ".weight"] + (delta.T if ".c_" in layer else delta)
    return logits_of(model, values, ids)


ODD = ["dora", "modules_to_save", "bias", "embedding", "tokens"]


def odd_adapter(kind, seed, architecture, source, path):
    """An adapter with what only PEFT's format holds."""
    torch.manual_seed(seed)
    gpt2 = architecture == "gpt2"
    extra = {"dora": dict(use_dora=True), "modules_to_save": dict(modules_to_save=["ln_f" if gpt2 else "norm"]), "bias": dict(lora_bias=True),
             "embedding": dict(), "tokens": dict(trainable_token_indices=[3, 5])}[kind]
    layer = "c_fc" if gpt2 else "up_proj"
    targets = [layer, "wte" if gpt2 else "embed_tokens"] if kind == "embedding" else [layer]
    model = transformers.AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
    model = peft.get_peft_model(model, peft.LoraConfig(r=4, target_modules=targets, fan_in_fan_out=gpt2, **extra))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.requires_grad:
                weight.add_(torch.randn_like(weight) * 0.05)
    model.save_pretrained(path)
    return model.eval()


def adapters(ours, library, args, seed, folder):
    architecture, rng = random_models.ARCHITECTURES[seed % 5], random.Random(seed)
    source = f"{folder}/source"
    random_models.make(seed, architecture, source, kinds=["default", "linear"], dtype=torch.float32)
    with open(f"{source}/config.json") as f:
        config = json.load(f)
    simple = architecture in ("llama", "mistral") and rng.random() < 0.5
    tuned, options = random_adapter(seed, architecture, source, f"{folder}/peft", ["q_proj", "k_proj", "v_proj", "up_proj", "down_proj"] if simple else None)
    ids = probe(0, config["vocab_size"], config.get("max_position_embeddings") or config["n_positions"])
    with torch.no_grad():
        reference = tuned(torch.tensor(ids)).logits.numpy()
    model = transformers.AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32, attn_implementation="eager").eval()
    original = {k: v.clone().numpy() for k, v in model.state_dict().items()}
    layers, blocks = pairs_of(f"{folder}/peft"), config.get("num_hidden_layers") or config["n_layer"]
    check(compare(with_layers(model, original, layers, ids), reference)[0] < SAME, f"{architecture} {seed}: this script misreads PEFT")
    found = [("peft", f"{folder}/peft")]
    os.makedirs(f"{folder}/peft_bin")
    shutil.copy(f"{folder}/peft/adapter_config.json", f"{folder}/peft_bin")
    torch.save(load_file(f"{folder}/peft/adapter_model.safetensors"), f"{folder}/peft_bin/adapter_model.bin",
               _use_new_zipfile_serialization=rng.random() < 0.5)
    found.append(("peft bin", f"{folder}/peft_bin"))
    write_gguf_lora(layers, f"{folder}/lora.gguf", config, architecture, rng.choice([0.0, 1.0, 16.0]))
    found.append(("gguf-lora", f"{folder}/lora.gguf"))
    write_mlx(layers, f"{folder}/mlx", rng.choice([1.0, 20.0, 0.5]), blocks)
    found.append(("mlx", f"{folder}/mlx"))
    if architecture in ("llama", "mistral"):
        for pickled in (False, True):
            path = f"{folder}/hub{pickled}"
            write_adapterhub(layers, path, rng.choice([1, 8, 16]), pickled, config["hidden_size"])
            found.append((f"adapterhub{' bin' if pickled else ''}", path))
    readers = {"gguf-lora": lambda p: read_gguf_lora(p, model, config, architecture), "mlx": read_mlx, "adapterhub": read_adapterhub, "peft": pairs_of}
    for name, path in found:
        good, said = ours.run("inspect", path, "--json")
        check(good and json_of(said)["files"], f"{architecture} {seed}: inspect {name}: {said[:200]}")
        for to in ("peft", "gguf-lora", "mlx", "adapterhub"):
            title, output = f"{architecture} {seed}: {name} to {to} {options}", f"{folder}/{name}.{to}".replace(" ", "_")
            good, said = ours.run("convert", path, "--base", source, "--to", to, "--output", output, "--json")
            COUNTS["conversions"] += 1
            if not good:
                refused(title, said)
                allowed = to == "adapterhub" and not (architecture in ("llama", "mistral") and all(
                    re.search(r"(q_proj|k_proj|v_proj|up_proj|down_proj)$", k) for k in layers))
                check(allowed or "attention_bias" in said, f"{title}: refused: {said}")
                continue
            before, after = ours.logits(source, ids, path), ours.logits(source, ids, output)
            check(compare(before, reference)[0] < SAME, f"{title}: our logits with the input are {compare(before, reference)[0]:.1e} from PEFT's")
            check(compare(after, reference)[0] < SAME, f"{title}: our logits with the result are {compare(after, reference)[0]:.1e} from PEFT's")
            if to == "peft":
                base = transformers.AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32, attn_implementation="eager")
                with torch.no_grad():
                    judged = peft.PeftModel.from_pretrained(base, output).eval()(torch.tensor(ids)).logits.numpy()
            else:
                judged = with_layers(model, original, readers[to](output), ids)
            check(compare(judged, reference)[0] < SAME, f"{title}: read by its own definition, {compare(judged, reference)[0]:.1e} from PEFT's logits")
            check_printed(title, said, before, after)
    kind = ODD[seed % len(ODD)]
    path = f"{folder}/odd"
    tuned = odd_adapter(kind, seed, architecture, source, path)
    with torch.no_grad():
        reference = tuned(torch.tensor(ids)).logits.numpy()
    for to in ("peft", "gguf-lora", "mlx", "adapterhub"):
        title, output = f"{architecture} {seed}: {kind} to {to}", f"{folder}/odd.{to}"
        good, said = ours.run("convert", path, "--base", source, "--to", to, "--output", output, "--json")
        COUNTS["conversions"] += 1
        if to != "peft":
            check(not good and not os.path.exists(output), f"{title}: expected a refusal, found {said}")
            refused(title, said)
        elif check(good, f"{title}: {said}"):
            base = transformers.AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32, attn_implementation="eager")
            with torch.no_grad():
                judged = peft.PeftModel.from_pretrained(base, output).eval()(torch.tensor(ids)).logits.numpy()
            check(compare(judged, reference)[0] < SAME, f"{title}: PEFT's logits with the result are {compare(judged, reference)[0]:.1e} off")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", choices=["models", "adapters"])
    parser.add_argument("--build", required=True)
    parser.add_argument("--seeds", type=int, nargs=2, default=[0, 5])
    parser.add_argument("--pairs", type=int, default=12, help="conversions of a model of a seed, drawn from all")
    args = parser.parse_args()
    torch.set_num_threads(1)
    transformers.utils.logging.disable_progress_bar()
    ours, library = Ours(args.build), variants.Library(os.path.join(args.build, "libcambium.so"))
    for seed in range(*args.seeds):
        with tempfile.TemporaryDirectory() as folder:
            globals()[args.run](ours, library, args, seed, folder)
        print(f"seed {seed}: {dict(COUNTS)}, {len(FAILURES)} failures", flush=True)
    sys.exit(bool(FAILURES))


if __name__ == "__main__":
    main()
