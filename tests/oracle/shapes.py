"""Pictures of examples/shapes under another light, with label maps: a disc and a square that are faint before a ground that grows brighter to one side."""
import argparse
import os

import numpy as np
from PIL import Image

SIDE = 32


def picture(rng):
    y, x = np.mgrid[:SIDE, :SIDE]
    labels = np.zeros((SIDE, SIDE), np.uint8)
    r, half = rng.integers(3, 6), rng.integers(3, 5)
    while True:
        cx, cy, sx, sy = rng.integers(6, SIDE - 6, 4)
        if max(abs(cx - sx), abs(cy - sy)) > r + half + 1:
            break
    labels[(x - cx) ** 2 + (y - cy) ** 2 <= r * r] = 1
    labels[(abs(x - sx) < half) & (abs(y - sy) < half)] = 2
    level = 95 + 45 * (labels > 0) + 1.6 * (x - SIDE / 2) + rng.normal(0, 9, labels.shape)
    return np.clip(level, 0, 255).round().astype(np.uint8), labels


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", default=os.path.join(os.path.dirname(__file__), "..", "..", "examples", "shapes", "dusk"))
    args = parser.parse_args()
    rng = np.random.default_rng(11)
    for name in "images", "annotations":
        os.makedirs(os.path.join(args.out, name), exist_ok=True)
    for i in range(12):
        image, labels = picture(rng)
        Image.fromarray(image).save(os.path.join(args.out, "images", f"{i:02d}.png"), optimize=True)
        Image.fromarray(labels).save(os.path.join(args.out, "annotations", f"{i:02d}.png"), optimize=True)


if __name__ == "__main__":
    main()
