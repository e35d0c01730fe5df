#!/usr/bin/env python3
"""Random tokenizer configurations: small tokenizers of every combination of parts, and what the tokenizers package makes
of random texts with them.

    --make OUT.jsonl --count N      writes N configurations with a few texts each (tests/reference/tokenizers/variants.jsonl):
                                    one JSON object a line, {"tokenizer", "cases": [{"text", "pair" (when there is one),
                                    "add_special_tokens", "ids", "type_ids", "special", "offsets" (code points),
                                    "decoded", "decoded_all", "stream" (pieces of decoded_all as ids arrive; when it works)}]}
    --compare LIBRARY --seeds A B   compares libcambium.so with the package on the configurations of seeds A to B and
                                    prints what differs; exit code 1 when anything does
    --model KIND                    of the model BPE (the default), WordPiece, Unigram or WordLevel; those other than BPE also
                                    draw the normaliser Precompiled with rules made by sentencepiece

Left out is what the package itself cannot do twice the same way or at all: added tokens that normalise to the same text or
to nothing, texts and ids on which it panics, and two post-processors in a row that both add tokens.
"""
import argparse
import base64
import collections
import ctypes
import io
import json
import os
import random
import sys
import tempfile

os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["RUST_BACKTRACE"] = "0"

import sentencepiece  # noqa: E402
from sentencepiece import sentencepiece_model_pb2  # noqa: E402
from tokenizers import Tokenizer, pre_tokenizers, trainers  # noqa: E402
from tokenizers.decoders import DecodeStream  # noqa: E402

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
          r"|\s+(?!\S)|\s+")
UPPER, LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}"
NOT_WORD, ENDING = r"[^\r\n\p{L}\p{N}]?", r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
REST = r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
O200K = f"{NOT_WORD}{UPPER}]*{LOWER}]+{ENDING}|{NOT_WORD}{UPPER}]+{LOWER}]*{ENDING}{REST}"
WITHOUT_HAN = r"&&[^\p{Han}]]"
KIMI = (r"[\p{Han}]+|" + f"{NOT_WORD}{UPPER}{WITHOUT_HAN}*{LOWER}{WITHOUT_HAN}+{ENDING}|"
        f"{NOT_WORD}{UPPER}{WITHOUT_HAN}+{LOWER}{WITHOUT_HAN}*{ENDING}{REST}")
WORD_PATTERNS = [
    GPT2, LLAMA3, LLAMA3.replace("{1,3}", ""), O200K, KIMI,
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+",
    r" ?[^(\s|[.,!?…。，、।۔،])]+", r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", r"[一-龥ࠀ-一가-퟿]+", r"\p{N}{1,3}",
    r"[!-/:-@\[-`{-~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"]
OTHER_PATTERNS = [
    r"\d", r"\d{1,3}(?=(?:\d{3})*\b)", r"\w+|[^\w\s]+", r"\w+", r"\W", r"\s+", r"[^\S\n]+", ".", "^.", ".$", r"(?<=a)b*", r"\b",
    r"(?i)the|AND", "[[:alpha:]]+", "[[:punct:]]", "[[:upper:]][[:lower:]]*", r"\p{Han}", r"\p{M}+", "[^a-z]", r"a{,2}b", "(a|b)+c?",
    r"(?m:.+)", r"\h+", r"\R", r"[\x{300}-\x{36f}]", r"\u00e9|\x41", r"\p{^L}", r"\P{L}+", r"(?>\s+)(?!\S)", "a++b", r"(?=\p{Lu})",
    "$", "^", r"\A.", r".\z", r"[^[:ascii:]]+", r"\p{Emoji}"]
ATOMS = [
    r"\p{L}", r"\p{N}", r"\p{Lu}", r"\p{M}", r"\p{P}", r"\p{S}", r"\s", r"\S", r"\d", r"\w", r"\W", ".", "a", "b", " ", "'", r"\n",
    r"[\r\n]", r"[^\s\p{L}\p{N}]", r"[\p{L}\p{M}]", "[a-z]", "[^a-z]", "[[:alpha:]]", r"[\w']", r"[^\w\s]", "é", "(?i:th)", "(?:ab|a)",
    r"[\p{L}&&[^\p{Han}]]", "[^[:space:]a]", r"[\-\]]"]
QUANTIFIERS = ["", "", "", "?", "+", "*", "{1,3}", "{2}", "++", "+?", "{2,}"]

