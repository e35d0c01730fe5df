#!/usr/bin/env python3
"""Tiny forecasters in torch, and ADCSD's module on one of them.

    forecasting.py tests/reference/forecasting

Writes gcgru/ and dlinear/ (config.json, model.safetensors) and expected.safetensors:
    adjacency          f32 (5, 5)        weights of a graph, before they are normalised
    mean, std          f32 (2)           of the processor
    gcgru.input        f32 (2, 6, 5, 2), .targets (2, 4, 5, 1), with one NaN
    gcgru.forecast, .loss (Huber's, delta 2, of restored numbers), .grad.NAME of every parameter; dlinear.* likewise, with two targets
    adcsd.y0           f32 (1, 4, 5, 2)  a forecast; adcsd.targets; adcsd.p.NAME the parameters, whose lambdas are not 0
    adcsd.trend, .season, .y, .loss, .grad.NAME
    adcsd.stream.y0, .targets (3, 4, 5, 2), adcsd.after.NAME: the parameters after three steps of Adam on them, from lambdas of 0
"""
import argparse
import json
import os

import torch
import torch.nn as nn
import torch.nn.functional as F
from safetensors.torch import save_file

B, T, P, N, C, H, HEAD = 2, 6, 4, 5, 2, 8, 6
MEAN, STD = torch.tensor([3.0, -1.0]), torch.tensor([2.5, 0.5])


