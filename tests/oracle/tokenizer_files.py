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
import array
import ctypes
import gzip
import io
import itertools
import json
import os
import random
import shutil
import struct
import sys
import tempfile

os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["TRANSFORMERS_VERBOSITY"] = "error"

import gguf  # noqa: E402
import sentencepiece  # noqa: E402
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers  # noqa: E402

import tokenizer_fuzz  # noqa: E402
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


BERT_TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def wordpiece(directory, tokenizer_class="BertTokenizer", specials=BERT_TOKENS, **fields):
    t = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    t.normalizer, t.pre_tokenizer = normalizers.BertNormalizer(lowercase=True), pre_tokenizers.BertPreTokenizer()
    t.train_from_iterator(corpus(), trainers.WordPieceTrainer(vocab_size=300, show_progress=False, limit_alphabet=60,
                                                              special_tokens=specials))
    vocab = t.get_vocab()
    with open(os.path.join(directory, "vocab.txt"), "w") as f:
        f.write("\n".join(sorted(vocab, key=vocab.get)) + "\n")
    config(directory, tokenizer_class=tokenizer_class, **fields)


def bpe_files(directory, vocab, merges):
    with open(os.path.join(directory, "vocab.json"), "w") as f:
        json.dump(vocab, f, ensure_ascii=False)
    with open(os.path.join(directory, "merges.txt"), "w") as f:
        f.write("#version: 0.2\n" + "\n".join(" ".join(merge) for merge in merges) + "\n")


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
    bpe_files(directory, vocab, data["merges"])
    config(directory, tokenizer_class=tokenizer_class, **fields)


MASK = {"__type": "AddedToken", "content": "[MASK]", "lstrip": True, "rstrip": False, "normalized": False, "single_word": False}
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
    "albert": spm_case("spiece.model", "AlbertTokenizer", {**UNIGRAM, "pad_id": 0, "unk_id": 1, "bos_id": -1, "eos_id": -1,
                                                           "control_symbols": ["[CLS]", "[SEP]", "[MASK]"]}),
    "albert_cased": spm_case("spiece.model", "AlbertTokenizerFast", {**UNIGRAM, "pad_id": 0, "unk_id": 1, "bos_id": -1, "eos_id": -1,
                                                                    "rules": False, "control_symbols": ["[CLS]", "[SEP]"]},
                             do_lower_case=False, keep_accents=True, mask_token=MASK),
    "xlnet": spm_case("spiece.model", "XLNetTokenizer", {**UNIGRAM, "unk_id": 0, "bos_id": 1, "eos_id": 2, "pad_id": 5, "control_symbols": [
        "<cls>", "<sep>", "<mask>", "<eod>"], "user_defined_symbols": ["<eop>", ".", "(", ")"]}),
    "deberta_v2": spm_case("spm.model", "DebertaV2Tokenizer", {**UNIGRAM, "pad_id": 0, "bos_id": 1, "eos_id": 2, "unk_id": 3, "unk_piece": "[UNK]",
                                                               "pad_piece": "[PAD]", "bos_piece": "[CLS]", "eos_piece": "[SEP]"},
                           mask_token="[MASK]"),
    "deberta_v2_lower": spm_case("spm.model", "DebertaV2Tokenizer", {**UNIGRAM, "pad_id": 0, "bos_id": 1, "eos_id": 2, "unk_id": 3,
                                                                     "unk_piece": "[UNK]", "pad_piece": "[PAD]", "bos_piece": "[CLS]",
                                                                     "eos_piece": "[SEP]"}, do_lower_case=True, split_by_punct=True),
    "camembert": spm_case("sentencepiece.bpe.model", "CamembertTokenizer", {**UNIGRAM, "unk_id": 0, "bos_id": 1, "eos_id": 2}),
    "deberta": lambda d: bpe(d, "DebertaTokenizer", ["[CLS]", "[PAD]", "[SEP]", "[UNK]", "[MASK]"]),
    "gpt_neox": lambda d: bpe(d, "GPTNeoXTokenizer", ["<|endoftext|>", "<|padding|>"]),
    "bert": lambda d: wordpiece(d),
    "bert_cased": lambda d: wordpiece(d, do_lower_case=False, tokenize_chinese_chars=False),
    "mpnet": lambda d: wordpiece(d, "MPNetTokenizer", ["<s>", "<pad>", "</s>", "[UNK]", "<mask>"]),
    "bart": lambda d: bpe(d, "BartTokenizer", ["<s>", "<pad>", "</s>", "<unk>", "<mask>"], add_prefix_space=True),
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