SPACES = [" ", "  ", "     ", "\n", "\n\n", "\r\n", "\r", "\t", " \n ", "\u00a0", "\u2003", "\u3000", "\u0085", "\u2028", "\u200b",
          "\ufeff", "\v", "\x1c"]
PIECES = ["'s", "'T", "'ſ", "’s", "the", " and", "God", "Ⅻ", "½", "²", "e\u0301", "\u0301", "\u200d", "👨‍👩‍👧", "🇫🇷", "</w>", "##ing",
          "▁", "▁▁", "_", "Ġ", "<0x0A>", "\ufffd", "\u0000", "\u001b", "İ", "ẞ", "ﬁ", "ﷺ", "\u1112\u1161\u11ab", "각", "|", "--", "ab",
          "aab", "x", "ΑΣ", "ǅ", "ạ̈", "शक्ति", "עברית", "العربية", "日本語", "，", "<s>", "\u0f73", "\u0958", "\U0001d15e", "\u2126",
          "か\u3099", "①", "１２３", "٣", "𐀀", "\U0010ffff", "\ue000", "\ufdd0", "\u0378", "n't", " .", " ' "]
WORDS = "the of and to in God lord said king Israel people went house son day man came children upon hand unto earth".split()
ASCII = [chr(c) for c in range(0x20, 0x7f)]
RANGES = [(0xa1, 0x24f), (0x300, 0x36f), (0x370, 0x4ff), (0x590, 0x6ff), (0x900, 0xaff), (0xe00, 0xe7f), (0x1100, 0x11ff),
          (0x1e00, 0x1fff), (0x2000, 0x218f), (0x3040, 0x30ff), (0x4e00, 0x9fff), (0xac00, 0xd7a3), (0xf900, 0xffff),
          (0x1d100, 0x1d7ff), (0x1f300, 0x1faff), (0x0, 0xd7ff), (0x10000, 0x10ffff)]
ADDED = ["<s>", "</s>", "<pad>", "[MASK]", "<|im_start|>", "<|im_end|>", "the", "The", " and", "ab", "aab", "a", "é", " ", "  ", "▁",
         "God\n", "日本", "<|", "\n", "Kin", "king of", "x y", "ﬁ", "①", "1", "12", "'s", "\u200d", "İ", " x "]
CHARSMAPS = {}  # made when first needed
BEHAVIORS = ["Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous"]


# ---- texts ----

def piece(rng, added, vocab):
    kind = rng.random()
    if kind < 0.18:
        return rng.choice(SPACES)
    if kind < 0.30 and added:
        return rng.choice(added)
    if kind < 0.42:
        return rng.choice(PIECES)
    if kind < 0.48:
        return "".join(rng.choices("0123456789", k=rng.randint(1, 8)))
    if kind < 0.62:
        return rng.choice(WORDS)
    if kind < 0.68:
        return "".join(rng.choices(ASCII, k=rng.randint(1, 10)))
    if kind < 0.74 and vocab:
        return rng.choice(vocab)
    if kind < 0.77:
        return rng.choice("aAéあ中 \u0301-1") * rng.randint(2, 40)
    if kind < 0.80:
        return "".join(rng.choices(" \n\r\t\u3000", k=rng.randint(1, 12)))
    low, high = rng.choice(RANGES)
    return "".join(chr(rng.randint(low, high)) for _ in range(rng.randint(1, 5)))


def text_of(rng, added=(), vocab=(), pieces=30):
    count = min(rng.choice([0, 1, 1, 2, 2, 3, 4, 6, 8, 12, 20, 30]), pieces)
    return "".join(piece(rng, added, vocab) for _ in range(count))


# ---- parts ----

def flag(rng, likely=0.5):
    return rng.random() < likely


def some(rng, make, most):
    return [make(rng) for _ in range(rng.randint(0, most))]


def regex(rng, depth=0):
    branches = []
    for _ in range(rng.choice([1, 1, 2, 3])):
        branch = ""
        for _ in range(rng.choice([1, 1, 2, 3])):
            group = depth == 0 and flag(rng, 0.15)
            branch += (rng.choice(["(", "(?:", "(?>"]) + regex(rng, 1) + ")" if group else rng.choice(ATOMS)) + rng.choice(QUANTIFIERS)
        if flag(rng, 0.15):
            branch = rng.choice(["(?=", "(?!", "(?<!"]) + rng.choice(ATOMS[:20]) + ")" + branch
        if flag(rng, 0.15):
            branch += rng.choice([r"(?!\S)", r"(?=\s)", "$", r"\b"])
        branches.append(branch)
    return "|".join(branches)


