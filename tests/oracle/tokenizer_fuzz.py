#!/usr/bin/env python3
"""Random Unicode strings and the ids the tokenizers package gives them, to compare another implementation with.

Each line of the output is {"text", "ids" (with special tokens), "ids_plain", "decoded"}. The strings mix scripts,
all kinds of white space, digits, contractions, combining marks, emoji sequences and the tokenizer's added tokens.
Only code points assigned in the Unicode version of this Python are drawn, so that the answer does not depend on
whose Unicode tables are newer.
"""
import argparse
import json
import random
import unicodedata

from tokenizers import Tokenizer

RANGES = [(0x20, 0x7e), (0xa1, 0x24f), (0x370, 0x3ff), (0x400, 0x4ff), (0x590, 0x5ff), (0x600, 0x6ff), (0x900, 0xaff),
          (0xe00, 0xe7f), (0x1100, 0x11ff), (0x1e00, 0x1fff), (0x2000, 0x206f), (0x2100, 0x218f), (0x3040, 0x30ff),
          (0x4e00, 0x9fff), (0xac00, 0xd7a3), (0xf900, 0xfaff), (0xfe00, 0xffef), (0x10330, 0x1034f), (0x1d400, 0x1d7ff),
          (0x1f300, 0x1faff)]
SPACES = [" ", "  ", "   ", "\n", "\n\n", "\r\n", "\t", " \n ", "\u00a0", "\u2003", "\u3000", "\u0085", "\u2028", "\u200b"]
PIECES = ["'s", "'T", "'Re", "'ve", "'LL", "’s", "the", " and", "God", "Ⅻ", "½", "e\u0301", "\u0301", "\u200d", "\ufe0f", "👨‍👩‍👧", "🇫🇷",
          "</w>", "##ing", "▁", "Ġ", "<0x0A>", "\ufffd", "\u0000", "\u001b", "İ", "ẞ", "ﬁ", "\u1112\u1161\u11ab"]


def assigned(code):
    return unicodedata.category(chr(code)) not in ("Cn", "Cs", "Co")


POOLS = [[chr(c) for c in range(low, high + 1) if assigned(c)] for low, high in RANGES]


def piece(rng, added):
    kind = rng.random()
    if kind < 0.20:
        return rng.choice(SPACES)
    if kind < 0.30 and added:
        return rng.choice(added)
    if kind < 0.45:
        return rng.choice(PIECES)
    if kind < 0.55:
        return "".join(rng.choices("0123456789", k=rng.randint(1, 8)))
    if kind < 0.75:
        return "".join(rng.choices("abcdefghijklmnopqrstuvwxyzETAOINS", k=rng.randint(1, 12)))
    pool = rng.choice(POOLS)
    return "".join(rng.choices(pool, k=rng.randint(1, 6)))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tokenizer", help="a tokenizer.json")
    parser.add_argument("--make", required=True, metavar="OUT.jsonl")
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    tokenizer = Tokenizer.from_file(args.tokenizer)
    added = [t.content for _, t in sorted(tokenizer.get_added_tokens_decoder().items())]
    rng = random.Random(args.seed)
    with open(args.make, "w") as f:
        for _ in range(args.count):
            text = "".join(piece(rng, added) for _ in range(rng.randint(0, 24)))
            ids = tokenizer.encode(text).ids
            f.write(json.dumps(dict(text=text, ids=ids, ids_plain=tokenizer.encode(text, add_special_tokens=False).ids,
                                    decoded=tokenizer.decode(ids, skip_special_tokens=True))) + "\n")


if __name__ == "__main__":
    main()
