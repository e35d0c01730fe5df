#!/usr/bin/env python3
"""What other implementations make of the same data: the numbers that Cambium's measures and statistics must give.

Writes <out>/*.json (default out: ../reference/metrics), one object a case: what goes in and what each function gives.  Undefined: null.
scikit-learn, scipy, seqeval, statsmodels, sacrebleu, rouge-score, jiwer, torchmetrics, scikit-image and pytrec_eval compute them; what none of
them has is written out in numpy below, with its source.
"""
import argparse
import json
import math
import os
import warnings

import numpy as np

HERE = os.path.dirname(os.path.abspath(__file__))
warnings.filterwarnings("ignore")


def plain(value):
    """As JSON: arrays as lists, NaN as null."""
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple, np.ndarray)):
        return [plain(v) for v in value]
    if isinstance(value, (float, np.floating)):
        return None if math.isnan(value) else float(value) if math.isfinite(value) else "infinity"
    if isinstance(value, (bool, np.bool_)):
        return bool(value)
    return int(value) if isinstance(value, np.integer) else value


def floats(values):
    return np.asarray(values, np.float32)


def short(values):
    """Of few digits, in the file too."""
    return floats(np.round(np.asarray(values) * 256) / 256)


# ---- classification ------------------------------------------------------------------------------------------------------


def calibration_error(confidences, correct, edges_or_groups):
    """Guo et al. 2017, as in their code: bins (low, high]; or groups of indices."""
    expected = maximum = 0.0
    for group in edges_or_groups:
        if len(group) == 0:
            continue
        gap = abs(correct[group].mean() - confidences[group].astype(np.float64).mean())
        expected += gap * len(group) / len(confidences)
        maximum = max(maximum, gap)
    return expected, maximum


def calibrations(confidences, correct, bins):
    c = confidences.astype(np.float64)
    edges = np.linspace(0, 1, bins + 1)
    widths = [np.nonzero((c > low) & (c <= high) | (c == 0) & (low == 0))[0] for low, high in zip(edges[:-1], edges[1:])]
    numbers = np.array_split(np.argsort(c, kind="stable"), bins)
    return {"width": calibration_error(confidences, correct, widths), "adaptive": calibration_error(confidences, correct, numbers)}


def multiclass(rng, n, classes, present, decimals):
    from sklearn import metrics as m
    targets = rng.choice(present, n)
    logits = rng.standard_normal((n, classes)) + 1.5 * np.eye(classes)[targets]
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    scores = floats(np.round(p, decimals) if decimals else p)
    predictions = scores.argmax(1)
    labels = np.arange(classes)
    matrix = m.confusion_matrix(targets, predictions, labels=labels)
    out = {"classes": classes, "targets": targets, "predictions": predictions, "scores": scores, "confusion": matrix.ravel()}
    out["accuracy"] = m.accuracy_score(targets, predictions)
    out["mutual_information"] = m.normalized_mutual_info_score(targets, predictions)
    out["balanced_accuracy"] = m.balanced_accuracy_score(targets, predictions)
    out["matthews"] = m.matthews_corrcoef(targets, predictions)
    out["kappa"] = [m.cohen_kappa_score(targets, predictions, labels=labels, weights=w) for w in (None, "linear", "quadratic")]
    per_class = m.precision_recall_fscore_support(targets, predictions, labels=labels, zero_division=0)[:3]
    iou = m.jaccard_score(targets, predictions, labels=labels, average=None, zero_division=0)
    out["per_class"] = np.stack([*per_class, iou], 1)
    for name, average, kept in (("micro", "micro", None), ("macro", "macro", None), ("macro_all", "macro", labels), ("weighted", "weighted", None)):
        three = m.precision_recall_fscore_support(targets, predictions, average=average, labels=kept, zero_division=0)[:3]
        out[name] = [*three, m.jaccard_score(targets, predictions, average=average, labels=kept, zero_division=0)]
    order = np.argsort(-scores, 1, kind="stable")
    out["top_k"] = [(order[:, :k] == targets[:, None]).any(1).mean() for k in range(1, classes + 1)]
    if not decimals and classes > 2:
        theirs = [m.top_k_accuracy_score(targets, scores, k=k, labels=labels) for k in range(1, classes)]
        assert np.allclose(theirs, out["top_k"][:-1])
    areas = [m.roc_auc_score(targets == k, scores[:, k]) for k in labels if 0 < (targets == k).sum() < n]
    out["roc_auc_ovr"] = np.mean(areas) if areas else math.nan
    if not decimals:
        wide = scores.astype(np.float64)
        out["log_loss"] = -np.log(wide[np.arange(n), targets]).mean()
        assert np.isclose(out["log_loss"], m.log_loss(targets, wide / wide.sum(1, keepdims=True), labels=labels), rtol=1e-6)
    out["brier"] = ((scores.astype(np.float64) - np.eye(classes)[targets])**2).sum(1).mean()
    confidences, correct = scores.max(1), predictions == targets
    out["correct"] = correct
    for bins in (5, 10):
        out[f"calibration_{bins}"] = calibrations(confidences, correct, bins)
        if not decimals:
            import torch
            from torchmetrics.functional.classification import multiclass_calibration_error
            theirs = multiclass_calibration_error(torch.tensor(scores), torch.tensor(targets), classes, bins, "l1")
            assert np.isclose(theirs, out[f"calibration_{bins}"]["width"][0], rtol=1e-5), (theirs, out)
    return out


