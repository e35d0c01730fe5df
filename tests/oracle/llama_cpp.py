#!/usr/bin/env python3
"""llama.cpp as a judge of our GGUF files, models and adapters.

    pip install llama-cpp-py-sync                      a wheel with libllama and its C interface
    python llama_cpp.py models  --build ../../build --seeds 0 20      logits of random models that we exported, in F32
    python llama_cpp.py types   --build ../../build --seeds 0 5       every file type: ours and llama.cpp's quantiser, tensor by tensor
    python llama_cpp.py adapters --build ../../build --seeds 0 10     our LoRA GGUF files, applied there
    python llama_cpp.py tokenizers --build ../../build --texts 2000   ids of random texts
    python llama_cpp.py splits  --build ../../build --seeds 0 3       files in parts

Exit code 1 when something differs by more than it may.
"""
import argparse
import json
import os
import random
import re
import shutil
import sys
import tempfile
import unicodedata

import gguf
import numpy as np
import torch
import transformers
from llama_cpp_py_sync._cffi_bindings import get_ffi, get_lib

import random_models
import tokenizer_files
import tokenizer_variants as variants
from ours import Ours, compare, random_adapter, some_ids, transformers_logits
from tokenizer_fuzz import piece

HERE = os.path.dirname(os.path.abspath(__file__))
FFI, LLAMA = get_ffi(), get_lib()
FAILURES = []
ADDED = ["<s>", "</s>", "<unk>", "<|endoftext|>", "<|im_start|>", "<tool>"]


def check(good, text):
    print(("ok   " if good else "FAIL ") + text, flush=True)
    if not good:
        FAILURES.append(text)


@FFI.callback("void(enum ggml_log_level, const char *, void *)")
def log(level, text, _):
    if level >= 4 or os.environ.get("LLAMA_LOG"):  # errors
        sys.stderr.write(FFI.string(text).decode(errors="replace"))


# ---- llama.cpp -------------------------------------------------------------------------------------------------------------------


class Judge:
    """A model in llama.cpp, computing in f32 as far as it does."""

    def __init__(self, path, vocabulary_only=False):
        parameters = LLAMA.llama_model_default_params()
        parameters.vocab_only = vocabulary_only
        parameters.n_gpu_layers = 0
        parameters.use_extra_bufts = False
        self.model = LLAMA.llama_model_load_from_file(path.encode(), parameters)
        if self.model == FFI.NULL:
            raise RuntimeError(f"llama.cpp cannot load {path}")
        self.vocabulary = LLAMA.llama_model_get_vocab(self.model)

    def close(self):
        LLAMA.llama_model_free(self.model)

    def logits(self, ids, adapter=None, scale=1.0):
        parameters = LLAMA.llama_context_default_params()
        parameters.n_ctx = parameters.n_batch = parameters.n_ubatch = max(32, len(ids))
        parameters.n_threads = parameters.n_threads_batch = 1
        parameters.type_k = parameters.type_v = 0  # F32
        parameters.flash_attn_type = 0             # off
        context = LLAMA.llama_init_from_model(self.model, parameters)
        if adapter is not None:
            LLAMA.llama_set_adapters_lora(context, FFI.new("struct llama_adapter_lora *[]", [adapter]), 1, FFI.new("float[]", [scale]))
        batch = LLAMA.llama_batch_init(len(ids), 0, 1)
        batch.n_tokens = len(ids)
        for i, token in enumerate(ids):
            batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.logits[i] = int(token), i, 1, 1
            batch.seq_id[i][0] = 0
        assert LLAMA.llama_decode(context, batch) == 0
        width = LLAMA.llama_vocab_n_tokens(self.vocabulary)
        out = np.stack([np.frombuffer(FFI.buffer(LLAMA.llama_get_logits_ith(context, i), 4 * width), np.float32).copy()
                        for i in range(len(ids))])
        LLAMA.llama_batch_free(batch)
        LLAMA.llama_free(context)
        return out

    def adapter(self, path):
        found = LLAMA.llama_adapter_lora_init(self.model, path.encode())
        if found == FFI.NULL:
            raise RuntimeError(f"llama.cpp cannot load {path}")
        return found

    def encode(self, text, specials=True):
        raw = text.encode()
        room = FFI.new("llama_token[]", 4 * len(raw) + 16)
        count = LLAMA.llama_tokenize(self.vocabulary, raw, len(raw), room, len(room), specials, True)
        assert count >= 0
        return list(room[0:count])