def pattern(rng):
    kind = rng.random()
    if kind < 0.3:
        return {"String": rng.choice([" ", "a", "▁", "\n", "  ", "the", "-", "é", "1", "日", "ab"])}
    if kind < 0.6:
        return {"Regex": rng.choice(WORD_PATTERNS)}
    return {"Regex": rng.choice(OTHER_PATTERNS) if kind < 0.8 else regex(rng)}


def one_normalizer(rng):
    kind = rng.choice(["NFC", "NFD", "NFKC", "NFKD", "Lowercase", "StripAccents", "Nmt", "ByteLevel", "Strip", "Replace", "Replace",
                       "Prepend", "BertNormalizer"])
    if kind == "Strip":
        return {"type": kind, "strip_left": flag(rng), "strip_right": flag(rng)}
    if kind == "Replace":
        return {"type": kind, "pattern": pattern(rng), "content": rng.choice(["", "▁", " ", "xy", "é"])}
    if kind == "Prepend":
        return {"type": kind, "prepend": rng.choice(["▁", " ", "x", "▁▁", ""])}
    if kind == "BertNormalizer":
        return {"type": kind, "clean_text": flag(rng), "handle_chinese_chars": flag(rng), "strip_accents": rng.choice([None, True, False]),
                "lowercase": flag(rng)}
    return {"type": kind}


def normalizer(rng):
    kind = rng.random()
    if kind < 0.35:
        return None
    return one_normalizer(rng) if kind < 0.65 else {"type": "Sequence", "normalizers": some(rng, one_normalizer, 3)}


def byte_level(rng, prefix, use_regex):
    return {"type": "ByteLevel", "add_prefix_space": flag(rng, prefix), "trim_offsets": flag(rng), "use_regex": flag(rng, use_regex)}


def metaspace(rng):
    return {"type": "Metaspace", "replacement": rng.choice("▁▁▁_é"), "prepend_scheme": rng.choice(["always", "first", "never"]),
            "split": flag(rng)}


def one_pre_tokenizer(rng):
    kind = rng.choice(["ByteLevel", "ByteLevel", "Metaspace", "Metaspace", "Split", "Split", "Split", "Split", "Digits", "Punctuation",
                       "Whitespace", "WhitespaceSplit", "CharDelimiterSplit", "BertPreTokenizer", "UnicodeScripts", "FixedLength"])
    if kind == "ByteLevel":
        return byte_level(rng, 0.5, 0.5)
    if kind == "Metaspace":
        return metaspace(rng)
    fields = {"Split": lambda: {"pattern": pattern(rng), "behavior": rng.choice(BEHAVIORS), "invert": flag(rng, 0.35)},
              "Digits": lambda: {"individual_digits": flag(rng)}, "Punctuation": lambda: {"behavior": rng.choice(BEHAVIORS)},
              "CharDelimiterSplit": lambda: {"delimiter": rng.choice("|- a日")}, "FixedLength": lambda: {"length": rng.randint(1, 6)}}
    return {"type": kind, **fields.get(kind, dict)()}


def pre_tokenizer(rng, style):
    if style == "bytes":
        parts = [one_pre_tokenizer(rng)] if flag(rng, 0.3) else []
        if flag(rng, 0.6):
            parts.append({"type": "Split", "pattern": {"Regex": rng.choice(WORD_PATTERNS)}, "invert": flag(rng, 0.15),
                          "behavior": rng.choice(["Isolated"] * 3 + BEHAVIORS)})
        parts.append(byte_level(rng, 0.3, 0.1 if len(parts) > 0 else 0.8))
        return parts[0] if len(parts) == 1 else {"type": "Sequence", "pretokenizers": parts}
    kind = rng.random()
    if kind < 0.25:
        return None
    if kind < 0.65:
        return metaspace(rng) if style == "sentencepiece" and flag(rng) else one_pre_tokenizer(rng)
    return {"type": "Sequence", "pretokenizers": some(rng, one_pre_tokenizer, 3)}


