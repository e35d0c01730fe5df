#!/usr/bin/env python3
"""Tokenizers of other files than tokenizer.json: SentencePiece models, vocab.txt, vocab.json with merges.txt.

    --make                          writes small ones and what transformers makes of random texts with them:
                                    ../reference/tokenizers/files/NAME/ and NAME.jsonl
    --compare LIBRARY               compares libcambium.so with transformers (and for models without a class, with sentencepiece)
                                    on --texts random texts each, seeded with --seed; exit code 1 when anything differs
    --data DIR                      also the models of DIR/loader-fixtures/tokenizers

Texts are drawn by tokenizer_variants.py. With sentencepiece itself only ids are compared, of texts without special tokens: those it
takes for text. What differs there differs between transformers and sentencepiece, and we go with transformers: U+2581 at the end of a
text, the text of a byte token ("<0x41>"), and ways through a word that are equally likely but for the rounding of sentencepiece's
32-bit sums. Such differences are counted, but do not fail.
"""
import argparse
import ctypes
import io
import json
import os
import random
import shutil
import sys
import tempfile

os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["TRANSFORMERS_VERBOSITY"] = "error"

import sentencepiece  # noqa: E402
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers  # noqa: E402

import tokenizer_variants as variants  # noqa: E402

HERE = os.path.dirname(os.path.abspath(__file__))
REFERENCE = os.path.join(HERE, "..", "reference", "tokenizers", "files")
RULES = ["41\t61", "65 301\tE9", "FB01\t66 69", "200B\t", "9\t20", "A\t20", "D\t20", "A0\t20", "3000\t20", "2460\t31", "FF11\t31"]


def corpus(seed=5):
    rng = random.Random(seed)
    lines = [" ".join(rng.choices(variants.WORDS, k=rng.randint(1, 20))) for _ in range(400)]
    return lines + [variants.text_of(rng).replace("\0", "") for _ in range(60)]


def spm(path, **options):
    with tempfile.NamedTemporaryFile("w", suffix=".tsv") as rules:
        rules.write("\n".join(RULES) + "\n")
        rules.flush()
        if options.pop("rules", False):
            options["normalization_rule_tsv"] = rules.name
        else:
            options.setdefault("normalization_rule_name", "identity")
        out = io.BytesIO()
        options.setdefault("character_coverage", 0.98)
        sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter(corpus()), model_writer=out, vocab_size=options.pop("size", 260),
                                                 hard_vocab_limit=False, minloglevel=2, num_threads=1, **options)
    with open(path, "wb") as f:
        f.write(out.getvalue())


def config(directory, **fields):
    with open(os.path.join(directory, "tokenizer_config.json"), "w") as f:
        json.dump(fields, f)


def spm_case(name, tokenizer_class, model, **fields):
    def make(directory):
        spm(os.path.join(directory, name), **model)
        if tokenizer_class or fields:
            config(directory, **({"tokenizer_class": tokenizer_class} if tokenizer_class else {}), **fields)
    return make