def clip_of_openai(source, directory):
    """OpenAI's vocabulary: bytes, bytes at the end of a word, the first of the merges and two tokens."""
    with gzip.open(source, "rt", encoding="utf-8") as f:
        merges = [tuple(line.split()) for line in f.read().split("\n")[1:49152 - 256 - 2 + 1]]
    mapped = list(range(33, 127)) + list(range(161, 173)) + list(range(174, 256))
    alphabet = [chr(b) for b in mapped] + [chr(256 + n) for n in range(256 - len(mapped))]
    tokens = alphabet + [c + "</w>" for c in alphabet] + ["".join(pair) for pair in merges] + ["<|startoftext|>", "<|endoftext|>"]
    bpe_files(directory, {token: i for i, token in enumerate(tokens)}, merges)
    config(directory, tokenizer_class="CLIPTokenizer")


def gpt2_of_gguf(source, directory):
    fields = gguf.GGUFReader(source).fields
    tokens, merges = fields["tokenizer.ggml.tokens"].contents(), fields["tokenizer.ggml.merges"].contents()
    bpe_files(directory, {token: i for i, token in enumerate(tokens)}, [merge.split(" ") for merge in merges])
    config(directory, tokenizer_class="GPT2Tokenizer")


def llama_beside(source, directory):
    """The model that the others were made of."""
    shutil.copyfile(os.path.join(os.path.dirname(source), "../llama/tokenizer.model"), os.path.join(directory, "tokenizer.model"))
    config(directory, tokenizer_class="LlamaTokenizer", add_bos_token=True, legacy=False)