def binary(rng, n, share, decimals):
    from sklearn import metrics as m
    targets = (rng.random(n) < share).astype(np.uint8)
    scores = floats(np.round(rng.random(n) * 0.7 + 0.3 * targets, decimals))
    both = 0 < targets.sum() < n
    fpr, tpr, _ = m.roc_curve(targets, scores, drop_intermediate=False)
    return {"targets": targets, "scores": scores, "fpr": [fpr[np.argmax(tpr >= r)] if both else math.nan for r in (0.5, 0.95, 1)], "roc_auc": m.roc_auc_score(targets, scores) if both else math.nan,
            "average_precision": m.average_precision_score(targets, scores) if targets.any() else math.nan,
            "brier": m.brier_score_loss(targets, scores.astype(np.float64), pos_label=1)}


def multilabel(rng, n, classes, share):
    from sklearn import metrics as m
    targets = (rng.random((n, classes)) < share).astype(np.uint8)
    targets[:, -1] = 0
    scores = floats(np.round(rng.random((n, classes)) * 0.7 + 0.3 * targets, 2))
    predictions = (scores > 0.5).astype(np.uint8)
    predictions[:, -1] = 0
    out = {"classes": classes, "targets": targets.ravel(), "scores": scores.ravel(), "predictions": predictions.ravel()}
    for name, average in (("micro", "micro"), ("macro_all", "macro"), ("weighted", "weighted")):
        three = m.precision_recall_fscore_support(targets, predictions, average=average, zero_division=0)[:3]
        out[name] = [*three, m.jaccard_score(targets, predictions, average=average, zero_division=0)]
    used = [k for k in range(classes) if targets[:, k].any()]
    out["mean_average_precision"] = np.mean([m.average_precision_score(targets[:, k], scores[:, k]) for k in used])
    return out


def classification(rng):
    return {"multiclass": [multiclass(rng, *case) for case in ((60, 4, range(4), 0), (60, 4, range(4), 1), (40, 6, [0, 2, 5], 0),
                                                              (25, 2, range(2), 0), (30, 3, [1], 0), (1, 3, [2], 0), (150, 10, range(10), 0))],
            "binary": [binary(rng, *case) for case in ((50, 0.5, 6), (80, 0.3, 1), (40, 0.1, 2), (5, 1, 2), (5, 0, 2), (1, 1, 2), (2, 0.5, 0))],
            "multilabel": [multilabel(rng, *case) for case in ((40, 5, 0.3), (12, 3, 0.6), (1, 4, 0.5))]}


# ---- regression ----------------------------------------------------------------------------------------------------------


def regression_case(x, y):
    from scipy import stats
    from sklearn import metrics as m
    several = len(x) > 1
    return {"x": x, "y": y, "mean_absolute_error": m.mean_absolute_error(y, x), "root_mean_square_error": m.root_mean_squared_error(y, x),
            "mean_absolute_percentage_error": m.mean_absolute_percentage_error(y, x),
            "r2": m.r2_score(y, x, force_finite=False) if several and np.ptp(y) else math.nan,
            "pearson": stats.pearsonr(x, y).statistic if several else math.nan,
            "spearman": stats.spearmanr(x, y).statistic if several else math.nan,
            "kendall": stats.kendalltau(x, y).statistic if several else math.nan}


def regression(rng):
    normal = rng.standard_normal
    a, b = normal(40), normal(40)
    return {"cases": [regression_case(*c) for c in (
        (a, a + b), (np.round(a, 0), np.round(a + b, 0)), (np.round(normal(101)), normal(101)), (a, -a), (a * 1e-8 + 3, a + 2 * b),
        (a[:2], b[:2]), (a[:1], b[:1]), (np.ones(5), a[:5]), (a[:5], np.ones(5)), (a[:3], np.zeros(3)), (np.array([1., 1, 2]), np.array([1., 1, 2])),
        (rng.integers(0, 3, 200).astype(float), rng.integers(0, 4, 200).astype(float)))]}


# ---- statistics ----------------------------------------------------------------------------------------------------------


class Philox:
    """cb_rng: Philox4x32-10 (Salmon et al. 2011)."""

    def __init__(self, seed, stream):
        self.seed, self.stream, self.counter = seed, stream, 0

    def block(self):
        mask = 0xFFFFFFFF
        c = [self.counter & mask, self.counter >> 32, self.stream & mask, self.stream >> 32]
        k = [self.seed & mask, self.seed >> 32]
        self.counter += 1
        for _ in range(10):
            p0, p1 = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
            c = [(p1 >> 32) ^ c[1] ^ k[0], p1 & mask, (p0 >> 32) ^ c[3] ^ k[1], p0 & mask]
            k = [(k[0] + 0x9E3779B9) & mask, (k[1] + 0xBB67AE85) & mask]
        return c

    def below(self, bound):
        while True:
            c = self.block()
            draw = c[1] << 32 | c[0]
            if draw >= 2**64 % bound:
                return draw % bound


