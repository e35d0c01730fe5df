#!/usr/bin/env python3
"""Cambium and the tokenizers package on the same text, in turn, one thread each, and the ratios.

    python3 bench/compare_tokenizers.py --program build/tests/tokenizer_encode --text FILE... [--tokenizer NAME=tokenizer.json ...]

Without --tokenizer small vocabularies of WordPiece, Unigram and BPE are trained on the text first. Every line is encoded by
itself, without special tokens. The package always finds offsets, so the ratio that counts is the one with spans; what Cambium takes
without them stands beside it. Runs alternate --rounds times; figures are medians.
"""
import argparse
import os
import re
import statistics
import subprocess
import tempfile
import time

os.environ["TOKENIZERS_PARALLELISM"] = "false"

from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers  # noqa: E402


def train(directory, lines, size):
    word_piece = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    word_piece.normalizer, word_piece.pre_tokenizer = normalizers.BertNormalizer(lowercase=True), pre_tokenizers.BertPreTokenizer()
    unigram = Tokenizer(models.Unigram())
    unigram.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")])
    unigram.pre_tokenizer = pre_tokenizers.Metaspace()
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    for name, tokenizer, trainer in [
            ("WordPiece", word_piece, trainers.WordPieceTrainer(vocab_size=size, show_progress=False, special_tokens=["[UNK]"])),
            ("Unigram", unigram, trainers.UnigramTrainer(vocab_size=size, show_progress=False, unk_token="<unk>", special_tokens=["<unk>"])),
            ("BPE", bpe, trainers.BpeTrainer(vocab_size=size, show_progress=False))]:
        tokenizer.train_from_iterator(lines, trainer)
        path = os.path.join(directory, name + ".json")
        tokenizer.save(path)
        yield name, path


def whole(path, directory):
    """The same tokenizer without a pre-tokeniser's cuts: a line is one word, which no memory of words helps."""
    tokenizer = Tokenizer.from_file(path)
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(split=False)
    path = os.path.join(directory, "whole.json")
    tokenizer.save(path)
    return path


def time_package(path, lines, size):
    tokenizer = Tokenizer.from_file(path)
    best = 0
    for _ in range(2):
        start = time.perf_counter()
        count = sum(len(tokenizer.encode(line, add_special_tokens=False).ids) for line in lines)
        best = max(best, size / 1e6 / (time.perf_counter() - start))
    return best, count


def time_ours(program, path, text):
    output = subprocess.run([program, path, "--time", text], check=True, capture_output=True, text=True).stdout
    rates = {"": [], " with spans": []}
    for spans, rate, count in re.findall(r"^lines( with spans)?: ([\d.]+) MB/s, (\d+) tokens", output, re.M):
        rates[spans].append(float(rate))
    return max(rates[" with spans"]), max(rates[""]), int(count)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--program", required=True, help="the built tests/tokenizer_encode")
    parser.add_argument("--text", nargs="+", required=True)
    parser.add_argument("--tokenizer", nargs="*", default=[], metavar="NAME=FILE")
    parser.add_argument("--vocab-size", type=int, default=16000)
    parser.add_argument("--megabytes", type=float, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    data = b"".join(open(path, "rb").read() for path in args.text)[:int(args.megabytes * 1e6)]
    lines = data.decode(errors="ignore").replace("\r", "").split("\n")
    with tempfile.TemporaryDirectory() as directory:
        text = os.path.join(directory, "text")
        size = 0
        with open(text, "wb") as f:
            size = f.write("\n".join(lines).encode())
        lines = [line + "\n" for line in lines[:-1]] + lines[-1:]
        chosen = [tuple(item.split("=", 1)) for item in args.tokenizer] or list(train(directory, lines, args.vocab_size))
        if not args.tokenizer:
            chosen.append(("Unigram, whole lines", whole(os.path.join(directory, "Unigram.json"), directory)))
        print(f"{size / 1e6:.1f} MB, {len(lines)} lines, one thread\n")
        print(f"{'tokenizer':<22}{'tokenizers MB/s':>16}{'Cambium MB/s':>14}{'ratio':>8}{'without spans':>15}")
        for name, path in chosen:
            theirs, ours, plain = [], [], []
            for _ in range(args.rounds):
                rate, count = time_package(path, lines, size)
                theirs.append(rate)
                spans, without, our_count = time_ours(args.program, path, text)
                ours.append(spans)
                plain.append(without)
                assert count == our_count, (name, count, our_count)
            ratio = statistics.median(o / t for o, t in zip(ours, theirs))
            print(f"{name:<22}{statistics.median(theirs):>16.2f}{statistics.median(ours):>14.2f}{ratio:>8.1f}{statistics.median(plain):>15.2f}",
                  flush=True)


if __name__ == "__main__":
    main()