def llama_quantize(source, output, file_type):
    parameters = FFI.new("llama_model_quantize_params *", LLAMA.llama_model_quantize_default_params())
    parameters.ftype = file_type
    parameters.nthread = 1
    parameters.allow_requantize = True
    return LLAMA.llama_model_quantize(source.encode(), output.encode(), parameters) == 0


# ---- runs ------------------------------------------------------------------------------------------------------------------------


def models(ours, args, folder):
    for seed in range(*args.seeds):
        for architecture in random_models.ARCHITECTURES:
            path, output = f"{folder}/{architecture}{seed}", f"{folder}/{architecture}{seed}.gguf"
            kinds = ["default", "linear", "llama3", "yarn", "longrope"]
            config = random_models.make(seed, architecture, path, kinds=kinds)
            rope = getattr(config, "rope_parameters", {}) or {}
            name = f"{architecture} {seed} {rope.get('rope_type', '')} {'tied' if config.tie_word_embeddings else ''}"
            good, said = ours.run("convert", path, "--to", "gguf", "--dtype", "f32", "--output", output)
            if not good:
                # llama.cpp has no tensors for these there
                refused = "qwen" in architecture and ("rope_type: found" in said or "attention_bias: found true" in said)
                check(refused, f"{name}: {said}")
                continue
            ids = some_ids(seed)
            try:
                judge = Judge(output)
            except RuntimeError as error:
                check(False, f"{name}: {error}")
                continue
            mine, theirs, reference = ours.logits(output, ids), judge.logits(ids), transformers_logits(path, ids)
            judge.close()
            (a, same), (b, _) = compare(mine, theirs), compare(mine, reference)
            most = 2e-3 if architecture == "gpt2" else 2e-5  # llama.cpp's GELU is a table of f16
            check(a < most and b < 2e-5 and same > 0.97, f"{name}: llama.cpp {a:.1e} (same token {same:.3f}), transformers {b:.1e}")


FILE_TYPES = {"q8_0": 7, "q6_k": 18, "q5_k_m": 17, "q5_k_s": 16, "q5_1": 9, "q5_0": 8, "q4_k_m": 15, "q4_k_s": 14, "q4_1": 3, "q4_0": 2,
              "iq4_nl": 25, "iq4_xs": 30, "q3_k_l": 13, "q3_k_m": 12, "q3_k_s": 11, "q2_k": 10, "f16": 1, "bf16": 32}


def same_tensors(a, b):
    """What differs between two files: names, types, bytes."""
    a, b = ({t.name: t for t in gguf.GGUFReader(path).tensors} for path in (a, b))
    if set(a) != set(b):
        return f"names {sorted(set(a) ^ set(b))[:4]}"
    for name in a:
        if a[name].tensor_type != b[name].tensor_type:
            return f"{name} is {a[name].tensor_type.name}, and {b[name].tensor_type.name} there"
        if not np.array_equal(a[name].data, b[name].data):
            x, y = (gguf.quants.dequantize(t[name].data, t[name].tensor_type) for t in (a, b))
            return f"{name} ({a[name].tensor_type.name}): {np.mean(x != y):.1e} of its numbers"
    return None