def replicate(values, how, generator):
    seeds, items = values.shape
    draws = lambda n: [generator.below(n) for _ in range(n)]
    if how == "items":
        return values[:, draws(items)].mean()
    if how == "seeds":
        return values[draws(seeds)].mean()
    if how == "both":
        rows = draws(seeds)
        return values[np.ix_(rows, draws(items))].mean()
    return np.mean([values[draws(seeds), i] for i in range(items)])


def interval(replicates, level, samples, statistic):
    """Percentile and BCa intervals; scipy's own code for the levels of the latter."""
    from scipy._lib._array_api import array_namespace
    from scipy.stats import _resampling
    tail = (1 - level) / 2
    estimate = statistic(*samples, axis=-1)
    replicates = np.where(np.abs(replicates - estimate) < 1e-12, estimate, replicates)  # they count half, whatever the order of the sum
    low, high, _ = _resampling._bca_interval([np.asarray(s) for s in samples], statistic, -1, tail, replicates, None,
                                             xp=array_namespace(np.empty(0)))
    bca = [math.nan, math.nan] if np.isnan(low) else [np.quantile(replicates, low), np.quantile(replicates, high)]
    return {"standard_error": np.std(replicates, ddof=1), "percentile": np.quantile(replicates, [tail, 1 - tail]), "bca": bca}


def bootstrap_case(values, how, seed, resamples, level):
    replicates = [replicate(values, how, Philox(seed, r)) for r in range(resamples)]
    mean = lambda *s, axis: sum(x.mean(axis) for x in s) / len(s)
    samples = {"items": [values.mean(0)], "seeds": [values.mean(1)], "both": [values.mean(1), values.mean(0)], "stratified": list(values.T)}[how]
    if how == "both":  # rows and columns each shift the mean by their own deviation from it
        mean = lambda rows, columns, axis: rows.mean(axis) + columns.mean(axis) - values.mean()
    out = {"values": values.ravel(), "seeds": values.shape[0], "items": values.shape[1], "how": how, "seed": seed, "resamples": resamples,
           "level": level, "estimate": values.mean()}
    return out | interval(replicates, level, samples, mean)


def ratio_case(x, y, seed, resamples):
    """A statistic that is no mean: the ratio of two sums."""
    n = len(x)
    replicates = []
    for r in range(resamples):
        generator = Philox(seed, r)
        drawn = [generator.below(n) for _ in range(n)]
        replicates.append(x[drawn].sum() / y[drawn].sum())
    of = lambda i, axis: np.take(x, i).sum(axis) / np.take(y, i).sum(axis)
    return {"x": x, "y": y, "seed": seed, "resamples": resamples, "estimate": x.sum() / y.sum()} | interval(replicates, 0.95, [np.arange(n)], of)


def summary_case(x):
    from scipy import stats
    several = len(x) > 1
    error = stats.sem(x) if several else math.nan
    return {"x": x, "mean": x.mean(), "deviation": x.std(ddof=1) if several else math.nan, "standard_error": error, "minimum": x.min(),
            "median": np.median(x), "maximum": x.max(), "quantiles": np.quantile(x, [0, 0.025, 0.3, 1]),
            "interval": stats.t.interval(0.9, len(x) - 1, x.mean(), error) if several else [math.nan] * 2}


def wilcoxon_case(d):
    from scipy import stats
    kept = d[d != 0]
    if len(kept) > 50:
        r = stats.wilcoxon(d, method="asymptotic", correction=False)
    elif len(np.unique(np.abs(kept))) == len(kept):
        r = stats.wilcoxon(kept, method="exact")
    else:  # exact, given the ties
        r = stats.wilcoxon(kept, method=stats.PermutationMethod(n_resamples=1 << 20))
    return {"differences": d, "statistic": r.statistic, "p_value": r.pvalue}