BYTES_DECODER = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}
SENTENCEPIECE_DECODER = {"type": "Sequence", "decoders": [
    {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"},
    {"type": "Strip", "content": " ", "start": 1, "stop": 0}]}


def one_decoder(rng):
    kind = rng.choice(["ByteLevel", "Metaspace", "Replace", "Fuse", "Strip", "ByteFallback", "BPEDecoder", "WordPiece", "CTC"])
    fields = {"ByteLevel": lambda: BYTES_DECODER,
              "Metaspace": lambda: {**metaspace(rng), "replacement": rng.choice("▁_")},
              "Replace": lambda: {"pattern": pattern(rng), "content": rng.choice([" ", "", "x"])},
              "Strip": lambda: {"content": rng.choice(" ▁aé"), "start": rng.randint(0, 2), "stop": rng.randint(0, 2)},
              "BPEDecoder": lambda: {"suffix": rng.choice(["</w>", "", "a"])},
              "WordPiece": lambda: {"prefix": rng.choice(["##", "a"]), "cleanup": flag(rng)},
              "CTC": lambda: {"pad_token": rng.choice(["<pad>", "a"]), "word_delimiter_token": "|", "cleanup": flag(rng)}}
    return {"type": kind, **fields.get(kind, dict)()}


def decoder(rng, style):
    kind = rng.random()
    if kind < 0.6 and style in ("bytes", "sentencepiece"):
        return BYTES_DECODER if style == "bytes" else SENTENCEPIECE_DECODER
    if kind < 0.7:
        return None
    return one_decoder(rng) if kind < 0.85 else {"type": "Sequence", "decoders": some(rng, one_decoder, 4)}


def template(rng, specials, pair):
    def special():
        return {"SpecialToken": {"id": rng.choice(specials)[0], "type_id": rng.choice([0, 1])}}

    pieces = []
    for sequence in rng.choice([["A", "B"], ["A", "B"], ["B", "A"]]) if pair else ["A"]:
        pieces += [special() for _ in range(rng.choice([0, 1, 1, 2]))]
        pieces.append({"Sequence": {"id": sequence, "type_id": rng.randint(0, 2)}})
    return pieces + [special() for _ in range(rng.choice([0, 1]))]


def one_post_processor(rng, specials):
    kind = rng.choice(["ByteLevel", "RobertaProcessing", "BertProcessing", "TemplateProcessing", "TemplateProcessing"])
    if kind == "ByteLevel":
        return byte_level(rng, 0.5, 0.5)
    if kind == "TemplateProcessing":
        return {"type": kind, "single": template(rng, specials, False), "pair": template(rng, specials, True),
                "special_tokens": {text: {"id": text, "ids": [number], "tokens": [text]} for text, number in specials}}
    ends = {"type": kind, "sep": list(rng.choice(specials)), "cls": list(rng.choice(specials))}
    return ends if kind == "BertProcessing" else {**ends, "trim_offsets": flag(rng), "add_prefix_space": flag(rng)}


def post_processor(rng, specials):
    kind = rng.random()
    if kind < 0.2:
        return None
    if kind < 0.8:
        return one_post_processor(rng, specials)
    parts = []
    for part in [one_post_processor(rng, specials) for _ in range(3)]:
        if part["type"] == "ByteLevel" or all(p["type"] == "ByteLevel" for p in parts):
            parts.append(part)
    return {"type": "Sequence", "processors": parts}


# ---- tokenizers ----

def trained(rng, style, sizes):
    """A tokenizer's JSON with a vocabulary trained on random texts."""
    affixes = [rng.choice(choices) if style != "bytes" and flag(rng, 0.2) else None for choices in (["##", "é", "_"], ["</w>", "@", "é"])]
    model = {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": affixes[0], "end_of_word_suffix": affixes[1],
             "fuse_unk": False, "byte_fallback": False, "ignore_merges": False, "vocab": {}, "merges": []}
    prepend = [{"type": "Prepend", "prepend": "▁"}, {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]
    of_style = {"bytes": {"type": "NFC"} if flag(rng, 0.3) else None, "sentencepiece": {"type": "Sequence", "normalizers": prepend}}
    data = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": [],
            "normalizer": of_style[style] if style in of_style and flag(rng) else normalizer(rng),
            "pre_tokenizer": pre_tokenizer(rng, style), "post_processor": None, "decoder": None, "model": model}
    tokenizer = Tokenizer.from_str(json.dumps(data))
    options = {name: value for name, value in zip(("continuing_subword_prefix", "end_of_word_suffix"), affixes) if value}
    if style != "bytes":
        options["limit_alphabet"] = rng.choice([30, 60, 200])
    trainer = trainers.BpeTrainer(
        vocab_size=rng.choice(sizes), min_frequency=rng.choice([0, 1, 2, 3]), show_progress=False,
        special_tokens=rng.sample(ADDED[:6], rng.randint(1, 6)),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet() if style == "bytes" else [], **options)
    corpus = [text_of(rng) for _ in range(40)] + [" ".join(rng.choices(WORDS, k=rng.randint(1, 20))) for _ in range(100)]
    tokenizer.train_from_iterator(corpus, trainer)
    return json.loads(tokenizer.to_str())


def vary_model(rng, style, model):
    vocab = model["vocab"]

    def add(token):
        vocab.setdefault(token, max(vocab.values(), default=-1) + 1)

    if flag(rng, 0.7 if style == "sentencepiece" else 0.1):
        for byte in range(256) if flag(rng, 0.8) else range(0, 256, 2):
            add(f"<0x{byte:02X}>")
        model["byte_fallback"] = True
    if flag(rng):
        model["unk_token"] = rng.choice(["<unk>", "<s>", "a"])
        add(model["unk_token"])
        model["fuse_unk"] = flag(rng, 0.6)
    model["ignore_merges"] = flag(rng, 0.3)
    if flag(rng, 0.3):  # words that no merge reaches
        for word in rng.sample(WORDS, 3) + ["Ġthe", "▁God"]:
            add(word)
    if flag(rng, 0.15):
        rng.shuffle(model["merges"])
    if flag(rng, 0.3) and not any(" " in part for merge in model["merges"] for part in merge):
        model["merges"] = [" ".join(merge) for merge in model["merges"]]


def vary_added(rng, data):
    vocab = data["model"]["vocab"]
    flags = ("single_word", "lstrip", "rstrip", "normalized")
    for token in data["added_tokens"]:
        if flag(rng, 0.3):
            token.update((name, flag(rng, 0.4)) for name in flags)
    number = max(vocab.values(), default=-1) + 1
    for content in rng.sample(ADDED, rng.choice([0, 1, 3, 6, 12])):
        if all(token["content"] != content for token in data["added_tokens"]):
            data["added_tokens"].append({"id": vocab.get(content, number), "content": content, **{name: flag(rng, 0.3) for name in flags},
                                         "special": flag(rng, 0.4)})
            number += content not in vocab


# ---- models other than BPE, made of a BPE vocabulary ----

def charsmaps(small):
    """Rules of the normaliser Precompiled, in base64, by name: a few of our own and (large) those of SentencePiece."""
    rules = ["41\t61", "65 301\tE9", "E9\t65 78", "20 20\t20", "FB01\t66 69", "FDFA\t61 62 63 64 65", "200B\t", "D\t20", "3B1\t61 3B2",
             "AC00\t1100 1161", "1F1EB 1F1F7\t46 52", "61 62\t62 61", "61 62 63\t78"]
    result = {}
    with tempfile.TemporaryDirectory() as directory:
        path = os.path.join(directory, "rules.tsv")
        with open(path, "w") as f:
            f.write("\n".join(rules) + "\n")
        for name in ["own"] if small else ["own", "nfkc", "nmt_nfkc", "nmt_nfkc_cf"]:
            model = io.BytesIO()
            options = {"normalization_rule_tsv": path} if name == "own" else {"normalization_rule_name": name}
            sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter(["the quick brown fox jumps over it"] * 20), model_writer=model,
                                                     vocab_size=30, hard_vocab_limit=False, minloglevel=2, num_threads=1, **options)
            proto = sentencepiece_model_pb2.ModelProto.FromString(model.getvalue())
            result[name] = base64.b64encode(proto.normalizer_spec.precompiled_charsmap).decode()
    return result