def types(ours, args, folder):
    for seed in range(*args.seeds):
        architecture = random_models.ARCHITECTURES[seed % 5]
        wide = seed % 3 != 2
        path, plain = f"{folder}/{seed}", f"{folder}/{seed}.gguf"
        random_models.make(seed, architecture, path, wide=wide, kinds=["default"], dtype=torch.float32)
        good, said = ours.run("convert", path, "--to", "gguf", "--dtype", "f32", "--output", plain)
        if not good:
            check(False, f"{architecture} {seed}: {said}")
            continue
        ids = some_ids(seed)
        for name, number in FILE_TYPES.items():
            mine, theirs = f"{folder}/ours.gguf", f"{folder}/theirs.gguf"
            for old in (mine, theirs):
                if os.path.exists(old):
                    os.remove(old)
            good, said = ours.run("convert", plain, "--to", "gguf", "--dtype", name, "--output", mine, "--max-kl", "100")
            assert good and llama_quantize(plain, theirs, number), said
            difference = same_tensors(mine, theirs)
            # llama.cpp rounds what it multiplies quantised matrices with to 8 bits: its logits are those of the file as it dequantises it
            read = f"{folder}/read.gguf"
            assert llama_quantize(theirs, read, 0)
            judge = Judge(read)
            largest, same = compare(ours.logits(theirs, ids), judge.logits(ids))
            judge.close()
            check(difference is None and largest < (2e-3 if architecture == "gpt2" else 2e-5) and same > 0.97,
                  f"{architecture} {seed}{' wide' if wide else ''} {name}: {difference or 'same bytes'}; "
                  f"logits of llama.cpp's file {largest:.1e} (same token {same:.3f})")


def adapters(ours, args, folder):
    for seed in range(*args.seeds):
        for architecture in random_models.ARCHITECTURES:
            path = f"{folder}/{architecture}{seed}"
            random_models.make(seed, architecture, path, kinds=["default", "linear"], dtype=torch.float32)
            model, options = random_adapter(seed, architecture, path, path + ".peft")
            good, said = ours.run("convert", path, "--to", "gguf", "--output", path + ".gguf")
            good2, said2 = ours.run("convert", path + ".peft", "--base", path, "--to", "gguf-lora", "--output", path + ".lora.gguf")
            if not (good and good2):
                check("attention_bias: found true" in said, f"{architecture} {seed}: {said} {said2}")
                continue
            ids = some_ids(seed)
            with torch.no_grad():
                reference = model(torch.tensor(ids)[None]).logits[0].numpy()
            judge = Judge(path + ".gguf")
            plain, theirs = judge.logits(ids), judge.logits(ids, judge.adapter(path + ".lora.gguf"))
            judge.close()
            mine = ours.logits(path + ".gguf", ids, path + ".lora.gguf")
            (a, same), (b, _), (moved, _) = compare(mine, theirs), compare(mine, reference), compare(plain, theirs)
            # what llama.cpp merges into its own file: ours once more
            good, said = ours.run("merge", path + ".gguf", "--adapter", path + ".lora.gguf", "--output", path + ".merged.gguf")
            judge = Judge(path + ".merged.gguf") if good else None
            merged = compare(judge.logits(ids), theirs)[0] if judge else 1
            most = 2e-3 if architecture == "gpt2" else 3e-5
            check(a < most and b < 3e-5 and merged < most and moved > 10 * most,
                  f"{architecture} {seed} {options}: llama.cpp {a:.1e}, PEFT {b:.1e}, merged {merged:.1e}; moved {moved:.2f}")


def splits(ours, args, folder):
    """What the gguf package splits, read by both."""
    for seed in range(*args.seeds):
        path, whole = f"{folder}/{seed}", f"{folder}/{seed}.gguf"
        random_models.make(seed, "llama", path, kinds=["default"])
        assert ours.run("convert", path, "--to", "gguf", "--dtype", "f32", "--output", whole)[0]
        rewrite(whole, f"{folder}/{seed}s.gguf", split=7)
        parts = sorted(f for f in os.listdir(folder) if f.startswith(f"{seed}s-"))
        first, ids = f"{folder}/{parts[0]}", some_ids(seed)
        judge = Judge(first)
        largest, _ = compare(ours.logits(first, ids), judge.logits(ids))
        judge.close()
        good, said = ours.run("convert", first, "--to", "gguf", "--output", f"{folder}/{seed}j.gguf")
        difference = same_tensors(whole, f"{folder}/{seed}j.gguf") if good else said
        check(largest < 2e-5 and not difference, f"{seed}: {len(parts)} parts, llama.cpp {largest:.1e}, joined {difference or 'the same'}")