def permutation_case(a, b, seed, resamples):
    """scipy where all permutations are counted; else our own draws of the same thing."""
    from scipy import stats
    if b is None:
        if 2**len(a) <= resamples:
            p = stats.permutation_test((a,), lambda x, axis: np.abs(x.mean(axis)), permutation_type="samples", vectorized=True,
                                       n_resamples=np.inf, alternative="greater").pvalue
        else:
            hits = 0
            for r in range(resamples):
                generator = Philox(seed, r)
                words = [generator.block()[0] for _ in range((len(a) + 31) // 32)]
                signs = np.array([-1 if words[i // 32] >> (i % 32) & 1 else 1 for i in range(len(a))])
                hits += abs((signs * a).mean()) >= abs(a.mean()) - 1e-13
            p = (hits + 1) / (resamples + 1)
        return {"a": a, "seed": seed, "resamples": resamples, "statistic": a.mean(), "p_value": p}
    difference = lambda x, y, axis=0: x.mean(axis) - y.mean(axis)
    if math.comb(len(a) + len(b), len(a)) <= resamples:
        p = stats.permutation_test((a, b), lambda x, y, axis: np.abs(difference(x, y, axis)), vectorized=True, n_resamples=np.inf,
                                   alternative="greater").pvalue
    else:
        hits, pool = 0, np.concatenate([a, b])
        for r in range(resamples):
            generator = Philox(seed, r)
            for i in range(len(a)):
                other = i + generator.below(len(pool) - i)
                pool[[i, other]] = pool[[other, i]]
            hits += abs(difference(pool[:len(a)], pool[len(a):])) >= abs(difference(a, b)) - 1e-13
        p = (hits + 1) / (resamples + 1)
    return {"a": a, "b": b, "seed": seed, "resamples": resamples, "statistic": difference(a, b), "p_value": p}


def distributions(rng):
    """mpmath's values, correct to the last digit: [function, x, parameters..., lower, upper]."""
    import mpmath as mp
    mp.mp.dps = 60
    half = mp.mpf(1) / 2
    rows = []

    def add(name, x, parameters, lower, upper):
        rows.append([name, x, *parameters, float(lower), float(upper)])

    def student(x, v):
        far = mp.betainc(mp.mpf(v) / 2, half, 0, v / (v + mp.mpf(x)**2), regularized=True) / 2
        return (far, 1 - far) if x < 0 else (1 - far, far)

    for x in (-37.0, -8.5, -1.96, -0.1, 0.0, 0.3, 1.0, 2.5, 6.0, 20.0, 38.0):
        add("normal", x, [], mp.ncdf(x), mp.ncdf(-x))
    for shape in (0.1, 0.5, 1.0, 2.5, 10.0, 37.5, 500.0):
        for x in (0.01 * shape, 0.5 * shape, shape, 1.3 * shape + 1, 2 * shape + 20):
            add("gamma", x, [shape], mp.gammainc(shape, 0, x, regularized=True), mp.gammainc(shape, x, mp.inf, regularized=True))
            add("chi2", 2 * x, [2 * shape], *rows[-1][-2:])
    for a in (0.1, 0.5, 1.0, 3.0, 20.0, 300.0):
        for b in (0.3, 1.0, 2.5, 40.0, 200.0):
            for x in (0.001, 0.2, a / (a + b), 0.9):
                lower, upper = mp.betainc(a, b, 0, x, regularized=True), mp.betainc(b, a, 0, 1 - mp.mpf(x), regularized=True)
                add("beta", x, [a, b], lower, upper)
    for v in (0.5, 1.0, 2.0, 3.0, 7.0, 29.0, 150.0, 1000.0):
        for x in (-12.0, -2.1, -0.5, 0.0, 1e-3, 1.3, 4.0, 40.0):
            add("t", x, [v], *student(x, v))
    for d in (1.0, 2.0, 5.0, 60.0):
        for e in (1.0, 3.0, 10.0, 120.0):
            for x in (0.01, 0.7, 1.0, 3.2, 30.0):
                share = mp.mpf(d) * x / (mp.mpf(d) * x + e)
                lower = mp.betainc(d / 2, e / 2, 0, share, regularized=True)
                add("f", x, [d, e], lower, mp.betainc(e / 2, d / 2, 0, 1 - share, regularized=True))
    return rows


def statistics(rng):
    from statsmodels.stats.contingency_tables import mcnemar
    from statsmodels.stats.multitest import multipletests
    from statsmodels.stats.proportion import proportion_confint
    normal = rng.standard_normal
    skewed = rng.exponential(size=(1, 30))
    table = np.round(normal((4, 12)) + normal((4, 1)) + 2 * normal(12), 3)
    right = (rng.random((3, 16)) < 0.7).astype(float)
    ties = np.round(normal(12) + 0.4)
    p_values = [list(rng.random(8)**2), [0.01, 0.01, 0.04, 0.04, 1.0, 0.0], [0.5], []]
    return {
        "distributions": distributions(rng),
        "summaries": [summary_case(x) for x in (normal(17), normal(4) * 1e6 + 1e9, np.ones(3), normal(1), normal(2))],
        "bootstraps": [bootstrap_case(skewed, "items", 1, 400, 0.95), bootstrap_case(skewed[:, :9], "items", 2, 300, 0.8),
                       *(bootstrap_case(table, how, 3, 300, 0.95) for how in ("items", "seeds", "both", "stratified")),
                       *(bootstrap_case(right, how, 4, 200, 0.9) for how in ("items", "both", "stratified"))],
        "ratios": [ratio_case(rng.exponential(size=20), rng.exponential(size=20) + 1, 5, 300)],
        "permutations": [permutation_case(*c) for c in (
            (normal(8) + 0.5, None, 0, 1000), (np.round(normal(9) + 0.5), None, 0, 1000), (normal(20) + 0.5, None, 1, 500),
            (normal(70) + 0.2, None, 2, 300), (normal(5), normal(4) + 1, 0, 1000), (np.round(normal(5)), np.round(normal(6)), 0, 1000),
            (normal(20), normal(25) + 0.5, 3, 400))],
        "wilcoxons": [wilcoxon_case(d) for d in (normal(12) + 0.4, normal(50) + 0.2, normal(70) + 0.1, np.round(normal(90) * 3 + 0.5), ties,
                                                 np.array([1.5, 0, 0, -2]), np.array([0.5]), np.array([1.0, -1.0]))],
        "mcnemars": [[b, c, *(v for r in (mcnemar([[0, b], [c, 0]], exact=True), mcnemar([[0, b], [c, 0]], exact=False),
                                          mcnemar([[0, b], [c, 0]], exact=False, correction=False)) for v in (r.statistic, r.pvalue))]
                     for b, c in ((3, 9), (9, 3), (5, 5), (0, 1), (0, 30), (100, 140), (1000, 1200))],
        "wilsons": [[k, n, level, *proportion_confint(k, n, 1 - level, "wilson")]
                    for k, n, level in ((7, 10, 0.95), (0, 10, 0.95), (10, 10, 0.99), (1, 1, 0.9), (480, 1000, 0.95))],
        "adjustments": [{"p": p, "holm": multipletests(p, method="holm")[1] if p else [], "bh": multipletests(p, method="fdr_bh")[1] if p else []}
                        for p in p_values]}


# ---- text ----------------------------------------------------------------------------------------------------------------

WORDS = "the a an cat sat on mat dog's well-known 3.14 1,000 U.S. (maybe) \"quoted\" no. 7-9 e.g., state-of-the-art don't $5 50% x=y 'tis".split()
STRANGE = ["Straße", "ΟΔΟΣ", "ΣΑΣ", "ΑΣ.", "İstanbul", "naïve", "東京", "タワー", "।", "¿qué?", "«da»", "…", "–", "№5", "½", "१२.३", "😀", "e\u0301", "\u212a",
           "&quot;", "&amp;lt;", "&gt;", "<skipped>", "-", "--", ",", "...", "a,b.c", "1.", ".5", "(hi)", "_under_", "the", "A", "\u3000", "\u00a0", "II", "²"]


def sentence(rng, most, strange):
    pool = WORDS + (STRANGE * 2 if strange else [])
    words = [pool[i] for i in rng.integers(0, len(pool), rng.integers(0, most + 1))]
    return " ".join(w.capitalize() if rng.random() < 0.15 else w for w in words)


def disturb(rng, text, strange):
    """Drops, swaps, doubles and replaces words, joins and splits them."""
    words = text.split(" ")
    for _ in range(rng.integers(0, 4)):
        i = rng.integers(0, len(words) + 1)
        kind = rng.integers(0, 4)
        words[i:i + int(kind == 0) + int(kind == 1)] = [] if kind == 0 else [sentence(rng, 1, strange)]
    return (" " if rng.random() < 0.9 else "  ").join(words)


def segments(rng, count, references, most, strange):
    out = []
    for _ in range(count):
        first = sentence(rng, most, strange)
        refs = [first] + [disturb(rng, first, strange) for _ in range(references - 1)]
        out.append([disturb(rng, first, strange) if rng.random() < 0.9 else sentence(rng, most, strange), refs])
    return out


BLEU_VARIANTS = [{}, {"tokenize": "intl"}, {"tokenize": "char"}, {"tokenize": "none"}, {"lowercase": True}, {"smooth_method": "floor"},
                 {"smooth_method": "floor", "smooth_value": 0.3}, {"smooth_method": "add-k"}, {"smooth_method": "add-k", "smooth_value": 2.0},
                 {"smooth_method": "none"}, {"effective_order": True}, {"max_ngram_order": 2, "tokenize": "intl", "lowercase": True}]
CHRF_VARIANTS = [{}, {"word_order": 2}, {"lowercase": True, "word_order": 1}, {"whitespace": True}, {"eps_smoothing": True, "word_order": 2},
                 {"char_order": 3, "beta": 1}]


def corpus_case(pairs):
    import sacrebleu
    hyps, refs = [h for h, _ in pairs], [list(r) for r in zip(*(r for _, r in pairs))]
    bleu, chrf = [], []
    for variant in BLEU_VARIANTS:
        r = sacrebleu.metrics.BLEU(**variant, force=True).corpus_score(hyps, refs)
        order = variant.get("max_ngram_order", 4)
        stats = sacrebleu.metrics.BLEU(**variant)._extract_corpus_statistics(hyps, refs)
        sums = np.sum(stats, 0)
        bleu.append({**variant, "score": r.score, "precisions": r.precisions, "brevity_penalty": r.bp, "lengths": [r.sys_len, r.ref_len],
                     "matches": sums[2:2 + order], "totals": sums[2 + order:]})
    for variant in CHRF_VARIANTS:
        chrf.append({**variant, "score": sacrebleu.metrics.CHRF(**variant).corpus_score(hyps, refs).score})
    return {"segments": pairs, "bleu": bleu, "chrf": chrf}


def errors_case(pairs):
    import jiwer
    hyps, refs = [h for h, _ in pairs], [r[0] for _, r in pairs]
    w, c = jiwer.process_words(refs, hyps), jiwer.process_characters(refs, hyps)
    count = lambda r: [r.substitutions + r.deletions + r.insertions, r.hits + r.substitutions + r.deletions]
    return {"segments": pairs, "words": count(w), "characters": count(c), "wer": w.wer, "cer": c.cer}


def answer_case(prediction, answers):
    from torchmetrics.functional.text.squad import _compute_exact_match_score, _compute_f1_score
    exact = max(_compute_exact_match_score(prediction, a).item() for a in answers)
    f1 = []
    for a in answers:  # torchmetrics has version 1.1's F1, where nothing never equals nothing
        both = [_normal(prediction), _normal(a)]
        f1.append(float(both[0] == both[1]) if "" in both else _compute_f1_score(prediction, a).double().item())
    return {"prediction": prediction, "answers": answers, "exact_match": exact, "f1": max(f1)}


def _normal(text):
    from torchmetrics.functional.text.squad import _normalize_text
    return _normalize_text(text)


def rouge_case(prediction, reference):
    from rouge_score import rouge_scorer
    scores = rouge_scorer.RougeScorer(["rouge1", "rouge2", "rougeL"]).score(reference, prediction)
    return {"prediction": prediction, "reference": reference} | {k: [v.precision, v.recall, v.fmeasure] for k, v in scores.items()}


def text(rng):
    corpora = [segments(rng, *c) for c in ((30, 1, 12, False), (25, 3, 10, True), (12, 2, 5, True), (1, 1, 6, False))]
    corpora += [[["", ["the cat"]]], [["the cat", [""]]], [["", [""]]], [["yes", ["no"]]],
                [["a b c", ["a b c", "a b", "a b c d"]], ["x", ["y y", "x x x"]]]]
    pairs = [p for c in corpora for p in c]
    return {"corpora": [corpus_case(c) for c in corpora],
            "errors": [errors_case(c) for c in (corpora[0], corpora[1], [["a", [""]]], [["", [""]]], [[" a  b ", ["b a\u3000"]]])],
            "answers": [answer_case(h, r) for h, r in pairs[25:60] + [["The cat.", ["cat"]], ["the", ["a"]], ["", ["x", ""]], ["the–cat", ["cat –"]]]],
            "rouge": [rouge_case(h, r[0]) for h, r in pairs[::2]]}


# ---- retrieval -----------------------------------------------------------------------------------------------------------


def ranking_case(rng, documents, retrieved, share, decimals):
    """trec_eval, through pytrec_eval.  Documents not retrieved come last; names are in the order of indices, so ties end as ours do."""
    import pytrec_eval
    grades = rng.integers(1, 4, documents) * (rng.random(documents) < share)
    if decimals == 0:
        grades[: documents // 3] = -1
    scores = floats(np.round(rng.standard_normal(retrieved), decimals))
    names = [f"d{i:05d}" for i in range(documents)]
    cuts = (1, 3, 10)
    kinds = {f"{m}.{','.join(map(str, cuts))}" for m in ("ndcg_cut", "map_cut", "P", "recall")} | {"recip_rank", "ndcg", "map", "set_recall", "set_P"}
    evaluate = pytrec_eval.RelevanceEvaluator({"q": {n: int(g) for n, g in zip(names, grades)}}, kinds)
    r = evaluate.evaluate({"q": {n: float(s) for n, s in zip(names, scores)}})["q"]
    order = np.lexsort((-np.arange(retrieved), -scores))
    rank = next((i + 1 for i, k in enumerate(order) if grades[k] > 0), math.inf)
    assert np.isclose(r["recip_rank"], 1 / rank)
    expected = {str(k): [r[f"ndcg_cut_{k}"], 1 / rank if rank <= k else 0, r[f"P_{k}"], r[f"recall_{k}"], r[f"map_cut_{k}"]] for k in cuts}
    expected["0"] = [r["ndcg"], r["recip_rank"], r["set_P"], r["set_recall"], r["map"]]
    out = {"scores": scores, "relevance": grades[:retrieved], "judged": grades, "expected": expected}
    if documents > 1 and (grades >= 0).all():
        from sklearn.metrics import dcg_score
        gains = np.exp2(grades) - 1
        ranked = np.array([gains[k] for k in order])
        best = np.sort(gains)[::-1]
        weight = 1 / np.log2(np.arange(documents) + 2)
        out["exponential"] = (ranked * weight[:retrieved]).sum() / (best * weight).sum() if best.any() else 0
        if retrieved == documents and best.any() and len(set(scores.tolist())) == documents:
            assert np.isclose(dcg_score([gains], [scores]) / dcg_score([gains], [gains]), out["exponential"])
    return out


def ranking(rng):
    return {"queries": [ranking_case(rng, *c) for c in ((12, 12, 0.4, 3), (40, 25, 0.3, 1), (30, 30, 0.5, 0), (8, 8, 0, 2), (5, 2, 1, 2), (1, 1, 1, 2),
                                                        (200, 120, 0.05, 2), (3, 3, 1, 0))]}


# ---- images, masks, poses ------------------------------------------------------------------------------------------------


def image_case(rng, channels, height, width, noise, value_range):
    from skimage import metrics as m
    a = rng.random((channels, height, width))
    a = short((a + np.roll(a, 1, 1) + np.roll(a, 2, 2)) / 3 * value_range)
    b = short(a + noise * value_range * rng.standard_normal(a.shape))
    wide = a.astype(np.float64), b.astype(np.float64)
    ssim = m.structural_similarity(*wide, channel_axis=0, data_range=value_range, gaussian_weights=True, sigma=1.5, use_sample_covariance=False)
    psnr = m.peak_signal_noise_ratio(*wide, data_range=value_range) if noise else math.inf
    return {"channels": channels, "height": height, "width": width, "range": value_range, "a": a.ravel(), "b": b.ravel(),
            "psnr": psnr, "ssim": ssim}


def surface_case(a, b, spacing):
    from scipy import ndimage
    depth = a.shape[0]

    def surface(mask):
        if depth == 1:
            return (mask[0] & ~ndimage.binary_erosion(mask[0]))[None]
        return mask & ~ndimage.binary_erosion(mask)

    out = {"sizes": a.shape, "spacing": spacing, "a": a.ravel().astype(int), "b": b.ravel().astype(int)}
    if not a.any() or not b.any():
        return out | {"distance": [math.nan] * 3}
    sa, sb = surface(a), surface(b)
    d = np.concatenate([ndimage.distance_transform_edt(~sb, sampling=spacing)[sa], ndimage.distance_transform_edt(~sa, sampling=spacing)[sb]])
    return out | {"distance": [d.max(), np.percentile(d, 95), d.mean()]}


def blob(rng, shape, sigma):
    from scipy import ndimage
    return ndimage.gaussian_filter(rng.standard_normal(shape), sigma) > 0.05


def aligned(x, y):
    """Umeyama 1991, as SPIN's and others' reconstruction errors."""
    mx, my = x.mean(0), y.mean(0)
    u, s, vt = np.linalg.svd((x - mx).T @ (y - my))
    sign = np.ones(3)
    sign[-1] = np.sign(np.linalg.det(u @ vt))
    r = (vt.T * sign) @ u.T
    scale = (s * sign).sum() / ((x - mx)**2).sum()
    return scale * (x - mx) @ r.T + my


def pose_case(rng, n, joints, noise, mirrored):
    targets = short(rng.standard_normal((n, joints, 3)))
    turn = np.linalg.qr(rng.standard_normal((3, 3)))[0]
    turn *= np.sign(np.linalg.det(turn)) * (-1 if mirrored else 1)
    predictions = short((targets @ turn) * 1.7 + 3 + noise * rng.standard_normal(targets.shape))
    visible = (rng.random((n, joints)) < 0.8).astype(np.uint8)
    visible[:, :3] = 1
    sizes = rng.random(n) + 1
    p, t, seen = predictions.astype(np.float64), targets.astype(np.float64), visible.astype(bool)
    d = np.linalg.norm(p - t, axis=-1)
    near = [np.linalg.norm(aligned(p[i][seen[i]], t[i][seen[i]]) - t[i][seen[i]], axis=-1) for i in range(n)]
    return {"n": n, "joints": joints, "predictions": predictions.ravel(), "targets": targets.ravel(), "visible": visible.ravel(), "sizes": sizes,
            "error": d[seen].mean(), "aligned": np.concatenate(near).mean(), "error_of_all": d.mean(),
            "correct": [(d / sizes[:, None] <= a)[seen].mean() for a in (1, 3, 5)]}


def segmentation_case(rng, size, classes, ignore):
    """mmsegmentation's definitions: union over the image set, classes in neither left out."""
    targets = rng.integers(0, classes - 1, size)
    predictions = np.where(rng.random(size) < 0.7, targets, rng.integers(0, classes - 1, size))
    marked = np.where(rng.random(size) < 0.1, ignore, targets)
    p, t = predictions[marked != ignore], targets[marked != ignore]
    iou = [((p == k) & (t == k)).sum() / max(((p == k) | (t == k)).sum(), 1) for k in range(classes)]
    dice = [2 * ((p == k) & (t == k)).sum() / max((p == k).sum() + (t == k).sum(), 1) for k in range(classes)]
    used = [k for k in range(classes) if ((p == k) | (t == k)).any()]
    return {"classes": classes, "ignore": ignore, "predictions": predictions.ravel(), "targets": marked.ravel(), "iou": iou, "dice": dice,
            "mean_iou": np.mean([iou[k] for k in used]), "pixel_accuracy": (p == t).mean()}


def vision(rng):
    empty = np.zeros((1, 6, 7), bool)
    point = empty.copy()
    point[0, 2, 3] = True
    return {"images": [image_case(rng, *c) for c in ((1, 11, 11, 0.1, 1.0), (3, 20, 16, 0.05, 255.0), (2, 13, 31, 0.5, 2.0), (1, 12, 12, 0, 1.0))],
            "surfaces": [surface_case(blob(rng, (1, 16, 20), 2), blob(rng, (1, 16, 20), 2), [1, 1, 1]),
                         surface_case(blob(rng, (6, 9, 8), 1.2), blob(rng, (6, 9, 8), 1.2), [2.5, 0.7, 1]), surface_case(empty, point, [1, 1, 1]),
                         surface_case(point, point, [1, 1, 1]), surface_case(point, blob(rng, (1, 6, 7), 1), [1, 2, 3]),
                         surface_case(~empty, point, [1, 1, 1])],
            "poses": [pose_case(rng, *c) for c in ((5, 12, 0.3, False), (3, 8, 0.1, True), (1, 5, 0, False), (4, 4, 2, True))],
            "segmentations": [segmentation_case(rng, (12, 10), 5, 255), segmentation_case(rng, (6, 6), 3, -1)]}


# ---- numbers of places ----


def depth_case(rng, sizes):
    """Eigen et al. 2014, of each image by itself; scikit-learn's where it has them."""
    import sklearn.metrics as m
    images, sums = [], np.zeros(4)
    for n in sizes:
        target, found = short(rng.uniform(0.5, 8, n)), short(rng.uniform(0.5, 8, n))
        found[::3] = target[::3] * np.float32(1.125)
        known = rng.random(n) < 0.8
        x, t = found[known].astype(np.float64), target[known].astype(np.float64)
        images.append({"found": found, "target": np.where(known, target, np.nan)})
        if len(x):
            sums += [np.mean(np.maximum(x / t, t / x) < 1.25), m.mean_absolute_percentage_error(t, x), math.sqrt(m.mean_squared_error(t, x)),
                     np.std(np.log(x) - np.log(t))]
    return {"images": images, **dict(zip(("delta1", "abs_rel", "rmse", "silog"), sums))}


def normals_case(rng, sizes):
    images, angles = [], []
    for n in sizes:
        target, found = (short(rng.normal(size=(3, n))) for _ in range(2))
        found[:, ::2] = short(target[:, ::2] + rng.normal(size=(3, n))[:, ::2] * 0.3)
        known = rng.random(n) < 0.8
        a, b = found.astype(np.float64)[:, known], target.astype(np.float64)[:, known]
        angles += list(np.degrees(np.arccos(np.clip((a * b).sum(0) / np.linalg.norm(a, axis=0) / np.linalg.norm(b, axis=0), -1, 1))))
        images.append({"found": found.ravel(), "target": np.where(known, target, np.nan).ravel()})
    angles = np.array(angles)
    return {"images": images, "angle": angles.sum(), "within_11": (angles <= 11.25).sum(), "within_22": (angles <= 22.5).sum(),
            "within_30": (angles <= 30).sum()}


def saliency_case(rng, sizes):
    """Precision and recall by scikit-learn at each of 256 thresholds, means over images that have something salient."""
    import sklearn.metrics as m
    images, precision, recall, absolute = [], [], [], 0
    for i, n in enumerate(sizes):
        target = (rng.random(n) < (0 if i == 1 else 0.3)).astype(np.float32)
        found = short(np.clip(target * 0.5 + rng.random(n) * 0.6, 0, 1))
        known = rng.random(n) < 0.9
        x, t = found[known].astype(np.float64), target[known] > 0.5
        absolute += np.abs(x - t).mean()
        images.append({"found": found, "target": np.where(known, target, np.nan)})
        if t.any():
            said = [np.rint(x * 255) >= level for level in range(256)]
            precision.append([m.precision_score(t, s, zero_division=0) for s in said])
            recall.append([m.recall_score(t, s) for s in said])
    p, r = np.mean(precision, 0), np.mean(recall, 0)
    return {"images": images, "absolute": absolute, "max_f": np.max(1.3 * p * r / np.maximum(0.3 * p + r, 1e-300))}


def dense(rng):
    return {"depth": [depth_case(rng, (20, 1, 7)), depth_case(rng, (16,))], "normals": [normals_case(rng, (12, 9))],
            "saliency": [saliency_case(rng, (30, 8, 17))]}


# ---- entities ------------------------------------------------------------------------------------------------------------

ENTITY_TAGS = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC", "E-LOC", "S-PER", "B-a-b", "I-a-b", "B", "I", "X"]


def entities(rng):
    """Tags at random, most of them no proper sequence, and what seqeval's default mode makes of all sentences together."""
    from seqeval.metrics import f1_score, precision_score, recall_score
    cases = []
    for tags, right in ((3, 0.9), (5, 0.5), (len(ENTITY_TAGS), 0.6), (len(ENTITY_TAGS), 0), (1, 1)):
        targets = [rng.integers(0, tags, rng.integers(1, 12)) for _ in range(12)]
        found = [np.where(rng.random(len(t)) < right, t, rng.integers(0, tags, len(t))) for t in targets]
        names = [[[ENTITY_TAGS[i] for i in s] for s in side] for side in (targets, found)]
        cases.append({"targets": targets, "predictions": found, "precision": precision_score(*names), "recall": recall_score(*names),
                      "f1": f1_score(*names)})
    return {"tags": ENTITY_TAGS, "cases": cases}


PARTS = {"entities": entities, "classification": classification, "regression": regression, "statistics": statistics, "text": text, "ranking": ranking, "vision": vision,
         "dense": dense}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", default=os.path.join(HERE, "..", "reference", "metrics"))
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    args = parser.parse_args()
    os.makedirs(args.out, exist_ok=True)
    for name in args.only:
        data = plain(PARTS[name](np.random.default_rng(list(name.encode()))))
        with open(os.path.join(args.out, name + ".json"), "w", encoding="utf-8") as f:
            json.dump(data, f, ensure_ascii=False, separators=(",", ":"))
            f.write("\n")


if __name__ == "__main__":
    main()