def precompile(rng, data, small):
    """Puts a Precompiled before, behind or in place of the normaliser."""
    if not CHARSMAPS:
        CHARSMAPS.update(charsmaps(small))
    rules = {"type": "Precompiled", "precompiled_charsmap": CHARSMAPS[rng.choice(sorted(CHARSMAPS))]}
    parts = rng.choice([[], [data["normalizer"]]]) if data["normalizer"] else []
    parts.insert(rng.randint(0, len(parts)), rules)
    data["normalizer"] = parts[0] if len(parts) == 1 else {"type": "Sequence", "normalizers": parts}


def other_model(rng, kind, data):
    vocab, fixed = data["model"]["vocab"], {token["content"] for token in data["added_tokens"]}
    unknown = data["model"]["unk_token"] or rng.choice(sorted(vocab))
    if kind == "Unigram":
        tokens = sorted(vocab, key=vocab.get)
        grain = rng.choice([0, 0, 1])  # whole numbers tie
        scores = [0.0 if token in fixed else round(rng.uniform(-14, 0), 0 if grain else 6) for token in tokens]
        if flag(rng, 0.1):
            tokens[rng.randrange(len(tokens))] = rng.choice(tokens)
        data["model"] = {"type": kind, "unk_id": None if flag(rng, 0.1) else tokens.index(unknown) if unknown in tokens else 0,
                         "vocab": [list(pair) for pair in zip(tokens, scores)], "byte_fallback": data["model"]["byte_fallback"]}
    elif kind == "WordPiece":
        prefix = rng.choice(["##", "##", "##", "▁", "a", ""])
        data["model"] = {"type": kind, "unk_token": unknown if flag(rng, 0.9) else "absent", "continuing_subword_prefix": prefix,
                         "max_input_chars_per_word": rng.choice([100, 100, 20, 5]),
                         "vocab": {(token if token in fixed or flag(rng) else prefix + token): number for token, number in vocab.items()}}
    else:
        data["model"] = {"type": kind, "vocab": vocab, "unk_token": unknown if flag(rng, 0.9) else "absent"}
    if flag(rng, 0.1):
        del data["model"]["type"]