def make_types(ours, args, folder):
    """reference/gguf/types.json: [columns, type of block 0, 1, ...] of each kind of tensor, by llama.cpp's quantiser."""
    cases = []
    for number, (blocks, heads, kv, tied) in enumerate([(5, 4, 4, True), (33, 4, 1, False), (17, 2, 1, True)]):
        path, plain = f"{folder}/{number}", f"{folder}/{number}.gguf"
        bare_model(path, {"tokenizer.json": f"{random_models.TOKENIZERS}/gpt2.json"}, 1024, hidden_size=256,
                   intermediate_size=256 if number < 2 else 288, num_hidden_layers=blocks, num_attention_heads=heads, num_key_value_heads=kv,
                   head_dim=64 if number < 2 else 20, tie_word_embeddings=tied)
        assert ours.run("convert", path, "--to", "gguf", "--dtype", "f32", "--output", plain, "--no-verify")[0]
        for name, file_type in FILE_TYPES.items():
            assert llama_quantize(plain, f"{folder}/theirs.gguf", file_type)
            found = {}
            for tensor in gguf.GGUFReader(f"{folder}/theirs.gguf").tensors:
                if len(tensor.shape) == 2:
                    kind = re.sub(r"^blk\.\d+\.", "blk.", tensor.name).removesuffix(".weight")
                    block = int(tensor.name.split(".")[1]) if kind != tensor.name.removesuffix(".weight") else 0
                    found.setdefault(kind, {})[block] = (int(tensor.shape[0]), tensor.tensor_type.name)
            cases.append(dict(type=name, blocks=blocks, heads=heads, kv_heads=kv, tied=tied,
                              tensors={k: [v[0][0]] + [v[b][1] for b in sorted(v)] for k, v in sorted(found.items())}))
    with open(os.path.join(HERE, "..", "reference", "gguf", "types.json"), "w") as f:
        f.write("[" + ",\n".join(json.dumps(case, separators=(",", ":")) for case in cases) + "]\n")


def tokenizer_directories():
    """Names and files: those of the reference, and of a real SentencePiece model where the data are there."""
    reference = random_models.TOKENIZERS
    for name in ("gpt2", "llama2", "llama3", "qwen2", "digits", "metaspace", "added", "roberta"):
        yield name, {"tokenizer.json": f"{reference}/{name}.json"}
    for name in sorted(os.listdir(f"{reference}/files")):
        folder = f"{reference}/files/{name}"
        yield f"files/{name}", {f: f"{folder}/{f}" for f in os.listdir(folder) if f != "expected.jsonl"}
    fixture = os.path.join(os.environ.get("CAMBIUM_DATA", ""), "loader-fixtures/tokenizers/llama/tokenizer.model")
    if os.path.exists(fixture):
        yield "llama (real)", {"tokenizer.model": fixture}


def bare_model(path, files, vocabulary, **settings):
    """A Llama of nothing in particular around a tokenizer."""
    os.makedirs(path)
    for name, source in files.items():
        shutil.copy(source, os.path.join(path, name))
    if "tokenizer.model" in files and "tokenizer_config.json" not in files:
        with open(os.path.join(path, "tokenizer_config.json"), "w") as f:
            json.dump({"tokenizer_class": "LlamaTokenizer", "add_bos_token": True}, f)
    config = transformers.LlamaConfig(**{**dict(vocab_size=vocabulary, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1,
                                                num_key_value_heads=1, max_position_embeddings=32, tie_word_embeddings=True), **settings})
    transformers.LlamaForCausalLM(config).save_pretrained(path)


def tokenizers(ours, args, folder):
    library = variants.Library(os.path.join(args.build, "libcambium.so"))
    for number, (name, files) in enumerate(tokenizer_directories()):
        path, output = f"{folder}/{number}", f"{folder}/{number}.gguf"
        bare_model(path, files, 40000)
        good, said = ours.run("convert", path, "--to", "gguf", "--output", output, "--no-verify")
        if not good:
            print(f"     {name}: refused: {said.split(': ', 2)[-1]}")
            continue
        here, there, judge = tokenizer_files.OurFile(library, path), tokenizer_files.OurFile(library, output), Judge(output, True)
        rng, normal, known, beyond, shown = random.Random(number), 0, 0, 0, 0
        composed = "NFC" in said
        for _ in range(args.texts):
            text = "".join(piece(rng, ADDED) for _ in range(rng.randint(1, 10))).replace("\0", "")
            case = {"text": text, "add_special_tokens": True}
            a, b, c = here.encode(case)["ids"], judge.encode(unicodedata.normalize("NFC", text) if composed else text), there.encode(case)["ids"]
            deviates = "puts a blank" in said and (text[:1] in " ▁" or any(token in text for token in ADDED))
            normal += a != c and not deviates
            known += a != c and deviates
            beyond += b != c
            if ((a != c and not deviates) or b != c) and shown < args.show:
                shown += 1
                print(f"     {text!r}\n       directory {a}\n       GGUF      {c}\n       llama.cpp {b}")
        judge.close()
        check(not normal and not beyond, f"{name}: {args.texts} texts: {beyond} of llama.cpp's ids differ from ours of the file"
              + (", normalised to NFC first," if composed else "") + f" and {normal} of the directory's"
              + (f", besides {known} that begin with a blank or hold an added token" if known else ""))


