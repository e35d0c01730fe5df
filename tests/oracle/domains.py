"""Labels by centroids as SHOT makes them, by neighbours as NRC and AdaContrast do, and the parts of Transfer Score, in numpy and scipy: reference/domains.safetensors."""
import argparse
import os

import numpy as np
from safetensors.numpy import save_file
from scipy.spatial import cKDTree
from scipy.spatial.distance import cdist
from scipy.stats import entropy

ROWS, WIDTH, LABELS = 40, 6, 5


def softmax(x):
    e = np.exp(x - x.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def centroid_labels(features, logits):
    """Liang et al. 2020, section 3.2, with the cosine distance and one further round."""
    p = softmax(logits)
    x = np.concatenate([features, np.ones((len(features), 1))], 1)
    x = x / np.linalg.norm(x, axis=1, keepdims=True)
    used = np.where(np.bincount(p.argmax(1), minlength=p.shape[1]) > 0)[0]
    weights = p
    for _ in range(2):
        centroids = weights.T @ x / (1e-8 + weights.sum(0)[:, None])
        labels = used[cdist(x, centroids[used], "cosine").argmin(1)]
        weights = np.eye(p.shape[1])[labels]
    return labels


def neighbour_targets(features, p, k=5):
    """What NRC's loss multiplies predictions with: the authors' bank, indices and weights."""
    bank = features / np.linalg.norm(features, axis=1, keepdims=True)
    near = np.argsort(-(bank @ bank.T), axis=1)[:, 1:k + 1]  # the first is the row itself
    targets = np.zeros_like(p)
    for i in range(len(p)):
        for j in near[i]:
            targets[i] += (1 if i in near[j] else 0.1) * p[j] + 0.1 * p[near[j]].sum(0)
    return bank, targets


def labels_by_vote(bank, p, features, k=4):
    """AdaContrast's refinement: the mean of the predictions of the nearest in the memory, by cosine."""
    near = cdist(features, bank, "cosine").argsort(1)[:, :k]
    return p[near].mean(1).argmax(1)


def unevenness(weights):
    """Yang et al. 2024: angles between the rows of a classifier, and those of a regular simplex."""
    w = weights / np.linalg.norm(weights, axis=1, keepdims=True)
    angles = np.arccos(np.clip(w @ w.T, -1, 1))[~np.eye(len(w), dtype=bool)]
    return ((angles - np.arccos(-1 / (len(w) - 1))) ** 2).mean()


def hopkins(features, points, rows):
    tree = cKDTree(features)
    a = tree.query(points)[0].sum()
    b = tree.query(features[rows], k=2)[0][:, 1].sum()
    return a / (a + b)


def information(p):
    return entropy(p.mean(0)) - entropy(p, axis=1).mean()


def transfer_parts(features, logits, weights, points, rows, batch):
    p = softmax(logits)
    batches = [p[i:i + batch] for i in range(0, len(p), batch)]
    return [unevenness(weights), hopkins(features, points, rows), information(p), np.mean([information(b) for b in batches]),
            entropy(p, axis=1).mean()]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", default=os.path.join(os.path.dirname(__file__), "..", "reference", "domains.safetensors"))
    args = parser.parse_args()
    rng = np.random.default_rng(7)
    means = rng.normal(size=(LABELS, WIDTH))
    kind = rng.integers(LABELS, size=ROWS)
    features = (means[kind] + 0.7 * rng.normal(size=(ROWS, WIDTH))).astype(np.float32)
    logits = (1.2 * features @ means.T + rng.normal(size=(ROWS, LABELS))).astype(np.float32)
    logits[:, 3] -= 20  # no row's likeliest
    tensors = {"features": features, "logits": logits,
               "centroid_labels": centroid_labels(features.astype(np.float64), logits.astype(np.float64)).astype(np.int32)}
    assert (tensors["centroid_labels"] != logits.argmax(1)).sum() > 3
    bank, targets = neighbour_targets(features.astype(np.float64), softmax(logits.astype(np.float64)))
    tensors |= {"feature_bank": bank.astype(np.float32), "score_bank": softmax(logits.astype(np.float64)).astype(np.float32),
                "neighbour_targets": targets.astype(np.float32)}
    weights = means.astype(np.float32)
    points = rng.uniform(features.min(0), features.max(0), (4, WIDTH)).astype(np.float32)
    rows = rng.choice(ROWS, 4, replace=False).astype(np.int32)
    wide = [x.astype(np.float64) for x in (features, logits, weights, points)]
    tensors |= {"weights": weights, "points": points, "rows": rows, "parts": np.array(transfer_parts(*wide, rows, 16))}
    seen = (means[np.arange(9) % LABELS] + 0.7 * rng.normal(size=(9, WIDTH))).astype(np.float32)
    voted = labels_by_vote(bank, softmax(wide[1]), seen.astype(np.float64))
    assert len(set(voted)) > 2
    tensors |= {"seen_features": seen, "voted_labels": voted.astype(np.int32)}
    save_file(tensors, args.out)


if __name__ == "__main__":
    main()