def texts_in_vocab(model):
    return [token if isinstance(token, str) else token[0] for token in model["vocab"]]


def variant(rng, small=False, kind="BPE"):
    """A random tokenizer's JSON."""
    style = rng.choice(["bytes", "sentencepiece", "sentencepiece", "any"] + ["any" if small else "bytes"])
    data = trained(rng, style, [60, 100, 280] if small else [50, 260, 300, 400, 1000])
    vary_model(rng, style, data["model"])
    vary_added(rng, data)
    specials = [(token["content"], token["id"]) for token in data["added_tokens"]][:6]
    data["post_processor"] = post_processor(rng, specials)
    data["decoder"] = decoder(rng, style)
    if flag(rng, 0.25):
        data["truncation"] = {"direction": rng.choice(["Left", "Right"]), "max_length": rng.randint(9, 28), "stride": rng.choice([0, 0, 1, 3]),
                              "strategy": rng.choice(["LongestFirst", "OnlyFirst", "OnlySecond"])}
    if flag(rng, 0.2):
        data["padding"] = {"strategy": rng.choice(["BatchLongest", {"Fixed": rng.randint(0, 30)}]), "direction": rng.choice(["Left", "Right"]),
                           "pad_to_multiple_of": rng.choice([None, 4, 8]), "pad_id": rng.randint(0, 3), "pad_type_id": rng.randint(0, 1),
                           "pad_token": "<pad>"}
    if kind != "BPE":
        other_model(rng, kind, data)
        if flag(rng, 0.3):
            precompile(rng, data, small)
    return data


def attempt(function, *arguments, **options):
    """(result, None) or (None, message); a panic of the package is no Exception."""
    try:
        return function(*arguments, **options), None
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # noqa: B036
        return None, str(error) or repr(error)


def is_defined(tokenizer, data):
    """Can the package tell its added tokens apart?"""
    contents = [token["content"] for token in data["added_tokens"] if token["normalized"]]
    if tokenizer.normalizer:
        contents = [tokenizer.normalizer.normalize_str(content) for content in contents]
    return "" not in contents and len(set(contents)) == len(contents)


def random_tokenizer(rng, small=False, kind="BPE"):
    """(JSON data, the package's tokenizer), or None when this draw came to nothing."""
    data, error = attempt(variant, rng, small, kind)
    tokenizer = None if error else attempt(Tokenizer.from_str, json.dumps(data))[0]
    return (data, tokenizer) if tokenizer and is_defined(tokenizer, data) else None


def random_case(rng, data, pieces):
    added, vocab = [token["content"] for token in data["added_tokens"]], texts_in_vocab(data["model"])
    case = {"text": text_of(rng, added, vocab, pieces), "add_special_tokens": flag(rng, 0.7)}
    if flag(rng, 0.2):
        case["pair"] = text_of(rng, added, vocab, pieces)
    return case


def answer(tokenizer, case):
    """Fills in what the package says; None: it fails."""
    pair = (case["pair"],) if "pair" in case else ()
    encoding, error = attempt(tokenizer.encode, case["text"], *pair, add_special_tokens=case["add_special_tokens"])
    if error:
        return None
    case.update(ids=encoding.ids, type_ids=encoding.type_ids, special=encoding.special_tokens_mask, offsets=encoding.offsets)
    case.update(attention=encoding.attention_mask)
    if encoding.overflowing:
        case.update(parts=[[part.ids, part.type_ids, part.attention_mask] for part in encoding.overflowing])
    for name, skip in (("decoded", True), ("decoded_all", False)):
        case[name], error = attempt(tokenizer.decode, encoding.ids, skip_special_tokens=skip)
        if error:
            return None
    stream = DecodeStream(skip_special_tokens=False)
    pieces, error = attempt(lambda: [stream.step(tokenizer, number) or "" for number in encoding.ids])
    if not error:
        case["stream"] = pieces
    return case