def rewrite(source, output, split=0, **changes):
    """A GGUF file with other strings in its metadata, or in parts of so many tensors."""
    reader = gguf.GGUFReader(source)
    writer = gguf.GGUFWriter(output, reader.fields["general.architecture"].contents(), split_max_tensors=split)
    for key, field in reader.fields.items():
        if not key.startswith("GGUF.") and key != "general.architecture":
            array = field.types[0] == gguf.GGUFValueType.ARRAY
            value = changes.get(key.split(".")[-1], field.contents())
            writer.add_key_value(key, value, field.types[0], field.types[-1] if array else None)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def pretokenizers(ours, args, folder):
    """Every name of a pre-tokenizer that we know, around one vocabulary."""
    library = variants.Library(os.path.join(args.build, "libcambium.so"))
    bare_model(f"{folder}/model", {"tokenizer.json": f"{random_models.TOKENIZERS}/gpt2.json"}, 40000)
    assert ours.run("convert", f"{folder}/model", "--to", "gguf", "--output", f"{folder}/model.gguf", "--no-verify")[0]
    with open(os.path.join(HERE, "..", "..", "src", "formats", "gguf_pre.c")) as f:
        groups = [re.findall(r'"(.*?)"', line) for line in re.findall(r"\.names = \{(.*?)\}", f.read(), re.S)]
    for name, group in ((name, group) for group in groups for name in group):
        rewrite(f"{folder}/model.gguf", f"{folder}/other.gguf", pre=name)
        here = tokenizer_files.OurFile(library, f"{folder}/other.gguf")
        try:
            judge = Judge(f"{folder}/other.gguf", True)
        except RuntimeError:
            print(f"     {name}: llama.cpp does not know it")
            continue
        rng, wrong = random.Random(name), 0
        for _ in range(args.texts):
            text = "".join(piece(rng, ADDED) for _ in range(rng.randint(1, 10))).replace("\0", "")
            if group[0] == "qwen2":  # our file says NFC, llama.cpp leaves it out
                text = unicodedata.normalize("NFC", text)
            if group[0] in ("tekken", "gpt-4o"):  # letters beyond ASCII have no case there
                text = "".join(c for c in text if c.isascii() or not c.isalpha())
            a, b = here.encode({"text": text, "add_special_tokens": True})["ids"], judge.encode(text)
            wrong += a != b
            if a != b and wrong <= args.show:
                print(f"     {text!r}\n       ours      {a}\n       llama.cpp {b}")
        judge.close()
        check(not wrong, f"{name}: {args.texts} texts, {wrong} differ")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", choices=["models", "types", "adapters", "tokenizers", "pretokenizers", "splits", "make_types"])
    parser.add_argument("--build", required=True)
    parser.add_argument("--seeds", type=int, nargs=2, default=[0, 3])
    parser.add_argument("--texts", type=int, default=2000)
    parser.add_argument("--show", type=int, default=0, help="so many texts that differ")
    args = parser.parse_args()
    LLAMA.llama_log_set(log, FFI.NULL)
    with tempfile.TemporaryDirectory() as folder:
        globals()[args.run](Ours(args.build), args, folder)
    print(json.dumps(dict(run=args.run, failures=len(FAILURES))))
    sys.exit(bool(FAILURES))


if __name__ == "__main__":
    main()
