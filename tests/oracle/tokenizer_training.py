#!/usr/bin/env python3
"""Byte-level BPE trained by the tokenizers package on small random corpora: what `cambium tokenizer train` must arrive at.

Writes <out>/training.json, an array of {"texts", "vocab_size", "min_frequency", "special_tokens", "pattern" (gpt2 or llama3),
"add_prefix_space", "vocab" (in the order of ids), "merges"}.
"""
import argparse
import json
import os
import random

from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers

from tokenizer_variants import LLAMA3, WORDS, text_of


def corpora(rng):
    yield [text_of(rng, pieces=12) for _ in range(20)]
    yield [" ".join(rng.choices(WORDS, k=rng.randint(0, 12))) for _ in range(30)] + ["", "\n"]
    yield ["a" * 61, "ab" * 40, "abc" * 30, "", "a"]  # runs in which a pair overlaps itself
    yield ["".join(rng.choices("ab", k=90)) for _ in range(6)]  # pairs that arise again after they were merged
    yield ["".join(rng.choices("aA1 '\n.", k=60)) for _ in range(10)]
    yield ["".join(chr(rng.randint(0x4e00, 0x4e20)) for _ in range(30)) for _ in range(10)]


def train(texts, options):
    tokenizer = Tokenizer(models.BPE())
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=options["add_prefix_space"], use_regex=options["pattern"] == "gpt2")
    tokenizer.pre_tokenizer = byte_level if options["pattern"] == "gpt2" else pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(LLAMA3), "isolated"), byte_level])
    tokenizer.train_from_iterator(texts, trainers.BpeTrainer(
        vocab_size=options["vocab_size"], min_frequency=options["min_frequency"], special_tokens=options["special_tokens"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
    model = json.loads(tokenizer.to_str())["model"]
    return {**options, "texts": texts, "vocab": sorted(model["vocab"], key=model["vocab"].get), "merges": model["merges"]}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", default=os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "reference", "tokenizers"))
    args = parser.parse_args()
    rng = random.Random(1)
    runs = []
    for texts in corpora(rng):
        texts = [text.replace("\0", "") for text in texts]
        for pattern in ("gpt2", "llama3"):
            runs.append(train(texts, {
                "vocab_size": rng.choice([258, 290, 330]), "min_frequency": rng.choice([0, 1, 2, 3]), "pattern": pattern,
                "special_tokens": rng.choice([[], ["<s>", "</s>"], ["Ġthe"]]), "add_prefix_space": pattern == "gpt2" and rng.random() < 0.5}))
    with open(os.path.join(args.out, "training.json"), "w") as f:
        json.dump(runs, f, ensure_ascii=False, separators=(",", ":"))
        f.write("\n")


if __name__ == "__main__":
    main()