def make(path, count, kind):
    rng, written = random.Random(1), 0
    with open(path, "w") as f:
        while written < count:
            drawn = random_tokenizer(rng, small=True, kind=kind)
            if not drawn or len(json.dumps(drawn[0], ensure_ascii=False)) > 7000:
                continue
            cases = [answer(drawn[1], random_case(rng, drawn[0], 6)) for _ in range(6)]
            cases = [case for case in cases if case]
            if not cases:
                continue
            f.write(json.dumps({"tokenizer": drawn[0], "cases": cases}, ensure_ascii=False, separators=(",", ":")) + "\n")
            written += 1


# ---- the library ----

class Span(ctypes.Structure):
    _fields_ = [("begin", ctypes.c_uint32), ("end", ctypes.c_uint32)]


class Encoding(ctypes.Structure):
    _fields_ = [("ids", ctypes.POINTER(ctypes.c_int32)), ("type_ids", ctypes.POINTER(ctypes.c_uint8)),
                ("special", ctypes.POINTER(ctypes.c_uint8)), ("spans", ctypes.POINTER(Span)), ("count", ctypes.c_size_t),
                ("capacity", ctypes.c_size_t), ("pad_left", ctypes.c_size_t), ("pad_right", ctypes.c_size_t),
                ("want_spans", ctypes.c_bool)]


class Encodings(ctypes.Structure):
    _fields_ = [("items", ctypes.POINTER(Encoding)), ("count", ctypes.c_size_t), ("capacity", ctypes.c_size_t), ("want_spans", ctypes.c_bool)]


class Options(ctypes.Structure):
    _fields_ = [("add_special_tokens", ctypes.c_bool), ("pair", ctypes.c_char_p), ("pair_length", ctypes.c_size_t),
                ("truncate", ctypes.c_bool), ("pad", ctypes.c_bool), ("max_length", ctypes.c_size_t),
                ("truncation", ctypes.c_void_p), ("padding", ctypes.c_void_p)]


class String(ctypes.Structure):
    _fields_ = [("data", ctypes.POINTER(ctypes.c_char)), ("length", ctypes.c_size_t), ("capacity", ctypes.c_size_t)]


class Library:
    def __init__(self, path):
        self.c = ctypes.CDLL(path)
        for name in ("cb_tokenizer_parse", "cb_token_stream_open"):
            getattr(self.c, name).restype = ctypes.c_void_p
        for name in ("cb_tokenizer_encode_with", "cb_tokenizer_encode_parts", "cb_tokenizer_decode", "cb_token_stream_push", "cb_token_stream_finish"):
            getattr(self.c, name).restype = ctypes.c_bool
        self.c.cb_error_message.restype = ctypes.c_char_p

    def check(self, good):
        if not good:
            message = self.c.cb_error_message().decode(errors="replace")
            self.c.cb_error_clear()
            raise RuntimeError(message)

    def take(self, string):
        text = ctypes.string_at(string.data, string.length).decode() if string.length else ""
        self.c.cb_string_free(ctypes.byref(string))
        return text


def as_dict(e):
    return {"ids": e.ids[:e.count], "type_ids": e.type_ids[:e.count], "special": e.special[:e.count],
            "attention": [0] * e.pad_left + [1] * (e.count - e.pad_left - e.pad_right) + [0] * e.pad_right,
            "spans": [(e.spans[i].begin, e.spans[i].end) for i in range(e.count)]}


