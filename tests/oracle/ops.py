#!/usr/bin/env python3
"""PyTorch's values and gradients for every case of tests/unit/op_cases.inc.h and loss_cases.inc.h.

Writes <out>/ops.safetensors and <out>/losses.safetensors.  A case NAME has NAME.x0, NAME.x1, ... (inputs), NAME.y0, ...
(outputs), and where there is a gradient NAME.dy0, ... (of the outputs) and NAME.dx0, ... (of the inputs): f64 unless
the input is an index or a mask.  The C tests run the same cases on the same inputs.

An input is "SHAPE" or "SHAPE:domain" or "SHAPE:domain:limit"; the letters of shapes have the sizes of SIZES, the
domains mean what they do in tests/unit/op_cases.h.
"""
import argparse
import os
import zlib

import torch
import torch.nn.functional as F
from safetensors.torch import save_file

SIZES = dict(A=2, B=3, C=5, D=4, G=2, H=4, K=5, M=3, N=4, P=2, R=1, S=7, T=5, V=6, Z=5)
DIFFERENTIABLE = {"", "normal", "positive", "unit", "distinct", "levels"}


# ---- inputs ----

def uniform(shape, low, high, generator):
    return low + (high - low) * torch.rand(shape, generator=generator, dtype=torch.float64)