def llama2c_model(directory):
    """The smallest model of 32000 tokens."""
    vocabulary, width = 32000, 4
    model = os.path.join(directory, "model.bin")
    with open(model, "wb") as f:
        f.write(struct.pack("<7i", width, 4, 1, 1, 1, vocabulary, 8))
        f.write(bytes(4 * (vocabulary * width + width + 4 * width * width + width + 3 * 4 * width + width + 2 * 8 * width // 2)))
    return model


# a source, what makes transformers' files of it, and what ours reads: of "{source}" and "{directory}"
OTHER_FIXTURES = {"fixture_clip": ("clip/bpe_simple_vocab_16e6.txt.gz", clip_of_openai, "{directory}"),
                  "fixture_gguf_gpt2": ("gguf/ggml-vocab-gpt-2.gguf", gpt2_of_gguf, "{source}"),
                  "fixture_gguf_llama": ("gguf/ggml-vocab-llama-spm.gguf", llama_beside, "{source}"),
                  "fixture_llama2c": ("llama/tokenizer.bin", llama_beside, "{directory}/converted")}


def by_scores(path):
    """As the tokenizer.json of Llama 2 has it: merges by SentencePiece's scores, and a blank in front of every text, as llama.cpp does it.
    (LlamaTokenizer of transformers 5 takes the merges in the order of ids, and puts no blank in front of one.)"""
    model = sentencepiece.SentencePieceProcessor(model_file=path)
    vocab = {model.id_to_piece(i): i for i in range(model.vocab_size())}
    merges = []
    for text, i in vocab.items():
        cuts = [(text[:n], text[n:]) for n in range(1, len(text)) if text[:n] in vocab and text[n:] in vocab]
        merges += [(model.get_score(i), len(left), len(right), left, right) for left, right in sorted(cuts, key=lambda c: (vocab[c[0]], vocab[c[1]]))]
    merges.sort(key=lambda merge: merge[:3], reverse=True)
    tokenizer = Tokenizer(models.BPE(vocab, [merge[3:] for merge in merges], unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", pair="<s> $A <s>:1 $B:1", special_tokens=[("<s>", 1)])
    tokenizer.add_special_tokens([AddedToken(token, normalized=False) for token in ("<unk>", "<s>", "</s>")])
    return tokenizer


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


def only_ids(theirs, ours, count, seed):
    """Texts of tokenizer_fuzz.py: ids, with and without special tokens, and offsets; how many differ."""
    added, rng, wrong = [token.content for _, token in sorted(theirs.get_added_tokens_decoder().items())][:40], random.Random(seed), 0
    for i in range(count):
        text = "".join(tokenizer_fuzz.piece(rng, added) for _ in range(rng.randint(0, 16)))
        expected = theirs.encode(text, add_special_tokens=i % 2 == 0)
        ours.call(ours.library.c.cb_tokenizer_encode_with, {"text": text, "add_special_tokens": i % 2 == 0}, ours.encoding)
        found = ours.encoding
        same = ctypes.string_at(found.ids, 4 * found.count) == array.array("i", expected.ids).tobytes()
        if same:
            ends = array.array("I", ctypes.string_at(found.spans, 8 * found.count))
            if not text.isascii():
                starts = list(itertools.accumulate(byte & 0xC0 != 0x80 for byte in text.encode()))
                places = [n - 1 for n in starts] + [len(text)]
                ends = [places[n] for n in ends]
            same = list(ends) == list(itertools.chain.from_iterable(expected.offsets))
        if not same:
            wrong += 1
            if wrong <= 3:
                result = variants.as_dict(found)
                print(f"ids {result['ids']}, spans {result['spans']}, expected {expected.ids}, {expected.offsets} of {text!r}")
    return wrong


def sentencepiece_differs(processor, ours, theirs, case):
    if "pair" in case or any(t.content in case["text"] for t in theirs.get_added_tokens_decoder().values()) or "\0" in case["text"]:
        return None
    expected = processor.encode(case["text"])
    found = ours.encode({"text": case["text"], "add_special_tokens": False})["ids"]
    return None if found == expected else ("sentencepiece", found, expected)


def compare(library, name, directory, plain, count, seed, path=None, ids=False):
    """`path`: what ours reads, when it is not the directory."""
    scored = name in ("fixture_gguf_llama", "fixture_llama2c")
    theirs = by_scores(os.path.join(directory, "tokenizer.model")) if scored else reference(directory, plain)
    ours, error = variants.attempt(OurFile, library, path or directory)
    if error:
        print(name, error)
        return 1
    if ids:
        wrong = only_ids(theirs, ours, count, seed)
        print(f"{name}: {count} texts, {wrong} different", flush=True)
        return wrong
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
    parser.add_argument("--ids", action="store_true", help="compare ids and offsets only, of texts of tokenizer_fuzz.py: many a second")
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
                wrong += compare(library, name, directory, name.startswith("plain"), args.texts, args.seed, ids=args.ids)
        for name, (path, file, fields) in FIXTURES.items() if args.data else ():
            if args.only and name not in args.only:
                continue
            with tempfile.TemporaryDirectory() as directory:
                shutil.copyfile(os.path.join(args.data, "loader-fixtures/tokenizers", path), os.path.join(directory, file))
                if fields:
                    config(directory, **fields)
                wrong += compare(library, name, directory, fields is None, args.texts, args.seed, ids=args.ids)
        for name, (path, maker, ours) in OTHER_FIXTURES.items() if args.data else ():
            if args.only and name not in args.only:
                continue
            source = os.path.join(args.data, "loader-fixtures/tokenizers", path)
            with tempfile.TemporaryDirectory() as directory:
                maker(source, directory)
                path = ours.format(source=source, directory=directory)
                if path.endswith("converted"):
                    library.check(library.c.cb_llama2c_convert(llama2c_model(directory).encode(), source.encode(), path.encode()))
                wrong += compare(library, name, directory, False, args.texts, args.seed, path, args.ids)
        sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
