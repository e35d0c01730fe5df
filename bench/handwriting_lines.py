#!/usr/bin/env python3
"""Lines of digits out of real handwriting, for docs/recognition.md: strings of 2 to 6 digits of MNIST, and of USPS.

    CAMBIUM_DATA=... VENV/bin/python bench/handwriting_lines.py OUT

CAMBIUM_DATA/handwriting has mnist/t10k-*.gz and usps/USPS-11000.mat; VENV has numpy, scipy and Pillow.  Writes OUT/mnist/{train,test} and
OUT/usps/{train,test}, directories with metadata.jsonl as `cambium train --task text-recognition` takes them, and OUT/crnn/{config.json, vocab.json}.
No digit is in two of the four.  Digits stand side by side, 20 rows high in MNIST and 16 in USPS as they come, on a ground of 28 rows, with a
gap of -3 to 3 columns and a height of its own each.
"""
import argparse
import gzip
import json
import os

import numpy as np
from PIL import Image
from scipy.io import loadmat

HEIGHT = 28


def mnist(folder):
    with gzip.open(os.path.join(folder, "mnist", "t10k-images-idx3-ubyte.gz")) as f:
        images = np.frombuffer(f.read(), np.uint8, offset=16).reshape(-1, 28, 28)
    with gzip.open(os.path.join(folder, "mnist", "t10k-labels-idx1-ubyte.gz")) as f:
        return images, np.frombuffer(f.read(), np.uint8, offset=8)


def usps(folder):
    content = loadmat(os.path.join(folder, "usps", "USPS-11000.mat"))
    data = next(v for k, v in content.items() if getattr(v, "ndim", 0) == 2 and 256 in v.shape)
    images = (data.T if data.shape[0] == 256 else data).reshape(-1, 16, 16).transpose(0, 2, 1)
    return images.astype(np.uint8), np.repeat([1, 2, 3, 4, 5, 6, 7, 8, 9, 0], len(images) // 10).astype(np.uint8)


def cut(image):
    columns = np.flatnonzero(image.max(0) > 40)
    rows = np.flatnonzero(image.max(1) > 40)
    return image[rows[0]:rows[-1] + 1, columns[0]:columns[-1] + 1] if len(columns) and len(rows) else image


def line(images, picks, rng):
    width = 8 + sum(images[i].shape[1] + 3 for i in picks)
    canvas, x = np.zeros((HEIGHT, width), np.uint8), 3
    for i in picks:
        glyph = images[i]
        y = int(rng.integers(0, HEIGHT - glyph.shape[0] + 1))
        canvas[y:y + glyph.shape[0], x:x + glyph.shape[1]] = np.maximum(canvas[y:y + glyph.shape[0], x:x + glyph.shape[1]], glyph)
        x = max(1, x + glyph.shape[1] + int(rng.integers(-3, 4)))
    return canvas[:, :min(width, x + 3)]


def write(out, images, labels, members, count, rng):
    os.makedirs(out, exist_ok=True)
    with open(os.path.join(out, "metadata.jsonl"), "w") as f:
        for n in range(count):
            picks = rng.choice(members, int(rng.integers(2, 7)))
            Image.fromarray(line(images, picks, rng)).save(os.path.join(out, f"{n:05}.png"))
            f.write(json.dumps(dict(file_name=f"{n:05}.png", text="".join(str(labels[i]) for i in picks))) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    folder = os.path.join(os.environ["CAMBIUM_DATA"], "handwriting")
    for name, read, counts in ("mnist", mnist, (4000, 500)), ("usps", usps, (300, 500)):
        rng = np.random.default_rng(args.seed)
        images, labels = read(folder)
        images = [cut(image) for image in images]
        order = rng.permutation(len(images))
        half = len(order) // 2
        for part, members, count in zip(("train", "test"), (order[:half], order[half:]), counts):
            write(os.path.join(args.out, name, part), images, labels, members, count, rng)
    os.makedirs(os.path.join(args.out, "crnn"), exist_ok=True)
    with open(os.path.join(args.out, "crnn", "vocab.json"), "w") as f:
        json.dump({"<pad>": 0, **{str(d): d + 1 for d in range(10)}}, f)
    with open(os.path.join(args.out, "crnn", "config.json"), "w") as f:
        json.dump(dict(model_type="crnn", architectures=["CRNNForCTC"], image_height=28, conv_dim=[16, 32, 48, 64], conv_kernel=[3, 3, 3, 3],
                       conv_padding=[1, 1, 1, 1], conv_batch_norm=[1, 1, 1, 1], pool_height=[2, 2, 7, 1], pool_width=[2, 2, 1, 1],
                       hidden_size=48, num_hidden_layers=1, vocab_size=11, pad_token_id=0), f, indent=2)


if __name__ == "__main__":
    main()