def segments(shape):
    row = [position * 2 // shape[-1] for position in range(shape[-1] - 1)] + [-1]
    return torch.tensor(row, dtype=torch.int32).expand(shape).contiguous()


def targets(shape, limit, generator, dtype):
    ids = torch.randint(limit, shape, generator=generator).flatten()
    ids[1::4] = -100
    return ids.view(shape).to(dtype)


def distinct(shape, position, generator):
    count = int(torch.Size(shape).numel())
    grid = (96 * (torch.randperm(count, generator=generator) - count // 2) + 16 + 32 * position) / 1024
    return grid.double().view(shape)


def draw(spec, position, generator):
    letters, domain, limit, *_ = spec.split(":") + [""] * 2
    shape = [SIZES.get(letter) or int(letter) for letter in letters]
    limit = SIZES.get(limit, 0)
    makers = {
        "normal": lambda: uniform(shape, -2, 2, generator),
        "constant": lambda: uniform(shape, -2, 2, generator),
        "positive": lambda: uniform(shape, 0.5, 2.5, generator),
        "unit": lambda: uniform(shape, 0.1, 0.9, generator),
        "distinct": lambda: distinct(shape, position, generator),
        "levels": lambda: torch.randint(-1, 2, shape, generator=generator).double(),
        "probabilities": lambda: F.softmax(uniform(shape, -1, 1, generator), -1),
        "log_probabilities": lambda: F.log_softmax(uniform(shape, -1, 1, generator), -1),
        "plus_minus": lambda: torch.randint(2, shape, generator=generator).double() * 2 - 1,
        "boolean": lambda: torch.randint(2, shape, generator=generator).bool(),
        "index": lambda: torch.randint(limit, shape, generator=generator),
        "index32": lambda: torch.randint(limit, shape, generator=generator).int(),
        "positions": lambda: torch.randint(limit, shape, generator=generator).int(),
        "targets": lambda: targets(shape, limit, generator, torch.int64),
        "targets32": lambda: targets(shape, limit, generator, torch.int32),
        "table": lambda: uniform(shape, -2, 2, generator).float(),
        "variances": lambda: uniform(shape, 0.5, 2.5, generator).float(),
        "segments": lambda: segments(shape),
    }
    return makers[domain or "normal"]().requires_grad_(domain in DIFFERENTIABLE)


# ---- what PyTorch has no function for ----

def rope(x, cos, sin, positions):
    """The first 2 R elements of each head turn: (a, b) -> (a cos - b sin, b cos + a sin), a and b R apart."""
    half = cos.shape[1]
    c = cos.double()[positions.long()].unsqueeze(2)
    s = sin.double()[positions.long()].unsqueeze(2)
    a, b, rest = x[..., :half], x[..., half:2 * half], x[..., 2 * half:]
    return torch.cat([a * c - b * s, b * c + a * s, rest], -1)


def attention(q, k, v, scale=None, causal=False, window=0, segments=None, mask=None, prefix=None):
    """q (B, Tq, H, D), k and v (B, Tk, Hkv, D), written out; a query that sees nothing gives 0."""
    batch, tq, heads, size = q.shape
    tk, group = k.shape[1], heads // k.shape[2]
    row = torch.arange(tq).unsqueeze(1) + tk - tq
    column = torch.arange(tk).unsqueeze(0)
    seen = torch.ones(tq, tk, dtype=torch.bool)
    if causal:
        seen = seen & (column <= row)
    if window:
        seen = seen & (column > row - window)
    seen = seen.expand(batch, heads, tq, tk)
    if segments is not None:
        same = (segments.unsqueeze(2) == segments.unsqueeze(1)) & (segments.unsqueeze(1) >= 0)
        seen = seen & same.unsqueeze(1)
    bias = torch.zeros(batch, heads, tq, tk, dtype=q.dtype)
    if mask is not None:
        bias = bias + mask
    if prefix is not None:
        pk, pv = (p.expand(batch, -1, -1, -1) for p in prefix)
        k, v = torch.cat([pk, k], 1), torch.cat([pv, v], 1)
        seen = F.pad(seen, (pk.shape[1], 0), value=True)
        bias = F.pad(bias, (pk.shape[1], 0))
    k, v = (t.repeat_interleave(group, 2) for t in (k, v))
    scores = torch.einsum("bthd,bshd->bhts", q, k) * (scale or size ** -0.5) + bias
    any_seen = seen.any(-1, keepdim=True)
    scores = scores.masked_fill(~seen, float("-inf")).masked_fill(~any_seen, 0)
    return torch.einsum("bhts,bshd->bthd", F.softmax(scores, -1) * any_seen, v)


def sampled(x, grid, **options):
    return F.grid_sample(x, grid, **({"align_corners": False} | options))


def diagonal(x):
    return x + 8 * torch.eye(x.shape[-1], dtype=x.dtype)


def eigh_invariants(x):
    values, vectors = torch.linalg.eigh(x + x.T)
    return values, vectors.square()


def pairs(transform, x):
    return torch.view_as_real(transform(torch.view_as_complex(x)))


def lstm(x, h, c, weights, layers):
    """`weights` of every layer and direction; two layers run in both directions."""
    y, hn, cn = torch._VF.lstm(x, (h, c), list(weights) * layers ** 2, len(weights) == 4, layers, 0.0, False, layers == 2, False)
    return y, hn, cn


def gru(x, h, weights, layers):
    y, hn = torch._VF.gru(x, h, list(weights) * layers ** 2, len(weights) == 4, layers, 0.0, False, layers == 2, False)
    return y, hn


def packed(run, x, states, weights, lengths):
    """Two layers in both directions over rows that end where their lengths say."""
    rows = torch.nn.utils.rnn.pack_padded_sequence(x, lengths, enforce_sorted=False)
    states = [s.index_select(1, rows.sorted_indices) for s in states]
    y, *last = run(rows.data, rows.batch_sizes, states[0] if len(states) == 1 else states, list(weights) * 4, False, 2, 0.0, False, True)
    rows = torch.nn.utils.rnn.PackedSequence(y, rows.batch_sizes, rows.sorted_indices, rows.unsorted_indices)
    y = torch.nn.utils.rnn.pad_packed_sequence(rows, total_length=x.shape[0])[0]
    return y, *[s.index_select(1, rows.unsorted_indices) for s in last]


def turned(x, lengths):
    """Each row's own part of (B, T, ...) from its end to its beginning."""
    return torch.stack([torch.cat([r[:n].flip(0), r[n:]]) for r, n in zip(x, lengths)])


def sequence(run, products, w_hh, b_hh, states, lengths=None):
    """One layer whose products with the inputs (B, T, G H) are there; backwards where there are lengths."""
    size = products.shape[-1]
    weights = [torch.eye(size, dtype=products.dtype), w_hh, torch.zeros(size, dtype=products.dtype), b_hh]
    x = turned(products, lengths) if lengths else products
    lengths = lengths or [x.shape[1]] * len(x)
    rows = torch.nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
    states = [s.index_select(0, rows.sorted_indices)[None] for s in states]
    y, *last = run(rows.data, rows.batch_sizes, states[0] if len(states) == 1 else states, weights, True, 1, 0.0, False, False)
    rows = torch.nn.utils.rnn.PackedSequence(y, rows.batch_sizes, rows.sorted_indices, rows.unsorted_indices)
    y = torch.nn.utils.rnn.pad_packed_sequence(rows, batch_first=True, total_length=x.shape[1])[0]
    return y, [s.index_select(1, rows.unsorted_indices)[0] for s in last], lengths


def lstm_sequence(products, w_hh, b_hh):
    zeros = torch.zeros(len(products), w_hh.shape[1], dtype=products.dtype)
    y, last, _ = sequence(torch._VF.lstm, products, w_hh, b_hh, (zeros, zeros))
    return y, *last


def sequence_back(run, products, w_hh, b_hh, *states):
    y, last, lengths = sequence(run, products, w_hh, b_hh, states, [2, 5, 3])
    return turned(y, lengths), *last


def lstm_cell(gates, c):
    i, f, g, o = gates.chunk(4, -1)
    c = f.sigmoid() * c + i.sigmoid() * g.tanh()
    return o.sigmoid() * c.tanh(), c


def gru_cell(x, hh, h):
    (xr, xz, xn), (hr, hz, hn) = x.chunk(3, -1), hh.chunk(3, -1)
    z = (xz + hz).sigmoid()
    return (1 - z) * (xn + (xr + hr).sigmoid() * hn).tanh() + z * h


def ctc(x, targets, inputs, lengths, **options):
    return F.ctc_loss(x.log_softmax(-1), targets, torch.tensor(inputs), torch.tensor(lengths), reduction="none", **options)


def resized(size, mode, **options):
    return lambda x: F.interpolate(x, size, mode=mode, **options)


def batch_norm_mixed(x, w, mean, var):
    """Statistics that are 0.3 the batch's and 0.7 the running ones."""
    m = 0.3 * x.mean((0, 2)) + 0.7 * mean.double()
    v = 0.3 * x.var((0, 2), correction=0) + 0.7 * var.double()
    return (x - m[:, None]) / (v[:, None] + 1e-5).sqrt() * w[:, None]


def cross_entropy(logits, target, ignore_index=-100, label_smoothing=0.0, normalizer=None):
    rows = dict(ignore_index=ignore_index, label_smoothing=label_smoothing)
    logits, target = logits.flatten(0, -2), target.long().flatten()
    if normalizer:
        return F.cross_entropy(logits, target, reduction="sum", **rows) / normalizer
    return F.cross_entropy(logits, target, **rows)


def linear_cross_entropy(x, w, target, **options):
    return cross_entropy(x @ w.T, target, **options)


def svd_invariants(x):
    u, s, vt = torch.linalg.svd(x, full_matrices=False)
    return s, u @ vt, u.square()


def hard_with_soft_gradient(x):
    return x.round().detach() + x.tanh() - x.tanh().detach()


def reversed_gradient(x, factor):
    return x.detach() * (1 + factor) - x * factor


def low_rank_halves(y, x, a0, b0, a1, b1):
    """Which rows take which update: as in op_cases.c."""
    rows = x.reshape(-1, x.shape[-1])
    n = len(rows)
    factor = torch.zeros(2, n, 1, dtype=x.dtype)
    factor[0, : (n + 1) // 2] += 0.5
    factor[1, n // 2 :] -= 2
    factor[0, n - 1] += 0.5
    update = factor[0] * (rows @ a0.T @ b0.T) + factor[1] * (rows @ a1.T @ b1.T)
    return y + update.reshape(y.shape)


def reduced(function, x, dim, keep=False):
    """Over one dimension, or all of them when dim is None."""
    dims = tuple(range(x.dim())) if dim is None else dim
    return function(x, dims, keep)


def two(shape="ABC", domain="normal"):
    return f"{shape}:{domain}", f"{shape}:{domain}"


# ---- the cases: name: (function, inputs...) ----

LEVELS = ("ABC:levels", "BC:levels")
STRIDED = dict(stride=(2, 1), padding=(1, 2), dilation=(1, 2))
QKV = ("ATHD", "ATGD", "ATGD")

OPS = {
    "add": (torch.add, *two()),
    "add_broadcast": (torch.add, "A1C", "BC"),
    "add_0d": (torch.add, "ABC", ""),
    "sub": (torch.sub, *two()),
    "sub_broadcast": (torch.sub, "BC", "AB1"),
    "mul": (torch.mul, *two()),
    "mul_broadcast": (torch.mul, "A1C", "1B1"),
    "mul_itself": (lambda x: x * x, "ABC"),
    "div": (torch.div, "ABC", "ABC:positive"),
    "div_broadcast": (torch.div, "B1", "A1C:positive"),
    "pow": (torch.pow, "ABC:positive", "ABC"),
    "pow_broadcast": (torch.pow, "B1:positive", "AB1"),
    "maximum": (torch.maximum, *two(domain="distinct")),
    "maximum_broadcast": (torch.maximum, "AB1:distinct", "C:distinct"),
    "maximum_ties": (torch.maximum, *two(domain="levels")),
    "minimum": (torch.minimum, *two(domain="distinct")),
    "minimum_broadcast": (torch.minimum, "BC:distinct", "A1C:distinct"),
    "minimum_ties": (torch.minimum, *two(domain="levels")),
    "where": (torch.where, "ABC:boolean", "ABC", "ABC"),
    "where_broadcast": (torch.where, "B1:boolean", "A1C", "BC"),
    "lerp": (lambda a, b: torch.lerp(a, b, 0.3), *two()),
    "eq": (torch.eq, *LEVELS),
    "ne": (torch.ne, *LEVELS),
    "lt": (torch.lt, *LEVELS),
    "le": (torch.le, *LEVELS),
    "gt": (torch.gt, *LEVELS),
    "ge": (torch.ge, *LEVELS),

    "scale": (lambda x: x * -1.5, "ABC"),
    "add_scalar": (lambda x: x + 0.75, "ABC"),
    "pow_scalar": (lambda x: x ** 2.5, "ABC:positive"),
    "pow_scalar_cube": (lambda x: x ** 3, "ABC:distinct"),
    "pow_scalar_square": (lambda x: x ** 2, "ABC:levels"),
    "pow_scalar_one": (lambda x: x ** 1, "ABC:levels"),
    "pow_scalar_zero": (lambda x: x ** 0, "ABC:levels"),
    "pow_scalar_inverse": (lambda x: x ** -1, "ABC:positive"),
    "clamp": (lambda x: x.clamp(-1, 1), "ABC:distinct"),
    "clamp_ties": (lambda x: x.clamp(-1, 0), "ABC:levels"),

    "neg": (torch.neg, "ABC"),
    "abs": (torch.abs, "ABC:distinct"),
    "abs_ties": (torch.abs, "ABC:levels"),
    "sign": (torch.sign, "ABC:levels"),
    "floor": (torch.floor, "ABC:distinct"),
    "round": (torch.round, "ABC:distinct"),
    "round_ties": (lambda x: torch.round(0.5 * x), "ABC:levels"),
    "reciprocal": (torch.reciprocal, "ABC:positive"),
    "square": (torch.square, "ABC"),
    "sqrt": (torch.sqrt, "ABC:positive"),
    "rsqrt": (torch.rsqrt, "ABC:positive"),
    "exp": (torch.exp, "ABC"),
    "expm1": (torch.expm1, "ABC"),
    "log": (torch.log, "ABC:positive"),
    "log1p": (torch.log1p, "ABC:unit"),
    "sin": (torch.sin, "ABC"),
    "cos": (torch.cos, "ABC"),
    "atan": (torch.atan, "ABC"),
    "erf": (torch.erf, "ABC"),
    "tanh": (torch.tanh, "ABC"),
    "sigmoid": (torch.sigmoid, "ABC"),
    "sigmoid_far": (lambda x: torch.sigmoid(40 * x), "ABC"),
    "softplus": (lambda x: F.softplus(x, threshold=1e9), "ABC"),
    "softplus_far": (lambda x: torch.logaddexp(400 * x, torch.zeros_like(x)), "ABC"),
    "relu": (torch.relu, "ABC:distinct"),
    "relu_ties": (torch.relu, "ABC:levels"),
    "hard_swish": (lambda x: F.hardswish(2 * x), "ABC:distinct"),
    "silu": (F.silu, "ABC"),
    "gelu": (F.gelu, "ABC"),
    "gelu_tanh": (lambda x: F.gelu(x, approximate="tanh"), "ABC"),
    "silu_mul": (lambda gate, up: F.silu(gate) * up, *two()),
    "gelu_mul": (lambda gate, up: F.gelu(gate) * up, *two()),
    "gelu_tanh_mul": (lambda gate, up: F.gelu(gate, approximate="tanh") * up, *two()),

    "sum_last": (lambda x: reduced(torch.sum, x, -1, True), "ABC"),
    "sum_middle": (lambda x: reduced(torch.sum, x, 1), "ABC"),
    "sum_first": (lambda x: reduced(torch.sum, x, 0), "ABC"),
    "sum_all": (lambda x: reduced(torch.sum, x, None), "ABC"),
    "sum_all_keep": (lambda x: reduced(torch.sum, x, None, True), "ABC"),
    "mean_last": (lambda x: reduced(torch.mean, x, -1), "ABC"),
    "mean_middle": (lambda x: reduced(torch.mean, x, 1, True), "ABC"),
    "mean_all": (lambda x: reduced(torch.mean, x, None), "ABC"),
    "max_last": (lambda x: reduced(torch.amax, x, -1, True), "ABC:distinct"),
    "max_middle": (lambda x: reduced(torch.amax, x, 1), "ABC:distinct"),
    "max_all": (lambda x: reduced(torch.amax, x, None), "ABC:distinct"),
    "max_ties": (lambda x: reduced(torch.amax, x, -1), "ABC:levels"),
    "min_last": (lambda x: reduced(torch.amin, x, -1), "ABC:distinct"),
    "min_middle": (lambda x: reduced(torch.amin, x, 1, True), "ABC:distinct"),
    "min_all": (lambda x: reduced(torch.amin, x, None), "ABC:distinct"),
    "min_ties": (lambda x: reduced(torch.amin, x, 1), "ABC:levels"),
    "prod_last": (lambda x: x.prod(-1, keepdim=True), "ABC"),
    "prod_middle": (lambda x: x.prod(1), "ABC"),
    "prod_all": (lambda x: x.prod(), "AB"),
    "prod_zeros": (lambda x: x.prod(-1), "ABC:levels"),
    "logsumexp_last": (lambda x: reduced(torch.logsumexp, x, -1, True), "ABC"),
    "logsumexp_middle": (lambda x: reduced(torch.logsumexp, x, 1), "ABC"),
    "logsumexp_all": (lambda x: reduced(torch.logsumexp, x, None), "ABC"),
    "logsumexp_far": (lambda x: torch.logsumexp(512 * x, -1), "ABC"),
    "var_last": (lambda x: x.var(-1, correction=1, keepdim=True), "ABC"),
    "var_middle": (lambda x: x.var(1, correction=0), "ABC"),
    "var_all": (lambda x: x.var(correction=0), "ABC"),
    "argmax": (lambda x: x.argmax(-1), "ABC:distinct"),
    "argmax_all": (lambda x: x.argmax(), "ABC:distinct"),
    "argmin": (lambda x: x.argmin(1, keepdim=True), "ABC:distinct"),
    "sum_to": (lambda x: x.sum_to_size(x.shape[1], 1), "ABC"),
    "cumsum_last": (lambda x: x.cumsum(-1), "ABC"),
    "cumsum_middle": (lambda x: x.cumsum(1), "ABC"),
    "cumprod_last": (lambda x: x.cumprod(-1), "ABC"),
    "cumprod_middle": (lambda x: x.cumprod(1), "ABC"),
    "cumprod_zeros": (lambda x: x.cumprod(-1), "ABC:levels"),
    "softmax_last": (lambda x: x.softmax(-1), "ABC"),
    "softmax_middle": (lambda x: x.softmax(1), "ABC"),
    "log_softmax_last": (lambda x: x.log_softmax(-1), "ABC"),
    "log_softmax_first": (lambda x: x.log_softmax(0), "ABC"),

    "reshape": (lambda x: x.reshape(-1, x.shape[2]), "ABC"),
    "reshape_infer": (lambda x: x.reshape(-1, x.shape[2], 1), "ABC"),
    "expand": (lambda x: x.expand(4, -1, 3, -1), "B1C"),
    "permute": (lambda x: x.permute(2, 0, 1), "ABC"),
    "repeat": (lambda x: x.repeat(2, 1, 3), "BC"),
    "repeat_none": (lambda x: x.repeat(2, 0), "BC"),
    "transpose": (lambda x: x.transpose(0, -1), "ABC"),
    "squeeze": (lambda x: x.squeeze(1), "A1C"),
    "unsqueeze": (lambda x: x.unsqueeze(-1), "AC"),
    "slice": (lambda x: x[..., 1:5:2], "ABC"),
    "slice_negative": (lambda x: x[:, -2:99], "ABC"),
    "slice_empty": (lambda x: x[2:1], "ABC"),
    "cat_middle": (lambda *x: torch.cat(x, 1), "AMC", "ANC", "A1C"),
    "cat_last": (lambda *x: torch.cat(x, -1), "AM", "AN"),
    "cat_itself": (lambda x: torch.cat([x, x], 0), "AB"),
    "stack_first": (lambda *x: torch.stack(x, 0), "AB", "AB"),
    "stack_last": (lambda *x: torch.stack(x, -1), "AB", "AB", "AB"),
    "split": (lambda x: x.split([1, 0, x.shape[1] - 1], 1), "ABC"),
    "pad": (lambda x: F.pad(x, (0, 0, 2, 1), value=3), "ABC"),
    "pad_last": (lambda x: F.pad(x, (0, 3)), "ABC"),
    "roll": (lambda x: x.roll(1, 1), "ABC"),
    "roll_back": (lambda x: x.roll(-7, -1), "ABC"),
    "flip": (lambda x: x.flip(1), "ABC"),
    "channels_last": (lambda x: x.contiguous(memory_format=torch.channels_last), "2345"),
    "channels_last_chain": (lambda x, y: torch.tanh(x) * (y + x), "2345", "2345"),
    "contiguous": (lambda x: x.contiguous(), "ABC"),
    "cast": (lambda x: x.float(), "ABC"),

    "embedding": (lambda w, ids: F.embedding(ids, w), "VC", "AB:index:V"),
    "embedding_i32": (lambda w, ids: F.embedding(ids, w), "VC", "M:index32:V"),
    "gather_last": (lambda x, i: x.gather(-1, i), "ABC", "ABM:index:C"),
    "gather_middle": (lambda x, i: x.gather(1, i.long()), "ABC", "AMC:index32:B"),
    "gather_part": (lambda x, i: x.gather(1, i), "ABC", "1M3:index:B"),
    "scatter_add": (lambda x, i, s: x.scatter_add(1, i, s), "ABC", "AMC:index:B", "AMC"),
    "scatter_add_last": (lambda x, i, s: x.scatter_add(-1, i.long(), s), "AC", "AM:index32:C", "AM"),
    "scatter_add_part": (lambda x, i, s: x.scatter_add(1, i, s), "ABC", "1M3:index:B", "1M3"),
    "index_select": (lambda x, i: x.index_select(1, i), "ABC", "M:index:B"),
    "index_select_last": (lambda x, i: x.index_select(-1, i), "ABC", "M:index32:C"),
    "index_add": (lambda x, i, s: x.index_add(1, i, s), "ABC", "M:index:B", "AMC"),
    "index_add_first": (lambda x, i, s: x.index_add(0, i, s), "AB", "M:index32:A", "MB"),
    "topk": (lambda x: x.topk(2, -1), "ABC:distinct"),
    "topk_smallest": (lambda x: x.topk(1, 1, largest=False), "ABC:distinct"),
    "sort": (lambda x: x.sort(-1), "ABC:distinct"),
    "sort_descending": (lambda x: x.sort(1, descending=True), "ABC:distinct"),
    "sort_ties": (lambda x: x.sort(dim=-1, descending=True, stable=True), "ABC:levels"),

    "matmul": (torch.matmul, "MK", "KN"),
    "matmul_batch": (torch.matmul, "ABMK", "ABKN"),
    "matmul_broadcast": (torch.matmul, "A1MK", "BKN"),
    "matmul_shared": (torch.matmul, "ABMK", "KN"),
    "matmul_vectors": (torch.matmul, "K", "K"),
    "matmul_row": (torch.matmul, "K", "AKN"),
    "matmul_column": (torch.matmul, "AMK", "K"),
    "linear": (F.linear, "AMK", "NK"),
    "linear_bias": (F.linear, "AMK", "NK", "N"),
    "linear_vector": (F.linear, "K", "NK", "N"),
    "linear_t": (lambda x, w: x @ w, "AMK", "KN"),
    "linear_t_bias": (lambda x, w, bias: x @ w + bias, "MK", "KN", "N"),
    "linear_add": (lambda y, x, w: y + 0.5 * F.linear(x, w), "AMN", "AMK", "NK"),
    "linear_add_in_place": (lambda y, x, w: 2 * y - F.linear(x, w), "AMN", "AMK", "NK"),
    "low_rank_add": (low_rank_halves, "AMN", "AMK", "PK", "NP", "BK", "NB"),
    "low_rank_add_in_place": (lambda y, *rest: low_rank_halves(2 * y, *rest), "MN", "MK", "BK", "NB", "PK", "NP"),
    "im2col": (lambda x: F.unfold(x, (3, 2), **STRIDED), "2365"),
    "col2im": (lambda columns: F.fold(columns, (4, 3), (2, 2), padding=(0, 1), stride=(2, 1)), "288"),
    "conv2d": (F.conv2d, "2365", "4332"),
    "conv2d_bias": (lambda x, w, b: F.conv2d(x, w, b, padding=(1, 0)), "2365", "4332", "4"),
    "conv2d_strided": (lambda x, w, b: F.conv2d(x, w, b, **STRIDED), "2365", "4332", "4"),
    "conv2d_groups": (lambda x, w, b: F.conv2d(x, w, b, groups=2, stride=2), "2465", "6222", "6"),
    "max_pool2d": (lambda x: F.max_pool2d(x, (3, 2), 2, 1), "2365:distinct"),
    "max_pool1d": (lambda x: F.max_pool1d(x, 3, 1, dilation=2), "AC7:distinct"),
    "max_pool3d": (lambda x: F.max_pool3d(x, 2), "22445:distinct"),
    "max_pool_ties": (lambda x: F.max_pool2d(x, 2, 1), "2265:levels"),
    "avg_pool2d": (lambda x: F.avg_pool2d(x, (3, 2), (2, 1), 1), "2365"),
    "avg_pool2d_exclude": (lambda x: F.avg_pool2d(x, (3, 2), padding=(1, 0), count_include_pad=False), "2365"),
    "avg_pool1d": (lambda x: F.avg_pool1d(x, 2), "AC7"),
    "adaptive_avg_pool2d": (lambda x: F.adaptive_avg_pool2d(x, (4, 2)), "2365"),
    "global_avg_pool": (lambda x: F.adaptive_avg_pool2d(x, 1), "ACMK"),
    "adaptive_avg_pool3d": (lambda x: F.adaptive_avg_pool3d(x, (2, 1, 3)), "22345"),
    "interpolate_nearest": (lambda x: F.interpolate(x, (9, 3)), "2365"),
    "interpolate_bilinear": (resized((9, 3), "bilinear"), "2365"),
    "interpolate_bilinear_corners": (resized((4, 7), "bilinear", align_corners=True), "2365"),
    "interpolate_bicubic": (resized((9, 3), "bicubic"), "2365"),
    "interpolate_bicubic_corners": (resized((4, 7), "bicubic", align_corners=True), "2365"),
    "interpolate_linear": (resized(5, "linear"), "AC7"),
    "interpolate_trilinear": (resized((4, 2, 7), "trilinear"), "22345"),
    "interpolate_bilinear_antialias": (resized((2, 7), "bilinear", antialias=True), "2398"),
    "interpolate_bicubic_antialias": (resized((4, 3), "bicubic", antialias=True), "2398"),
    "grid_sample": (lambda x, g: sampled(x, g + 0.25), "2344", "2532:distinct"),
    "grid_sample_corners": (lambda x, g: sampled(x, g, align_corners=True), "2335", "2532:distinct"),
    "grid_sample_border": (lambda x, g: sampled(x, g, padding_mode="border", align_corners=True), "2335", "2532:distinct"),
    "grid_sample_reflection": (lambda x, g: sampled(x, g, padding_mode="reflection", align_corners=True), "2335", "2532:distinct"),
    "grid_sample_reflection_borders": (lambda x, g: sampled(x, g + 0.25, padding_mode="reflection"), "2344", "2532:distinct"),
    "grid_sample_nearest": (lambda x, g: sampled(x, g + 0.07, mode="nearest"), "2344", "2532:distinct"),
    "affine_grid": (lambda t: F.affine_grid(t, (2, 1, 3, 4), align_corners=False), "223"),
    "affine_grid_corners": (lambda t: F.affine_grid(t, (2, 1, 3, 1), align_corners=True), "223"),
    "solve_triangular": (lambda b, r: torch.linalg.solve_triangular(diagonal(r), b, upper=True, left=False), "CB", "BB"),
    "solve_triangular_transposed": (lambda b, r: torch.linalg.solve_triangular(diagonal(r).T, b, upper=False, left=False), "CB", "BB"),
    "cholesky": (lambda x: torch.linalg.cholesky(diagonal(x @ x.T)), "NN"),
    "eigh": (eigh_invariants, "NN:distinct"),
    "fft": (lambda x: pairs(torch.fft.fft, x), "AS2"),
    "fft_inverse": (lambda x: pairs(torch.fft.ifft, x), "AS2"),
    "fft_two": (lambda x: pairs(torch.fft.fft2, x), "AMS2"),
    "fft_two_inverse": (lambda x: pairs(torch.fft.ifft2, x), "AMS2"),
    "fft_prime": (lambda x: pairs(torch.fft.fft, x), "AK2"),
    "rfft": (lambda x: torch.view_as_real(torch.fft.rfft(x)), "AS"),
    "rfft_two": (lambda x: torch.view_as_real(torch.fft.rfft2(x)), "ANS"),
    "irfft": (lambda x: torch.fft.irfft(torch.view_as_complex(x), 7), "A42"),
    "irfft_even": (lambda x: torch.fft.irfft(torch.view_as_complex(x), 6), "A42"),
    "irfft_two": (lambda x: torch.fft.irfft2(torch.view_as_complex(x), (3, 6)), "A342"),
    "lstm": (lambda x, *w: lstm(x, w[4], w[5], w[:4], 1), "TB4", "84", "82", "8", "8", "1B2", "1B2"),
    "lstm_layers": (lambda x, a, b, h, c: lstm(x, h, c, (a, b), 2), "TB4", "84", "82", "4B2", "4B2"),
    "gru": (lambda x, *w: gru(x, w[4], w[:4], 1), "TB4", "64", "62", "6", "6", "1B2"),
    "gru_layers": (lambda x, a, b, h: gru(x, h, (a, b), 2), "TB4", "64", "62", "4B2"),
    "lstm_lengths": (lambda x, a, b, h, c: packed(torch._VF.lstm, x, (h, c), (a, b), [2, 5, 3]), "534", "84", "82", "432", "432"),
    "gru_lengths": (lambda x, a, b, h: packed(torch._VF.gru, x, (h,), (a, b), [2, 5, 3]), "534", "64", "62", "432"),
    "lstm_sequence": (lstm_sequence, "BT8", "82", "8"),
    "lstm_sequence_back": (lambda x, w, h, c: sequence_back(torch._VF.lstm, x, w, torch.zeros(8, dtype=x.dtype), h, c),
                           "358", "82", "32", "32"),
    "gru_sequence_back": (lambda x, w, b, h: sequence_back(torch._VF.gru, x, w, b, h), "356", "62", "6", "32"),
    "lstm_cell": (lstm_cell, "B8", "B2"),
    "gru_cell": (gru_cell, "B6", "B6", "B2"),
    "ctc": (lambda x, t: ctc(x, t, (5, 4, 5), (2, 1, 0)), "534", "33:index:M"),
    "ctc_blank": (lambda x, t: ctc(x, t.long(), (5, 5, 1), (2, 1, 3), blank=3, zero_infinity=True), "534", "33:index32:M"),
    "conv2d_depthwise": (lambda x, w: F.conv2d(x, w, groups=4, padding=1), "2465", "4133"),
    "conv1d": (lambda x, w, b: F.conv1d(x, w, b, stride=2, padding=2, dilation=2), "237", "433", "4"),
    "conv3d": (lambda x, w, b: F.conv3d(x, w, b, stride=(1, 2, 1), padding=(1, 0, 1)), "22345", "32223", "3"),
    "conv_transpose1d": (lambda x, w, b: F.conv_transpose1d(x, w, b, stride=3, output_padding=2, dilation=2), "235", "342", "4"),
    "conv_transpose2d": (lambda x, w, b: F.conv_transpose2d(x, w, b, stride=2, padding=(1, 0), output_padding=(1, 0), groups=2),
                         "2434", "4332", "6"),
    "conv_transpose3d": (lambda x, w: F.conv_transpose3d(x, w, stride=(2, 1, 1)), "22323", "23222"),
    "conv2d_point": (F.conv2d, "2365", "4311", "4"),
    "linear_low_rank": (lambda x, w, a, b: F.linear(x, w) + 2 * F.linear(F.linear(x, a), b), "MK", "NK", "PK", "NP"),

    "rms_norm": (lambda x, w: F.rms_norm(x, w.shape, w, 1e-5), "ABC", "C"),
    "rms_norm_plain": (lambda x: F.rms_norm(x, x.shape[-1:], None, 1e-2), "ABC"),
    "layer_norm": (lambda x, w, b: F.layer_norm(x, w.shape, w, b, 1e-2), "ABC", "C", "C"),
    "layer_norm_weight": (lambda x, w: F.layer_norm(x, w.shape, w, None, 1e-2), "ABC", "C"),
    "layer_norm_bias": (lambda x, b: F.layer_norm(x, b.shape, None, b, 1e-2), "ABC", "C"),
    "layer_norm_plain": (lambda x: F.layer_norm(x, x.shape[-1:], None, None, 1e-2), "ABC"),
    "batch_norm": (lambda x, w, b: F.batch_norm(x, None, None, w, b, True), "ACMK", "C", "C"),
    "batch_norm_rows": (lambda x: F.batch_norm(x, None, None, training=True, eps=1e-2), "ZC"),
    "batch_norm_last": (lambda x, w, b: F.batch_norm(x, None, None, w, b, True), "ACMK", "C", "C"),
    "batch_norm_running": (lambda x, w, b, m, v: F.batch_norm(x, m.double(), v.double(), w, b), "ACM", "C", "C", "C:table", "C:variances"),
    "batch_norm_mixed": (batch_norm_mixed, "ACM", "C", "C:table", "C:variances"),
    "group_norm": (lambda x, w, b: F.group_norm(x, 2, w, b), "B6MK", "6", "6"),
    "group_norm_last": (lambda x, w: F.group_norm(x, 3, w, None, 1e-2), "B6MK", "6"),
    "instance_norm": (lambda x, w, b: F.instance_norm(x, weight=w, bias=b), "ACMK", "C", "C"),
    "affine": (lambda x, w, b: x * w + b, "ABC", "C", "C"),
    "affine_scale": (lambda x, w: x * w, "BC", "C"),
    "rope": (rope, "ATHD", "VR:table", "VR:table", "AT:positions:V"),
    "attention": (lambda q, k, v: attention(q, k, v, 0.7), "ATHD", "ASHD", "ASHD"),
    "attention_causal": (lambda q, k, v: attention(q, k, v, causal=True), *QKV),
    "attention_tail": (lambda q, k, v: attention(q, k, v, causal=True), "ATHD", "ASGD", "ASGD"),
    "attention_window": (lambda q, k, v: attention(q, k, v, causal=True, window=2), *QKV),
    "attention_segments": (lambda q, k, v, s: attention(q, k, v, causal=True, segments=s), *QKV, "AT:segments"),
    "attention_mask": (lambda q, k, v, m: attention(q, k, v, mask=m), "ATHD", "ASGD", "ASGD", "AHTS"),
    "attention_mask_broadcast": (lambda q, k, v, m: attention(q, k, v, mask=m, causal=True), *QKV, "H1T"),
    "attention_prefix": (lambda q, k, v, *p: attention(q, k, v, causal=True, prefix=p), *QKV, "1PGD", "1PGD"),
    "attention_everything": (lambda q, k, v, m, pk, pv, s: attention(q, k, v, 0.5, True, 3, s, m, (pk, pv)),
                             *QKV, "A11T", "APGD", "APGD", "AT:segments"),
    "linear_cross_entropy": (linear_cross_entropy, "AMK", "VK", "AM:targets:V"),
    "linear_cross_entropy_smooth": (lambda x, w, t: linear_cross_entropy(x, w, t, label_smoothing=0.1, normalizer=7),
                                    "ZK", "VK", "Z:targets32:V"),
    "linear_cross_entropy_scaled": (lambda x, w, t: 3 * linear_cross_entropy(x, w, t, ignore_index=0),
                                    "MK", "VK", "M:index:V"),
    "cross_entropy": (cross_entropy, "MV", "M:targets:V"),
    "cross_entropy_smooth": (lambda x, t: cross_entropy(x, t, label_smoothing=0.2, normalizer=5),
                             "ZV", "Z:targets32:V"),

    "svd": (svd_invariants, "CB:distinct"),
    "svd_wide": (svd_invariants, "BC:distinct"),
    "qr": (torch.linalg.qr, "CB:distinct"),
    "qr_square": (torch.linalg.qr, "BB:distinct"),
    "inverse": (lambda x: torch.linalg.inv(x + 8 * torch.eye(x.shape[-1], dtype=x.dtype)), "ABB"),
    "solve": (lambda b, a: torch.linalg.solve(a, b, left=False), "CB", "BB:distinct"),

    "detach": (lambda x: x * x.detach(), "ABC"),
    "straight_through": (hard_with_soft_gradient, "ABC"),
    "reverse_gradient": (lambda x: reversed_gradient(x, 0.3), "ABC"),
    "checkpoint": (lambda x, w: torch.tanh(x * w.square()), "ABC", "C"),
}


def bce(weight, reduction):
    return lambda x, t: F.binary_cross_entropy_with_logits(x, t, pos_weight=torch.tensor(weight, dtype=x.dtype),
                                                           reduction=reduction)


def cosine_embedding(margin, reduction):
    return lambda a, b, t: F.cosine_embedding_loss(a, b, t, margin, reduction=reduction)


def soft_cross_entropy(logits, target, label_smoothing, reduction):
    """F.cross_entropy with probabilities as targets; classes come second there."""
    return F.cross_entropy(logits.movedim(-1, 1), target.movedim(-1, 1), label_smoothing=label_smoothing,
                           reduction=reduction)


def ranking(scale, symmetric=False, dot=False):
    """MultipleNegativesRankingLoss and its symmetric form, of sentence-transformers."""
    def loss(anchors, candidates):
        a, c = (anchors, candidates) if dot else (F.normalize(anchors, dim=1), F.normalize(candidates, dim=1))
        scores, right = scale * a @ c.T, torch.arange(len(anchors))
        forward = F.cross_entropy(scores, right)
        return (forward + F.cross_entropy(scores[:, :len(anchors)].T, right)) / 2 if symmetric else forward
    return loss


def cosent(cosines, targets):
    """CoSENTLoss of sentence-transformers, scale 2."""
    difference = 2 * (cosines[:, None] - cosines[None, :])
    wrong = targets[:, None] < targets[None, :]
    return torch.logsumexp(torch.cat([torch.zeros(1, dtype=cosines.dtype), difference[wrong]]), 0)


def dense(kind):
    """The sum over places of (A, K, C, T) that have all their targets; those above 1.5 are holes."""
    def loss(x, t):
        counts = ~(t > 1.5).any(1, keepdim=True)
        t = t if kind in ("l2", "cosine", "l1") else torch.exp(t) if kind == "silog" else torch.sigmoid(t)
        if kind == "silog":
            total = 0
            for x1, t1, c1 in zip(x, t, counts):
                d = (torch.log(x1) - torch.log(t1))[c1]
                total = total + (d ** 2).sum() - d.sum() ** 2 / (2 * max(len(d), 1))
            return total
        places = {"l2": lambda: ((x - t) ** 2).mean(1), "l1": lambda: (x - t).abs().mean(1),
                  "cosine": lambda: 1 - F.cosine_similarity(x, t, 1, 1e-8),
                  "bce": lambda: F.binary_cross_entropy_with_logits(x, t, reduction="none").mean(1)}[kind]()
        return places[counts[:, 0]].sum()
    return loss


# ---- two domains, and predictions without targets ----

def entropy(logits):
    return torch.distributions.Categorical(logits=logits).entropy()


def contrast(queries, keys, others, left_out=None):
    """MoCo's logits, the key's first; at a temperature of 0.5."""
    q, k, o = (F.normalize(x, dim=1) for x in (queries, keys, others))
    far = q @ o.T / 0.5
    if left_out is not None:
        far = far.masked_fill(left_out, float("-inf"))
    logits = torch.cat([(q * k).sum(1, keepdim=True) / 0.5, far], 1)
    return F.cross_entropy(logits, torch.zeros(len(q), dtype=torch.int64))


def marginal_entropy(logits):
    return torch.distributions.Categorical(probs=logits.softmax(1).mean(0)).entropy()


def certainty(logits):
    w = 1 + torch.exp(-entropy(logits))
    return (w / w.mean()).detach()


def pseudo_label(logits, judge, threshold):
    p, label = judge.detach().softmax(1).max(1)
    return (F.cross_entropy(logits, label, reduction="none") * (p >= threshold)).mean()


def class_confusion(logits, temperature):
    """Algorithm 1 of Jin et al. 2020."""
    p = (logits / temperature).softmax(1)
    c = p.T @ torch.diag(certainty(logits / temperature)) @ p
    c = c / c.sum(1, keepdim=True)
    return (c.sum() - c.trace()) / c.shape[0]


def coral(s, t):
    d = s.shape[1]
    return (torch.cov(s.T) - torch.cov(t.T)).pow(2).sum() / (4 * d * d)


def gaussians(x, count, bandwidth):
    d = (x[:, None] - x[None]).pow(2).sum(2)
    middle = bandwidth or d.detach().sum() / (len(x) * (len(x) - 1))
    return sum(torch.exp(-d / (middle * 2.0 ** (i - count // 2))) for i in range(count))


def mmd(pairs, kernels, linear=False):
    """pairs: (source, target) of each layer; the kernel is their product."""
    n = len(pairs[0][0])
    k = torch.stack([gaussians(torch.cat(p), *kernel) for p, kernel in zip(pairs, kernels)]).prod(0)
    ss, tt, st = k[:n, :n], k[n:, n:], k[:n, n:]
    if linear:
        i = torch.arange(n)
        j = (i + 1) % n
        return (ss[i, j] + tt[i, j] - st[i, j] - st[j, i]).mean()
    m = len(tt)
    return ((ss.sum() - ss.trace()) / (n * (n - 1)) + (tt.sum() - tt.trace()) / (m * (m - 1)) - 2 * st.mean())


def domain(s, t, ws=None, wt=None):
    of = [F.binary_cross_entropy_with_logits(x, torch.full_like(x, y), w) for x, y, w in ((s, 1.0, ws), (t, 0.0, wt))]
    return (of[0] + of[1]) / 2


def margin_disparity(s, sa, t, ta, margin):
    other = 1 - ta.softmax(1).gather(1, t.argmax(1, keepdim=True))
    return margin * F.cross_entropy(sa, s.argmax(1)) - other.log().mean()


DISTINCT = two(domain="distinct")
BCE = ("ABC", "ABC:unit")
COSINE = ("MC", "MC", "M:plus_minus")

LOSSES = {
    "mse_mean": (F.mse_loss, *two()),
    "mse_sum": (lambda x, t: F.mse_loss(x, t, reduction="sum"), *two()),
    "mse_none": (lambda x, t: F.mse_loss(x, t, reduction="none"), *two()),
    "l1_mean": (F.l1_loss, *DISTINCT),
    "l1_sum": (lambda x, t: F.l1_loss(x, t, reduction="sum"), *DISTINCT),
    "l1_none": (lambda x, t: F.l1_loss(x, t, reduction="none"), *DISTINCT),
    "huber_mean": (lambda x, t: F.huber_loss(x, t, delta=0.79), *DISTINCT),
    "huber_sum": (lambda x, t: F.huber_loss(x, t, delta=0.79, reduction="sum"), *DISTINCT),
    "huber_none": (lambda x, t: F.huber_loss(x, t, delta=0.79, reduction="none"), *DISTINCT),
    "huber_ties": (lambda x, t: F.huber_loss(x, t, delta=1.0, reduction="none"), *two(domain="levels")),
    "bce_mean": (bce(1.0, "mean"), *BCE),
    "bce_sum_weighted": (bce(3.0, "sum"), *BCE),
    "bce_none": (bce(0.5, "none"), *BCE),
    "bce_far": (lambda x, t: bce(2.0, "none")(400 * x, t), *BCE),
    "kl_div_mean": (lambda x, t: F.kl_div(x, t, reduction="batchmean"), "AC", "AC:unit"),
    "kl_div_sum": (lambda x, t: F.kl_div(x.log_softmax(-1), t, reduction="sum"), "ABC", "ABC:probabilities"),
    "kl_div_none": (lambda x, t: F.kl_div(x, t, reduction="none"), "ABC", "ABC:unit"),
    "kl_div_log_mean": (lambda x, t: F.kl_div(x, t, reduction="batchmean", log_target=True), "AC", "AC"),
    "kl_div_log_none": (lambda x, t: F.kl_div(x, t, reduction="none", log_target=True),
                        "ABC", "ABC:log_probabilities"),
    "cosine_similarity_last": (lambda a, b: F.cosine_similarity(a, b, -1, 1e-8), *two()),
    "cosine_similarity_middle": (lambda a, b: F.cosine_similarity(a, b, 1, 1e-8), *two(domain="positive")),
    "cosine_embedding_mean": (cosine_embedding(0.25, "mean"), *COSINE),
    "cosine_embedding_sum": (cosine_embedding(0.0, "sum"), *COSINE),
    "cosine_embedding_none": (cosine_embedding(0.1, "none"), "TC", "TC", "T:plus_minus"),
    "soft_cross_entropy_mean": (lambda x, t: soft_cross_entropy(x, t, 0.0, "mean"), "MV", "MV:probabilities"),
    "soft_cross_entropy_smooth": (lambda x, t: soft_cross_entropy(x, t, 0.1, "sum"), "MV", "MV:unit"),
    "soft_cross_entropy_none": (lambda x, t: soft_cross_entropy(x, t, 0.2, "none"), "ABV", "ABV:probabilities"),
    "normalize": (lambda x: F.normalize(x, dim=1), "ABC:positive"),
    "ranking": (ranking(5.0), "MC", "VC"),
    "ranking_symmetric": (ranking(3.0, symmetric=True), "MC", "VC"),
    "ranking_dot": (ranking(1.0, dot=True), "MC", "VC"),
    "contrast": (contrast, "MC", "MC", "VC"),
    "contrast_left_out": (contrast, "MC", "MC:constant", "VC:constant", "MV:boolean"),
    "cosent": (cosent, "V", "V:constant"),
    "dense_l2": (dense("l2"), "ABCT", "ABCT:constant"),
    "dense_l1": (dense("l1"), "ABCT:distinct", "ABCT:plus_minus"),
    "dense_silog": (dense("silog"), "A1CT:positive", "A1CT:constant"),
    "dense_cosine": (dense("cosine"), "ABCT", "ABCT:constant"),
    "dense_bce": (dense("bce"), "A1CT", "A1CT:constant"),
    "entropy_none": (entropy, "ABV"),
    "entropy_mean": (lambda x: entropy(x).mean(), "MV"),
    "entropy_sum": (lambda x: entropy(x).sum(), "MV"),
    "marginal_entropy": (marginal_entropy, "MV"),
    "mutual_information": (lambda x: marginal_entropy(x) - entropy(x).mean(), "MV"),
    "certainty_weights": (certainty, "MV:constant"),
    "pseudo_label": (lambda x, j: pseudo_label(x, j, 0.4), "MV", "MV:constant"),
    "anchor_attention": (lambda z, m: entropy(F.cosine_similarity(z[:, None], m[None], dim=2)).mean(), "MC", "VC:constant"),
    "class_confusion": (lambda x: class_confusion(x, 2.5), "MV"),
    "coral": (coral, "MC", "VC"),
    "mmd_fixed": (lambda s, t: mmd([(s, t)], [(1, 3.0)]), "MC", "VC"),
    "mmd_kernels": (lambda s, t: mmd([(s, t)], [(5, None)]), "MC", "VC"),
    "mmd_linear": (lambda s, t: mmd([(s, t)], [(3, 4.0)], linear=True), "MC", "MC"),
    "mmd_joint": (lambda s, t, ps, pt: mmd([(s, t), (ps, pt)], [(5, None), (1, 1.68)]), "MC", "VC", "MV", "VV"),
    "domain": (domain, "M", "V"),
    "domain_weighted": (domain, "M", "V", "M:probabilities", "V:probabilities"),
    "multilinear_map": (lambda f, p: torch.einsum("nk,nc->nkc", p, f).flatten(1), "MC", "MV"),
    "multilinear_map_random": (lambda f, p, a, b: (f @ a) * (p @ b) / a.shape[1] ** 0.5,
                               "MC", "MV", "CT:constant", "VT:constant"),
    "classifier_discrepancy": (lambda a, b: (a.softmax(-1) - b.softmax(-1)).abs().mean(), "MV:distinct", "MV:distinct"),
    "margin_disparity": (lambda s, sa, t, ta: margin_disparity(s, sa, t, ta, 4.0), "MV:constant", "MV", "VV:constant", "VV"),
}


# ---- running ----

def run(name, function, specs):
    """The tensors of one case by name."""
    generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    inputs = [draw(spec, i, generator) for i, spec in enumerate(specs)]
    outputs = function(*inputs)
    outputs = [outputs] if isinstance(outputs, torch.Tensor) else list(outputs)
    tensors = {f"{name}.x{i}": x for i, x in enumerate(inputs)} | {f"{name}.y{k}": y for k, y in enumerate(outputs)}
    live = [(k, y) for k, y in enumerate(outputs) if y.requires_grad]
    gradients = [uniform(y.shape, -2, 2, generator).to(y.dtype) for _, y in live]
    if live:
        torch.autograd.backward([y for _, y in live], gradients)
    tensors |= {f"{name}.dy{k}": dy for (k, _), dy in zip(live, gradients)}
    tensors |= {f"{name}.dx{i}": x.grad for i, x in enumerate(inputs) if x.grad is not None}
    return {key: value.detach().contiguous().clone() for key, value in tensors.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", default=os.path.normpath(os.path.join(os.path.dirname(__file__), "..", "reference", "ops")))
    args = parser.parse_args()
    torch.set_num_threads(1)
    os.makedirs(args.out, exist_ok=True)
    for file, cases in ("ops", OPS), ("losses", LOSSES):
        tensors = {}
        for name, (function, *specs) in cases.items():
            tensors |= run(name, function, specs)
        path = os.path.join(args.out, f"{file}.safetensors")
        save_file(tensors, path)
        print(f"{path}: {len(cases)} cases, {len(tensors)} tensors, {os.path.getsize(path)} bytes")


if __name__ == "__main__":
    main()
