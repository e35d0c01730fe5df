"""Two domains of made-up marks, discs, squares and crosses: light on dark, and faint on an uneven ground: examples/marks."""
import os

import numpy as np

SIDE, EACH = 12, 40


def mark(kind, rng):
    y, x = np.mgrid[:SIDE, :SIDE] - (SIDE - 1) / 2 - rng.uniform(-1.5, 1.5, (2, 1, 1))
    size = rng.uniform(2.5, 4)
    inside = {0: np.hypot(x, y) < size, 1: np.maximum(abs(x), abs(y)) < size * 0.85,
              2: (np.minimum(abs(x), abs(y)) < 1) & (np.maximum(abs(x), abs(y)) < size * 1.2)}[kind]
    return inside.astype(float)


def plain(shape, rng):
    return 0.1 + 0.7 * shape + rng.normal(0, 0.06, shape.shape)


def uneven(shape, rng):
    slope = np.linspace(-0.12, 0.12, SIDE)
    ground = 0.32 + rng.choice([-1, 1]) * slope[:, None] + rng.choice([-1, 1]) * slope[None]
    return ground + 0.4 * shape + rng.normal(0, 0.06, shape.shape)


def main():
    rng = np.random.default_rng(3)
    out = os.path.join(os.path.dirname(__file__), "..", "..", "examples", "marks")
    for name, paint in ("plain", plain), ("uneven", uneven):
        labels = np.arange(3 * EACH) % 3
        images = np.stack([paint(mark(k, rng), rng) for k in labels])
        np.save(os.path.join(out, f"{name}-images.npy"), (255 * images.clip(0, 1)).round().astype(np.uint8))
        np.save(os.path.join(out, f"{name}-labels.npy"), labels.astype(np.uint8))


if __name__ == "__main__":
    main()