class OurTokenizer:
    def __init__(self, library, data):
        text = json.dumps(data).encode()
        self.library, self.encoding, self.parts = library, Encoding(want_spans=True), Encodings(want_spans=True)
        handle = library.c.cb_tokenizer_parse(b"tokenizer", text, ctypes.c_size_t(len(text)))
        library.check(handle)
        self.handle = ctypes.c_void_p(handle)

    def close(self):
        self.library.c.cb_encoding_free(ctypes.byref(self.encoding))
        self.library.c.cb_encodings_free(ctypes.byref(self.parts))
        self.library.c.cb_tokenizer_free(self.handle)

    def call(self, function, case, out):
        text, pair = case["text"].encode(), case.get("pair", "").encode()
        options = Options(case["add_special_tokens"], pair if "pair" in case else None, len(pair), True, True, 0)
        self.library.check(function(self.handle, text, ctypes.c_size_t(len(text)), ctypes.byref(options), ctypes.byref(out)))

    def encode(self, case):
        self.call(self.library.c.cb_tokenizer_encode_with, case, self.encoding)
        return as_dict(self.encoding)

    def encode_parts(self, case):
        self.call(self.library.c.cb_tokenizer_encode_parts, case, self.parts)
        return [as_dict(self.parts.items[i]) for i in range(self.parts.count)]

    def decode(self, ids, skip):
        string = String()
        self.library.check(self.library.c.cb_tokenizer_decode(self.handle, (ctypes.c_int32 * len(ids))(*ids), ctypes.c_size_t(len(ids)), skip,
                                                              ctypes.byref(string)))
        return self.library.take(string)

    def stream(self, ids):
        c, pieces = self.library.c, []
        handle = ctypes.c_void_p(c.cb_token_stream_open(self.handle, False))
        for number in ids:
            string = String()
            self.library.check(c.cb_token_stream_push(handle, number, ctypes.byref(string)))
            pieces.append(self.library.take(string))
        c.cb_token_stream_free(handle)
        return pieces


def code_points(text, spans):
    """Byte spans as code points, as the package turns them: a byte inside a character counts as that character; what is
    not of the text are the bytes of an affix as fallback tokens."""
    index, count = [], 0
    for byte in text.encode():
        count += byte & 0xC0 != 0x80
        index.append(count - 1)
    index.append(count)


    def convert(a, b):
        if a < len(index) - 1:
            return index[a], index[b] if b < len(index) else index[a] + 2
        return (count, count) if a == b == len(index) - 1 else (a, b)
    return [convert(a, b) for a, b in spans]


def differences(ours, case, data):
    result = ours.encode(case)
    for name in ("ids", "type_ids", "special", "attention"):
        if name in case and result[name] != case[name]:
            return name, result[name]
    if "parts" in case:
        parts = [[part["ids"], part["type_ids"], part["attention"]] for part in ours.encode_parts(case)[1:]]
        if parts != case["parts"]:
            return "parts", parts
    texts = [code_points(case[name], result["spans"]) for name in ("text", "pair") if name in case]
    for i, offset in enumerate(case["offsets"]):
        if tuple(offset) not in [spans[i] for spans in texts]:
            return "offsets", [spans[i] for spans in texts]
    for name, skip in (("decoded", True), ("decoded_all", False)):
        text = ours.decode(case["ids"], skip)
        if text != case[name]:
            return name, text
    if "stream" in case:
        pieces = ours.stream(case["ids"])
        if pieces != case["stream"]:
            return "stream", pieces
    return None


def compare(path, first, last, texts, kind):
    library, counts = Library(path), collections.Counter()
    for seed in range(first, last):
        rng = random.Random(seed)
        drawn = random_tokenizer(rng, kind=kind)
        if not drawn:
            continue
        data, theirs = drawn
        ours, error = attempt(OurTokenizer, library, data)
        counts["tokenizers"] += 1
        if error:
            counts["refused"] += 1
            print(f"seed {seed}: {error}")
            continue
        for _ in range(texts):
            case = answer(theirs, random_case(rng, data, 30))
            if not case:
                continue
            counts["texts"] += 1
            found, error = attempt(differences, ours, case, data)
            if found or error:
                name, value = found or ("error", error)
                counts["different"] += 1
                print(f"seed {seed}: {name}: {value!r}, expected {case.get(name)!r} of {case['text']!r} {case.get('pair', '')!r}")
        ours.close()
    print(", ".join(f"{count} {name}" for name, count in counts.items()))
    return bool(counts["different"] or counts["refused"])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--make", metavar="OUT.jsonl")
    parser.add_argument("--count", type=int, default=64, help="tokenizers to make")
    parser.add_argument("--compare", metavar="LIBRARY")
    parser.add_argument("--seeds", type=int, nargs=2, default=(0, 500), metavar=("A", "B"))
    parser.add_argument("--model", default="BPE", choices=["BPE", "WordPiece", "Unigram", "WordLevel"])
    parser.add_argument("--texts", type=int, default=40, help="texts for each seed")
    args = parser.parse_args()
    if args.make:
        make(args.make, args.count, args.model)
    if args.compare:
        sys.exit(compare(args.compare, *args.seeds, args.texts, args.model))


if __name__ == "__main__":
    main()