def wordpiece(directory, **fields):
    t = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    t.normalizer, t.pre_tokenizer = normalizers.BertNormalizer(lowercase=True), pre_tokenizers.BertPreTokenizer()
    t.train_from_iterator(corpus(), trainers.WordPieceTrainer(vocab_size=300, show_progress=False, limit_alphabet=60,
                                                              special_tokens=["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]))
    vocab = t.get_vocab()
    with open(os.path.join(directory, "vocab.txt"), "w") as f:
        f.write("\n".join(sorted(vocab, key=vocab.get)) + "\n")
    config(directory, tokenizer_class="BertTokenizer", **fields)


def bpe(directory, tokenizer_class, specials, suffix="", **fields):
    options = {"end_of_word_suffix": suffix} if suffix else {}
    t = Tokenizer(models.BPE(**options))
    t.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    t.train_from_iterator([line.lower() for line in corpus()], trainers.BpeTrainer(
        vocab_size=560 if suffix else 380, show_progress=False, special_tokens=specials,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), **options))
    data = json.loads(t.to_str())["model"]
    vocab = data["vocab"]
    if suffix:
        for c in sorted(pre_tokenizers.ByteLevel.alphabet()):
            vocab.setdefault(c + suffix, len(vocab))
    with open(os.path.join(directory, "vocab.json"), "w") as f:
        json.dump(vocab, f, ensure_ascii=False)
    with open(os.path.join(directory, "merges.txt"), "w") as f:
        f.write("#version: 0.2\n" + "\n".join(" ".join(merge) for merge in data["merges"]) + "\n")
    config(directory, tokenizer_class=tokenizer_class, **fields)


UNIGRAM, BPE = {"model_type": "unigram", "rules": True}, {"model_type": "bpe", "byte_fallback": True, "size": 520}
LLAMA = {**BPE, "remove_extra_whitespaces": False}
CASES = {
    "plain_unigram": spm_case("tokenizer.model", None, UNIGRAM),
    "plain_unigram_bytes": spm_case("tokenizer.model", None, {**UNIGRAM, "byte_fallback": True, "size": 520, "add_dummy_prefix": False}),
    "plain_bpe": spm_case("tokenizer.model", None, {"model_type": "bpe", "rules": True, "user_defined_symbols": ["<sep>", "God", "a.b"]}),
    "plain_bpe_bytes": spm_case("tokenizer.model", None, {**LLAMA, "control_symbols": ["<ctl>"]}),
    "plain_char": spm_case("tokenizer.model", None, {"model_type": "char", "rules": True}),
    "llama": spm_case("tokenizer.model", "LlamaTokenizer", LLAMA, add_bos_token=True, add_eos_token=False, legacy=False),
    "llama_legacy": spm_case("tokenizer.model", "LlamaTokenizerFast", {**LLAMA, "user_defined_symbols": ["<u>"]}, legacy=True,
                             add_bos_token=True, add_eos_token=True, pad_token="<pad>",
                             bos_token={"__type": "AddedToken", "content": "<s>", "lstrip": False, "rstrip": True, "normalized": False, "single_word": False}),
    "gemma": spm_case("tokenizer.model", "GemmaTokenizer", {**LLAMA, "pad_id": 0, "eos_id": 1, "bos_id": 2, "unk_id": 3, "pad_piece": "<pad>",
                                                           "eos_piece": "<eos>", "bos_piece": "<bos>", "add_dummy_prefix": False},
                      add_bos_token=True),
    "t5": spm_case("spiece.model", "T5Tokenizer", {**UNIGRAM, "pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1}, extra_ids=4),
    "xlm_roberta": spm_case("sentencepiece.bpe.model", "XLMRobertaTokenizer", UNIGRAM,
                            mask_token={"__type": "AddedToken", "content": "<mask>", "lstrip": True, "rstrip": False, "normalized": False, "single_word": False}),
    "bert": lambda d: wordpiece(d),
    "bert_cased": lambda d: wordpiece(d, do_lower_case=False, tokenize_chinese_chars=False),
    "gpt2": lambda d: bpe(d, "GPT2Tokenizer", ["<|endoftext|>"]),
    "roberta": lambda d: bpe(d, "RobertaTokenizer", ["<s>", "<pad>", "</s>", "<unk>", "<mask>"], mask_token={
        "__type": "AddedToken", "content": "<mask>", "lstrip": True, "rstrip": False, "normalized": False, "single_word": False}),
    "clip": lambda d: bpe(d, "CLIPTokenizer", ["<|startoftext|>", "<|endoftext|>"], "</w>"),
    "qwen2": lambda d: bpe(d, "Qwen2Tokenizer", ["<|endoftext|>"], added_tokens_decoder={
        "400": {"content": "<|im_start|>", "lstrip": False, "rstrip": False, "normalized": False, "single_word": False, "special": True},
        "401": {"content": "<tool>", "lstrip": False, "rstrip": False, "normalized": False, "single_word": False, "special": False}}),
}
FIXTURES = {"fixture_llama": ("llama/tokenizer.model", "tokenizer.model", {"tokenizer_class": "LlamaTokenizer", "add_bos_token": True}),
            "fixture_plain_llama": ("llama/tokenizer.model", "tokenizer.model", None),
            "fixture_plain_unigram": ("sentencepiece/test_sentencepiece.model", "tokenizer.model", None),
            "fixture_plain_bpe": ("sentencepiece/test_sentencepiece_bpe.model", "tokenizer.model", None),
            "fixture_t5": ("sentencepiece/test_sentencepiece.model", "spiece.model", {"tokenizer_class": "T5Tokenizer"}),
            "fixture_xlm_roberta": ("sentencepiece/test_sentencepiece.model", "sentencepiece.bpe.model",
                                    {"tokenizer_class": "XLMRobertaTokenizer"})}


def reference(directory, plain):
    """transformers' tokenizer (the tokenizers package's, as it sets it up)."""
    from transformers import AutoTokenizer
    from transformers.tokenization_utils_tokenizers import TokenizersBackend
    loader = TokenizersBackend if plain else AutoTokenizer
    tokenizer = loader.from_pretrained(directory)._tokenizer
    if tokenizer.model.__class__.__name__ == "Unigram":  # scores change when they are written and read again
        tokenizer = Tokenizer.from_str(tokenizer.to_str())
    if tokenizer.model.__class__.__name__ == "BPE" and tokenizer.model.end_of_word_suffix:  # what transformers does to decoded text of CLIP
        tokenizer.decoder = decoders.Sequence([tokenizer.decoder, decoders.Replace("</w>", " "), decoders.Replace(Regex(r"\A[\s\x1c-\x1f]+|[\s\x1c-\x1f]+\z"), "")])
    return tokenizer


class OurFile(variants.OurTokenizer):
    def __init__(self, library, directory):
        library.c.cb_tokenizer_load.restype = ctypes.c_void_p
        self.library, self.encoding, self.parts = library, variants.Encoding(want_spans=True), variants.Encodings(want_spans=True)
        handle = library.c.cb_tokenizer_load(directory.encode())
        library.check(handle)
        self.handle = ctypes.c_void_p(handle)


def texts_for(rng, theirs, vocab):
    added = [token.content for _, token in sorted(theirs.get_added_tokens_decoder().items())][:40]
    while True:
        yield {"text": variants.text_of(rng, added, vocab), "add_special_tokens": variants.flag(rng, 0.7),
               **({"pair": variants.text_of(rng, added, vocab, 6)} if variants.flag(rng, 0.1) else {})}


def sentencepiece_differs(processor, ours, theirs, case):
    if "pair" in case or any(t.content in case["text"] for t in theirs.get_added_tokens_decoder().values()) or "\0" in case["text"]:
        return None
    expected = processor.encode(case["text"])
    found = ours.encode({"text": case["text"], "add_special_tokens": False})["ids"]
    return None if found == expected else ("sentencepiece", found, expected)


def compare(library, name, directory, plain, count, seed):
    theirs = reference(directory, plain)
    ours, error = variants.attempt(OurFile, library, directory)
    if error:
        print(name, error)
        return 1
    processor = sentencepiece.SentencePieceProcessor(model_file=os.path.join(directory, "tokenizer.model")) if plain else None
    rng, wrong, checked, spm_checked, spm_wrong = random.Random(seed), 0, 0, 0, 0
    vocab = [token.replace("▁", " ") for token in sorted(theirs.get_vocab())]
    cases = texts_for(rng, theirs, vocab)
    while checked < count:
        case = variants.answer(theirs, next(cases))
        if not case:
            continue
        checked += 1
        found, error = variants.attempt(variants.differences, ours, case, {"model": {}})
        if not (found or error) and processor:
            spm_checked += 1
            spm_wrong += sentencepiece_differs(processor, ours, theirs, case) is not None
        if found or error:
            wrong += 1
            if wrong <= 3:
                field = found and found[0]
                print(f"{name}: {found or error!r}, expected {case.get(field)!r} of {case['text']!r} {case.get('pair', '')!r}")
    ours.close()
    print(f"{name}: {checked} texts" + f", {wrong} different"
          + (f"; ids of {spm_checked} with sentencepiece, {spm_wrong} different" if processor else ""), flush=True)
    return wrong


def make(only):
    for name, maker in CASES.items():
        if only and name not in only:
            continue
        directory = os.path.join(REFERENCE, name)
        shutil.rmtree(directory, ignore_errors=True)
        os.makedirs(directory)
        maker(directory)
        theirs = reference(directory, name.startswith("plain"))
        rng = random.Random(3)
        cases = texts_for(rng, theirs, [token.replace("▁", " ") for token in sorted(theirs.get_vocab())])
        with open(os.path.join(directory, "expected.jsonl"), "w") as f:
            for _ in range(25):
                case = variants.answer(theirs, next(cases))
                if case:
                    f.write(json.dumps(case, ensure_ascii=False, separators=(",", ":")) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--make", action="store_true")
    parser.add_argument("--compare", metavar="LIBRARY")
    parser.add_argument("--texts", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="*", help="names")
    parser.add_argument("--data", default=os.environ.get("CAMBIUM_DATA"))
    args = parser.parse_args()
    if args.make:
        make(args.only)
    if args.compare:
        library, wrong = variants.Library(args.compare), 0
        for name, maker in CASES.items():
            if args.only and name not in args.only:
                continue
            with tempfile.TemporaryDirectory() as directory:
                maker(directory)
                wrong += compare(library, name, directory, name.startswith("plain"), args.texts, args.seed)
        for name, (path, file, fields) in FIXTURES.items() if args.data else ():
            if args.only and name not in args.only:
                continue
            with tempfile.TemporaryDirectory() as directory:
                shutil.copyfile(os.path.join(args.data, "loader-fixtures/tokenizers", path), os.path.join(directory, file))
                if fields:
                    config(directory, **fields)
                wrong += compare(library, name, directory, fields is None, args.texts, args.seed)
        sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
