"""Which rows active learning asks for, in numpy: reference/active.safetensors.  Draws are given, so that nothing is random here."""
import argparse
import os

import numpy as np
from safetensors.numpy import save_file
from scipy.spatial.distance import cdist

ROWS, WIDTH, LABELS, ASKED, COUNT = 60, 6, 5, 9, 7


def softmax(x):
    e = np.exp(x - x.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def margins(p):
    s = np.sort(p, 1)
    return s[:, -1] - s[:, -2]


def cas(p, before, free, contrast=0.03, top=12, weight=0.1):
    """LFTL: margins of predictions that are carried on, and classes balanced by the surest rows."""
    u = margins(p[free] + contrast * (p[free] - before[free]))
    labels = p[free].argmax(1)
    surest = np.argsort(-u, kind="stable")[:top]
    counts = np.bincount(labels[surest], minlength=p.shape[1])
    return u / u.max() + weight * (counts / counts.max())[labels]


def coreset(features, asked, free, draws, n):
    """Greedy k-centre; the first is drawn where nothing is known."""
    chosen = []
    centres = list(np.where(asked)[0])
    for i in range(n):
        if not centres:
            row = free[int(draws[0] * len(free))]
        else:
            distances = cdist(features[free], features[centres], "sqeuclidean").min(1)
            distances[[list(free).index(c) for c in chosen]] = -1
            row = free[distances.argmax()]
        chosen.append(row)
        centres.append(row)
    return chosen


def first_beyond(weights, draw):
    return int(np.searchsorted(np.cumsum(weights), draw * weights.sum(), side="right"))


def badge(features, p, free, draws, n):
    """k-means++ over (p - y) f^T, beginning with the longest."""
    g = p[free] - np.eye(p.shape[1])[p[free].argmax(1)]
    embeddings = (g[:, :, None] * features[free][:, None, :]).reshape(len(free), -1)
    chosen = [int(np.linalg.norm(embeddings, axis=1).argmax())]
    nearest = cdist(embeddings, embeddings[chosen], "sqeuclidean")[:, 0]
    for i in range(1, n):
        nearest[chosen] = 0
        row = first_beyond(nearest, draws[i])
        chosen.append(row)
        nearest = np.minimum(nearest, cdist(embeddings, embeddings[[row]], "sqeuclidean")[:, 0])
    return free[chosen]


def clue(features, p, free, draws, n):
    """k-means weighed by entropy, k-means++ at first; the row nearest to each centre."""
    x, w = features[free], -(p[free] * np.log(p[free])).sum(1)
    nearest = np.ones(len(free))
    chosen = []
    for i in range(n):
        weights = nearest * w
        weights[chosen] = 0
        row = first_beyond(weights, draws[i])
        chosen.append(row)
        distance = cdist(x, x[[row]], "sqeuclidean")[:, 0]
        nearest = distance if i == 0 else np.minimum(nearest, distance)
    centres, labels = x[chosen].copy(), None
    for _ in range(100):
        new = cdist(x, centres, "sqeuclidean").argmin(1)
        if labels is not None and (new == labels).all():
            break
        labels = new
        for k in range(n):
            if w[labels == k].sum() > 0:
                centres[k] = np.average(x[labels == k], axis=0, weights=w[labels == k])
    rows = []
    for k in range(n):
        distance = cdist(x, centres[[k]], "sqeuclidean")[:, 0]
        distance[rows] = np.inf
        rows.append(int(distance.argmin()))
    return free[rows]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--output", default=os.path.join(os.path.dirname(__file__), "..", "reference", "active.safetensors"))
    rng = np.random.default_rng(54)
    f32 = lambda x: x.astype(np.float32).astype(np.float64)
    features = f32(rng.normal(size=(ROWS, WIDTH)))
    logits = rng.normal(size=(ROWS, LABELS)) * 1.5 + [1, 0.5, 0, 0, -0.5]
    p, before = f32(softmax(logits)), f32(softmax(logits + rng.normal(size=logits.shape)))
    asked = np.zeros(ROWS, bool)
    asked[rng.choice(ROWS, ASKED, replace=False)] = True
    free, everything = np.where(~asked)[0], np.arange(ROWS)
    draws = rng.random(COUNT)
    scores = cas(p, before, free)
    entropies = -(p[free] * np.log(p[free])).sum(1)
    chosen = {
        "cas": free[np.argsort(scores, kind="stable")[:COUNT]],
        "margin": free[np.argsort(margins(p[free]), kind="stable")[:COUNT]],
        "entropy": free[np.argsort(-entropies, kind="stable")[:COUNT]],
        "coreset": coreset(features, asked, free, draws, COUNT),
        "coreset_anew": coreset(features, np.zeros(ROWS, bool), everything, draws, COUNT),
        "badge": badge(features, p, free, draws, COUNT),
        "clue": clue(features, p, free, draws, COUNT),
    }
    tensors = {"chosen." + name: np.array(rows, np.int64) for name, rows in chosen.items()}
    tensors |= {"features": features.astype(np.float32), "probabilities": p.astype(np.float32), "before": before.astype(np.float32),
                "asked": asked.astype(np.int64), "draws": draws, "scores": scores}
    save_file({k: np.ascontiguousarray(v) for k, v in tensors.items()}, parser.parse_args().output)


main()