def trend_of(x, dim, kernel):
    """Wu et al.'s series_decomp: the ends repeated, then a mean over the kernel."""
    x = x.transpose(dim, -1)
    front, end = x[..., :1].expand(*x.shape[:-1], kernel // 2), x[..., -1:].expand(*x.shape[:-1], kernel // 2)
    y = torch.cat([front, x, end], -1)
    y = F.avg_pool1d(y.reshape(-1, 1, y.shape[-1]), kernel, stride=1).reshape(*x.shape)
    return y.transpose(dim, -1)


class GCGRU(nn.Module):
    def __init__(self, adjacency):
        super().__init__()
        self.gru = nn.GRU(C, H, batch_first=True)
        self.nodes = nn.Parameter(torch.randn(N, H))
        self.own, self.neighbor, self.head = nn.Linear(H, H), nn.Linear(H, H, bias=False), nn.Linear(H, P)
        graph = adjacency.clone()
        graph.fill_diagonal_(1)
        self.graph = graph / graph.sum(1, keepdim=True)

    def forward(self, x):
        b = x.shape[0]
        _, h = self.gru(x.permute(0, 2, 1, 3).reshape(b * N, T, C))
        h = h[0].reshape(b, N, H) + self.nodes
        h = h + F.relu(self.own(h) + self.neighbor(self.graph @ h))
        return self.head(h).reshape(b, N, P, 1).permute(0, 2, 1, 3)

    def names(self):
        return {"encoder.input.weight": self.gru.weight_ih_l0, "encoder.input.bias": self.gru.bias_ih_l0,
                "encoder.hidden.weight": self.gru.weight_hh_l0, "encoder.hidden.bias": self.gru.bias_hh_l0,
                "node_embedding.weight": self.nodes, "layers.0.self.weight": self.own.weight, "layers.0.self.bias": self.own.bias,
                "layers.0.neighbor.weight": self.neighbor.weight, "head.weight": self.head.weight, "head.bias": self.head.bias}


class DLinear(nn.Module):
    def __init__(self):
        super().__init__()
        self.season, self.trend = nn.Linear(T, P), nn.Linear(T, P, bias=False)

    def forward(self, x):
        trend = trend_of(x, 1, 3)
        y = self.season((x - trend).permute(0, 2, 3, 1)) + self.trend(trend.permute(0, 2, 3, 1))
        return y.permute(0, 3, 1, 2)


class ADCSD(nn.Module):
    """Guo et al. 2024, arXiv:2401.04148."""

    def __init__(self, steps, nodes, channels, hidden):
        super().__init__()
        self.heads = nn.ModuleList([nn.Sequential(nn.Linear(channels, hidden), nn.LayerNorm([steps, nodes, hidden]), nn.GELU(),
                                                  nn.Linear(hidden, channels)) for _ in range(2)])
        self.gates = nn.ParameterList([nn.Parameter(torch.zeros(nodes, 1)) for _ in range(2)])

    def forward(self, y0):
        trend = trend_of(y0, 1, 5)
        return y0 + self.gates[0] * self.heads[0](y0 - trend) + self.gates[1] * self.heads[1](trend)

    def names(self):
        out = {}
        for i, part in enumerate(("seasonal", "trend")):
            for j, name in ((0, "up"), (1, "norm"), (3, "down")):
                out[f"{part}.{name}.weight"], out[f"{part}.{name}.bias"] = self.heads[i][j].weight, self.heads[i][j].bias
            out[f"{part}.lambda"] = self.gates[i]
        return out


def loss_of(y, targets):
    y = y * STD[:y.shape[-1]] + MEAN[:y.shape[-1]]
    known = torch.isfinite(targets)
    return F.huber_loss(y[known], targets[known], delta=2.0)


def plain(tensor):
    return tensor.detach().clone().contiguous()


def judge(name, model, names, x, targets, expected):
    y = model(x)
    loss = loss_of(y, targets)
    loss.backward()
    expected.update({f"{name}.input": x, f"{name}.targets": targets, f"{name}.forecast": plain(y), f"{name}.loss": plain(loss)})
    for key, parameter in names.items():
        expected[f"{name}.grad.{key}"] = plain(parameter.grad)


def save_model(out, name, config, weights):
    os.makedirs(f"{out}/{name}", exist_ok=True)
    with open(f"{out}/{name}/config.json", "w") as f:
        json.dump(config, f, indent=2)
    save_file({k: plain(v) for k, v in weights.items()}, f"{out}/{name}/model.safetensors")


def make(out):
    torch.manual_seed(0)
    expected = {"mean": MEAN, "std": STD, "adjacency": torch.rand(N, N) * (torch.rand(N, N) > 0.4)}
    targets = 3 + 4 * torch.randn(B, P, N, C)
    known = targets.clone()
    known[0, 1, 2, 0] = float("nan")
    common = {"context_length": T, "prediction_length": P, "num_input_channels": C}

    gcgru = GCGRU(expected["adjacency"])
    judge("gcgru", gcgru, gcgru.names(), torch.randn(B, T, N, C), known[..., :1].contiguous(), expected)
    save_model(out, "gcgru", {"model_type": "gcgru", "architectures": ["GCGRUForPrediction"], "num_nodes": N, "num_targets": 1,
                              "hidden_size": H, "num_graph_layers": 1, **common},
               {**gcgru.names(), "graph.adjacency": gcgru.graph})

    dlinear = DLinear()
    judge("dlinear", dlinear, {"head.bias": dlinear.season.bias}, torch.randn(B, T, N, C), targets, expected)
    expected["dlinear.grad.head.weight"] = torch.cat([dlinear.season.weight.grad, dlinear.trend.weight.grad], 1)
    save_model(out, "dlinear", {"model_type": "dlinear", "architectures": ["DLinearForPrediction"], "num_targets": C,
                                "moving_average": 3, **common},
               {"head.weight": torch.cat([dlinear.season.weight, dlinear.trend.weight], 1), "head.bias": dlinear.season.bias})

    adcsd = ADCSD(P, N, C, HEAD)
    for gate in adcsd.gates:
        gate.data.normal_()
    for key, parameter in adcsd.names().items():
        if "norm" in key:
            parameter.data += 0.3 * torch.randn(parameter.shape)
        expected[f"adcsd.p.{key}"] = plain(parameter)
    y0 = torch.randn(1, P, N, C)
    y = adcsd(y0)
    loss = loss_of(y, targets[:1])
    loss.backward()
    trend = trend_of(y0, 1, 5)
    expected.update({"adcsd.y0": y0, "adcsd.targets": targets[:1].clone(), "adcsd.trend": plain(trend), "adcsd.season": plain(y0 - trend),
                     "adcsd.y": plain(y), "adcsd.loss": plain(loss)})
    for key, parameter in adcsd.names().items():
        expected[f"adcsd.grad.{key}"] = plain(parameter.grad)

    for gate in adcsd.gates:
        gate.data.zero_()
    adam = torch.optim.Adam(adcsd.parameters(), lr=1e-2, eps=1e-8)
    stream, seen = torch.randn(3, P, N, C), 3 + 4 * torch.randn(3, P, N, C)
    for i in range(3):
        adam.zero_grad()
        loss_of(adcsd(stream[i:i + 1]), seen[i:i + 1]).backward()
        adam.step()
    expected.update({"adcsd.stream.y0": stream, "adcsd.stream.targets": seen})
    for key, parameter in adcsd.names().items():
        expected[f"adcsd.after.{key}"] = plain(parameter)
    save_file({k: v.contiguous() for k, v in expected.items()}, f"{out}/expected.safetensors")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out")
    make(parser.parse_args().out)
