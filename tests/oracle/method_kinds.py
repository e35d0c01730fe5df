#!/usr/bin/env python3
"""Adapters of kinds that PEFT does not have, each written here in a few lines of torch, and what the adapted models compute.

Writes <out>/<name>/{adapter_config.json, adapter_model.safetensors, expected.safetensors} in the form of peft_adapters.py's; the config holds
only what is not a default.  Run models.py first.  A kind is a class: `parameters` (names as in the file, and shapes), and what it makes of a
layer's input x and result y, in `before` or `after`.  Values are drawn from the name, so a case can be added or remade alone.
"""
import argparse
import json
import math
import os
import shutil
import zlib

import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from models import batch, load_f32

REFERENCE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "reference")
WIDENING = ("gate_proj", "up_proj", "c_fc")


class Kind:
    """p: parameters by suffix; o: the config's options; name, w: of the layer, w (out, in) or None."""

    scale = 0.3
    rows = {}  # what is known of each row of the batch: task_ids (B), conditions (B, C)

    def __init__(self, name, w, o, generator, shared):
        self.name, self.w, self.o, self.shared = name, w, o, shared
        self.out, self.inside = w.shape if w is not None else (o["width"],) * 2
        self.p = {suffix: (self.scale * torch.randn(*shape, generator=generator)).requires_grad_() for suffix, shape in self.parameters().items()}

    def before(self, x):
        return x

    def after(self, x, y):
        return y

    def penalty(self):
        return 0


class Bottleneck(Kind):
    """LLM-Adapters' series and parallel adapters (peft/src/peft/tuners/bottleneck.py of AGI-Edgerunners/LLM-Adapters)."""

    def parameters(self):
        size, parallel = self.o["bottleneck_size"], self.o.get("use_parallel_adapter", False)
        into = self.inside if parallel or self.widens() else self.out
        sizes = {"adapter_down.weight": (size, into), "adapter_up.weight": (self.out if parallel else into, size)}
        return sizes | ({"adapter_scaling": (1,)} if self.o.get("scaling") == "learned" else {})

    def widens(self):
        return self.name.endswith(WIDENING)

    def f(self, x):
        act = {"tanh": torch.tanh, "relu": torch.relu}[self.o["non_linearity"]]
        scaling = self.p.get("adapter_scaling", self.o.get("scaling", 1.0))
        return scaling * F.linear(act(F.linear(x, self.p["adapter_down.weight"])), self.p["adapter_up.weight"])

    def before(self, x):
        return x + self.f(x) if self.widens() and not self.o.get("use_parallel_adapter", False) else x

    def after(self, x, y):
        if self.o.get("use_parallel_adapter", False):
            return y + self.f(x)
        return y if self.widens() else y + self.f(y)


class Reft(Kind):
    """Representation fine-tuning on a block's result (Wu et al. 2024); orthonormal rows as torch parametrises them."""

    def parameters(self):
        r, width = self.o["r"], self.o["width"]
        r_name = "projection.parametrizations.weight.original" if self.o["orthogonality"] else "projection.weight"
        names = {}
        for unit in "0" if self.o["tied_weights"] else "01":
            names |= {f"units.{unit}.learned_source.weight": (r, width), f"units.{unit}.learned_source.bias": (r,),
                      f"units.{unit}.{r_name}": (r, width)}
        return names

    def __init__(self, name, w, o, generator, shared):
        super().__init__(name, w, o, generator, shared)
        for key, value in self.p.items():
            if key.endswith("original"):  # signs on the diagonal, reflectors above
                signs = torch.sign(value.detach().diagonal())
                self.p[key] = (value.detach().triu(1) + torch.diag_embed(signs)[:, :value.shape[0]] @ torch.eye(*value.shape)).requires_grad_()

    def rows(self, unit):
        if not self.o["orthogonality"]:
            return self.p[f"units.{unit}.projection.weight"]
        x = self.p[f"units.{unit}.projection.parametrizations.weight.original"].mT
        a = x.tril(-1)
        return (torch.linalg.householder_product(a, 2 / (1 + (a * a).sum(0))) * x.diagonal().int()).mT

    def edit(self, unit, h):
        source = F.linear(h, self.p[f"units.{unit}.learned_source.weight"], self.p[f"units.{unit}.learned_source.bias"])
        rows = self.rows(unit)
        return h + (source - (F.linear(h, rows) if self.o["subtract_projection"] else 0)) @ rows

    def after(self, x, y):
        first, last = self.o["prefix_positions"], self.o["suffix_positions"]
        middle = y.shape[1] - last
        second = "0" if self.o["tied_weights"] else "1"
        return torch.cat([self.edit("0", y[:, :first]), y[:, first:middle], self.edit(second, y[:, middle:])], 1)


class Hydra(Kind):
    """Two heads, of the input and of the result (Kim et al. 2024)."""

    def parameters(self):
        r, q = self.o["r"], self.o["sequential_rank"]
        shapes = {"hydra_parallel_A": (r, self.inside), "hydra_parallel_B": (self.out, r),
                  "hydra_sequential_A": (q, self.out), "hydra_sequential_B": (self.out, q)}
        biases = {f"{name}_bias": shape[:1] for name, shape in shapes.items()} if self.o.get("head_bias") else {}
        return shapes | biases

    def head(self, name, x):
        for matrix in "AB":
            key = f"hydra_{name}_{matrix}"
            x = F.linear(x, self.p[key], self.p.get(f"{key}_bias"))
        return x

    def after(self, x, y):
        return y + self.o["scale"] * (self.head("parallel", x) + self.head("sequential", y))


class LoraXs(Kind):
    """A core between frozen factors (Balazy et al. 2024)."""

    def parameters(self):
        r = self.o["r"]
        return {"lora_xs_A": (r, self.inside), "lora_xs_B": (self.out, r), "lora_xs_core": (r, r)}

    def after(self, x, y):
        change = self.p["lora_xs_B"].detach() @ self.p["lora_xs_core"] @ self.p["lora_xs_A"].detach()
        return y + self.o["lora_alpha"] / self.o["r"] * F.linear(x, change)


class Orthogonal(Kind):
    """B trained on frozen orthonormal rows (Po et al. 2024)."""

    def parameters(self):
        return {"orthogonal_A": (self.o["r"], self.inside), "orthogonal_B": (self.out, self.o["r"])}

    def after(self, x, y):
        return y + self.o["scale"] * F.linear(x, self.p["orthogonal_B"] @ self.p["orthogonal_A"].detach())


class Pego(Kind):
    """A group of updates (Hu et al. 2024); `penalty` is what the regulariser adds for this layer, by its dense formula."""

    def parameters(self):
        ranks = self.o["r"] * self.o["members"]
        return {"pego_A": (ranks, self.inside), "pego_B": (self.out, ranks)}

    def changes(self):
        r = self.o["r"]
        return [self.p["pego_B"][:, i:i + r] @ self.p["pego_A"][i:i + r] for i in range(0, r * self.o["members"], r)]

    def after(self, x, y):
        return y + sum(F.linear(x, change) for change in self.changes())

    def penalty(self):
        d, total = self.changes(), 0
        if self.o.get("preserve", True):
            total = total + sum((self.w @ change.T).abs().sum() for change in d)
        if self.o.get("diversify", True):
            total = total + sum((d[i] @ d[j].T).abs().sum() for i in range(len(d)) for j in range(i + 1, len(d)))
        return self.o["orthogonal_weight"] * total


class Codyra(Kind):
    """Gated ranks (Lu et al. 2024)."""

    def parameters(self):
        r = self.o["r"]
        return {"codyra_A": (r, self.inside), "codyra_B": (self.out, r), "codyra_gate": (r,)}

    def after(self, x, y):
        return y + F.linear(x, self.p["codyra_B"] @ torch.diag(self.p["codyra_gate"]) @ self.p["codyra_A"])


class Dylora(Kind):
    """Nested ranks (Valipour et al. 2023), all of them."""

    def parameters(self):
        return {"dylora_A": (self.o["r"], self.inside), "dylora_B": (self.out, self.o["r"])}

    def after(self, x, y):
        return y + self.o["lora_alpha"] / self.o["r"] * F.linear(x, self.p["dylora_B"] @ self.p["dylora_A"])


class LtSft(Kind):
    """Differences at some places (Ansell et al. 2022)."""

    def parameters(self):
        return {"sft_values": (self.o["counts"][self.name],)}

    def __init__(self, name, w, o, generator, shared):
        super().__init__(name, w, o, generator, shared)
        self.flat = torch.randperm(self.out * self.inside, generator=generator)[:o["counts"][name]]
        self.p["sft_indices"] = torch.stack([self.flat // self.inside, self.flat % self.inside]).int()

    def after(self, x, y):
        change = torch.zeros(self.out * self.inside).scatter(0, self.flat, self.p["sft_values"])
        return y + F.linear(x, change.reshape(self.out, self.inside))


class Mtlora(Kind):
    """A pair that all tasks share and one of each, whose parts stand side by side (Agiza et al. 2024); row by row."""

    def __init__(self, name, w, o, generator, shared):
        ranks = [int(o.get("task_ranks", {}).get(str(t), o["task_rank"])) for t in range(o["num_tasks"])]
        self.parts = torch.arange(sum(ranks)).split(ranks) if name.endswith(tuple(o.get("task_modules", [""]))) else []
        super().__init__(name, w, o, generator, shared)

    def parameters(self):
        ranks = sum(len(part) for part in self.parts)
        r = 0 if ranks and self.o.get("mode") == "matrix" else self.o["r"]  # y_t = W x + the task's own
        shared = {"lora_shared_A": (r, self.inside), "lora_shared_B": (self.out, r)} if r else {}
        return shared | ({"lora_tasks_A": (ranks, self.inside), "lora_tasks_B": (self.out, ranks)} if ranks else {})

    def row(self, task, x, y):
        if "lora_shared_A" in self.p:
            y = y + self.o["scale"] * F.linear(x, self.p["lora_shared_B"] @ self.p["lora_shared_A"])
        if self.parts:
            part = self.parts[task]
            scale = self.o.get("task_scales", {}).get(str(task), self.o["task_scale"])
            y = y + scale * F.linear(x, self.p["lora_tasks_B"][:, part] @ self.p["lora_tasks_A"][part])
        return y

    def after(self, x, y):
        return torch.stack([self.row(int(task), x[i], y[i]) for i, task in enumerate(self.rows["task_ids"])])


class Petalface(Kind):
    """Two pairs mixed by a row's quality (Narayan et al. 2025)."""

    def parameters(self):
        r = self.o["r"]
        pairs = [""] if self.single() else ["_low", "_high"]
        return {f"petalface{pair}_{m}": (r, self.inside) if m == "D" else (self.out, r) for pair in pairs for m in "DU"}

    def single(self):
        return self.name.endswith(tuple(self.o.get("single_modules", ["nothing"])))

    def change(self, pair):
        return self.p[f"petalface{pair}_U"] @ self.p[f"petalface{pair}_D"]

    def after(self, x, y):
        if self.single():
            return y + self.o["scale"] * F.linear(x, self.change(""))
        a = 0.5 + (self.rows["conditions"][:, self.o["condition"], None, None] - self.o["threshold"])
        a = a.clamp(0, 1) if self.o["clamp"] else a
        return y + self.o["scale"] * (F.linear((1 - a) * x, self.change("_low")) + F.linear(a * x, self.change("_high")))


class S3Diff(Kind):
    """A core for each row, made of its conditions and the layer's block (Zhang et al. 2024)."""

    BLOCKS = 2  # of the base

    def parameters(self):
        return {"lora_A.weight": (self.o["r"], self.inside), "lora_B.weight": (self.out, self.o["r"])}

    def __init__(self, name, w, o, generator, shared):
        super().__init__(name, w, o, generator, shared)
        f, h, e, r = o["frequencies"], o["hidden_size"], o["block_size"], o["r"]
        sizes = {"frequencies": (f,), "condition.weight": (h, 2 * f * o["conditions"]), "condition.bias": (h,), "blocks": (self.BLOCKS + 1, e),
                 "block.weight": (e, e), "block.bias": (e,), "fuse.weight": (r * r, h + e), "fuse.bias": (r * r,)}
        for key, shape in sizes.items():
            if "s3diff_" + key not in shared:
                shared["s3diff_" + key] = (self.scale * torch.randn(*shape, generator=generator)).requires_grad_(key != "frequencies")

    def linear(self, name, x):
        return F.linear(x, self.shared[f"s3diff_{name}.weight"], self.shared[f"s3diff_{name}.bias"])

    def core(self, conditions):
        angles = [2 * torch.pi * c * self.shared["s3diff_frequencies"] for c in conditions]
        waves = torch.cat([part for angle in angles for part in (angle.sin(), angle.cos())])
        block = int(self.name.split("layers.")[1].split(".")[0]) if "layers." in self.name else self.BLOCKS
        both = torch.cat([self.linear("condition", waves).relu(), self.linear("block", self.shared["s3diff_blocks"][block]).relu()])
        core = self.linear("fuse", both).reshape(self.o["r"], self.o["r"])
        return core + torch.eye(self.o["r"]) if self.o["identity"] else core

    def after(self, x, y):
        scale = self.o["lora_alpha"] / self.o["r"]
        rows = []
        for i, conditions in enumerate(self.rows["conditions"][:, :self.o["conditions"]]):
            mixed = torch.einsum("tk,kr->tr", F.linear(x[i], self.p["lora_A.weight"]), self.core(conditions))
            rows.append(y[i] + scale * F.linear(mixed, self.p["lora_B.weight"]))
        return torch.stack(rows)


class Krona(Kind):
    """A Kronecker product of two whole factors (Edalati et al. 2022; Marjit et al. 2024), made as a matrix."""

    def parameters(self):
        a1, a2 = self.o["a1"], self.o["a2"]
        return {"krona_A": (a1, a2), "krona_B": (self.out // a1, self.inside // a2)}

    def after(self, x, y):
        return y + self.o["scale"] * F.linear(x, torch.kron(self.p["krona_A"], self.p["krona_B"]))


class Mora(Kind):
    """A square matrix between operators without parameters (Jiang et al. 2024): inputs by their numbers, turns as products of complex numbers."""

    def size(self):
        size = min(math.isqrt(self.o["r"] * (self.inside + self.out)), self.inside, self.out)
        return size - size % 2 if self.o["mora_type"] == "rotation" else size

    def parameters(self):
        return {"mora_M": (self.size(), self.size())}

    def after(self, x, y):
        s, m = self.size(), self.p["mora_M"]
        places = torch.arange(-(-self.inside // s) * s)  # of the filled up inputs
        filled, cell = places % self.inside, places % s
        outputs = torch.arange(self.out)
        if self.o["mora_type"] == "truncation":
            return y + F.pad(x[..., :s] @ m.T, (0, self.out - s))
        if self.o["mora_type"] == "sharing":
            compressed = torch.zeros(*x.shape[:-1], s).index_add(-1, cell, x[..., filled])
            return y + (compressed @ m.T)[..., outputs % s]
        chunks = [x[..., filled[i:i + s]] for i in range(0, len(places), s)]
        if self.o["mora_type"] == "rotation":
            chunks = [self.turned(chunk, i) for i, chunk in enumerate(chunks)]
        return y + torch.cat([chunk @ m.T for chunk in chunks], -1)[..., outputs % len(places)]

    def turned(self, chunk, i):
        half = self.size() // 2
        angles = i / 10000 ** (torch.arange(half, dtype=torch.float64) / half)
        z = torch.complex(chunk[..., :half], chunk[..., half:]) * torch.polar(torch.ones(half, dtype=torch.float64), angles).to(torch.complex64)
        return torch.cat([z.real, z.imag], -1)


class Gdcan(Kind):
    """The corrections of GDCAN (Li et al. 2021, section 3.3): of rows of the target, whose task is 0, alone.  Its attention is in gdcan.py."""

    def parameters(self):
        h, k = self.o["feature_width"], self.out
        shapes = {"feature_down.weight": (h, self.inside), "feature_down.bias": (h,), "feature_up.weight": (self.inside, h),
                  "feature_up.bias": (self.inside,)} if h else {}
        if self.o["logits"]:
            shapes |= {"logit_in.weight": (k, k), "logit_in.bias": (k,), "logit_out.weight": (k, k), "logit_out.bias": (k,)}
        return {"gdcan_" + name: shape for name, shape in shapes.items()}

    def block(self, x, into, out):
        p = self.p
        if f"gdcan_{into}.weight" not in p:
            return x
        y = F.linear(torch.relu(F.linear(x, p[f"gdcan_{into}.weight"], p[f"gdcan_{into}.bias"])), p[f"gdcan_{out}.weight"],
                     p[f"gdcan_{out}.bias"])
        return torch.where((Kind.rows["task_ids"] == 0).view(-1, 1, 1), x + y, x)

    def before(self, x):
        return self.block(x, "feature_down", "feature_up")

    def after(self, x, y):
        return self.block(y, "logit_in", "logit_out")


REFT = dict(peft_type="REFT", width=48, r=3, prefix_positions=3, suffix_positions=2, dropout=0, orthogonality=True, tied_weights=False,
            subtract_projection=True)

CASES = {
    "bottleneck_series": ("llama2", Bottleneck, dict(peft_type="BOTTLENECK", bottleneck_size=6, non_linearity="tanh",
                                                     target_modules=["gate_proj", "up_proj", "down_proj"])),
    "bottleneck_parallel": ("llama2", Bottleneck, dict(peft_type="BOTTLENECK", bottleneck_size=5, non_linearity="relu",
                                                       use_parallel_adapter=True, scaling="learned",
                                                       target_modules=["q_proj", "down_proj"])),
    "reft_orthogonal": ("llama2", Reft, REFT | dict(target_modules=["layers.0", "layers.1"])),
    "reft_tied": ("llama2", Reft, REFT | dict(orthogonality=False, tied_weights=True, subtract_projection=False,
                                              target_modules=["layers.1"])),
    "hydra_heads": ("qwen2", Hydra, dict(peft_type="HYDRA", r=3, sequential_rank=2, scale=0.5, target_modules=["v_proj", "down_proj"])),
    "hydra_gpt2": ("gpt2", Hydra, dict(peft_type="HYDRA", r=2, sequential_rank=3, scale=1, target_modules=["c_proj"])),
    "hydra_biases": ("gpt2", Hydra, dict(peft_type="HYDRA", r=3, sequential_rank=2, scale=0.7, head_bias=True, target_modules=["c_proj"])),
    "lora_xs_qv": ("llama2", LoraXs, dict(peft_type="LORA_XS", r=5, lora_alpha=8, target_modules=["q_proj", "v_proj"])),
    "orthogonal_adaptation_qv": ("llama2", Orthogonal, dict(peft_type="ORTHOGONAL_ADAPTATION", r=6, scale=1,
                                                            target_modules=["q_proj", "up_proj"])),
    "pego_qv": ("llama2", Pego, dict(peft_type="PEGO", r=2, members=3, orthogonal_weight=0.001, target_modules=["q_proj", "v_proj"])),
    "pego_preserve": ("llama2", Pego, dict(peft_type="PEGO", r=2, members=3, orthogonal_weight=0.002, diversify=False,
                                           target_modules=["q_proj"])),
    "pego_diversify": ("llama2", Pego, dict(peft_type="PEGO", r=2, members=3, orthogonal_weight=0.004, preserve=False,
                                            target_modules=["v_proj"])),
    "codyra_dense": ("llama2", Codyra, dict(peft_type="CODYRA", r=4, target_modules=["k_proj", "down_proj"])),
    "lt_sft_q": ("llama2", LtSft, dict(peft_type="LT_SFT", target_modules=["q_proj"],
                                       counts={f"model.layers.{i}.self_attn.q_proj": 60 + 40 * i for i in range(2)})),
    "dylora_qv": ("llama2", Dylora, dict(peft_type="DYLORA", r=4, min_rank=4, lora_alpha=6, rule="full", target_modules=["q_proj", "v_proj"])),
}
CASES |= {
    "mtlora_sum": ("llama2", Mtlora, dict(peft_type="MTLORA", r=3, num_tasks=3, task_rank=2, task_ranks={"1": 4}, scale=0.5, task_scale=0.25,
                                          task_scales={"1": 0.75}, dropout=0, target_modules=["q_proj", "up_proj"])),
    "mtlora_apart": ("llama2", Mtlora, dict(peft_type="MTLORA", r=3, num_tasks=2, task_rank=2, scale=0.5, task_scale=0.5, mode="matrix",
                                            dropout=0, task_modules=["down_proj"], target_modules=["v_proj", "down_proj"])),
    "petalface_qkv": ("llama2", Petalface, dict(peft_type="PETALFACE", r=3, scale=1, condition=1, threshold=0.4, clamp=True, dropout=0,
                                                single_modules=["down_proj"], target_modules=["q_proj", "v_proj", "down_proj"])),
    "petalface_open": ("gpt2", Petalface, dict(peft_type="PETALFACE", r=2, scale=0.5, condition=0, threshold=0.9, clamp=False, dropout=0,
                                               target_modules=["c_attn"])),
    "s3diff_qd": ("llama2", S3Diff, dict(peft_type="S3DIFF", r=3, lora_alpha=4, conditions=2, frequencies=4, hidden_size=6, block_size=5,
                                         identity=False, target_modules=["q_proj", "down_proj", "lm_head"])),
    "s3diff_identity": ("llama2", S3Diff, dict(peft_type="S3DIFF", r=2, lora_alpha=1, conditions=1, frequencies=3, hidden_size=5, block_size=4,
                                               identity=True, target_modules=["v_proj"])),
    "krona_qkvo": ("llama2", Krona, dict(peft_type="KRONA", a1=4, a2=6, scale=0.5, target_modules=["q_proj", "up_proj", "o_proj"])),
    "mora_rotation": ("llama2", Mora, dict(peft_type="MORA", r=4, mora_type="rotation", target_modules=["q_proj", "up_proj", "down_proj"])),
    "mora_sharing": ("llama2", Mora, dict(peft_type="MORA", r=3, mora_type="sharing", target_modules=["q_proj", "up_proj", "down_proj"])),
    "mora_decoupling": ("gpt2", Mora, dict(peft_type="MORA", r=3, mora_type="decoupling", target_modules=["c_attn"])),
    "gdcan_corrections": ("llama2", Gdcan, dict(peft_type="GDCAN", feature_width=5, logits=True, target_modules=["v_proj", "down_proj"])),
    "gdcan_features": ("llama2", Gdcan, dict(peft_type="GDCAN", feature_width=4, logits=False, target_modules=["q_proj"])),
    "mora_truncation": ("gpt2", Mora, dict(peft_type="MORA", r=2, mora_type="truncation", target_modules=["c_fc"])),
}
GRADIENTS_KEPT = 6
OF_ROWS = {Mtlora: dict(task_ids=torch.tensor([1, 0])), Gdcan: dict(task_ids=torch.tensor([1, 0])), Petalface: dict(conditions=torch.tensor([[0.9, 0.15], [0.2, 1.1]])),
           S3Diff: dict(conditions=torch.tensor([[0.3, 0.8], [0.65, 0.1]]))}


def weight_of(module):
    weight = getattr(module, "weight", None)
    if weight is None:
        return None
    return weight.detach().T if type(module).__name__ == "Conv1D" else weight.detach()


def put_on(model, kind, options, generator, parts):
    """Hooks for every layer that target_modules hits; the parameters of all by the file's keys."""
    parameters, shared = {}, {}
    for name, module in model.named_modules():
        if not any(name == target or name.endswith("." + target) for target in options["target_modules"]):
            continue
        part = kind(name, weight_of(module), options, generator, shared)
        parts.append(part)
        module.register_forward_pre_hook(lambda m, args, part=part: (part.before(args[0]),) + args[1:])
        module.register_forward_hook(lambda m, args, y, part=part: part.after(args[0], y) if torch.is_tensor(y)
                                     else (part.after(args[0], y[0]),) + y[1:])
        parameters |= {f"base_model.model.{name}.{suffix}": p for suffix, p in part.p.items()}
        if name == "lm_head":  # as PEFT, which writes an adapted head's own weight beside
            parameters["base_model.model.lm_head.base_layer.weight"] = module.weight.detach()
    return parameters | {f"base_model.{suffix}": p for suffix, p in shared.items()}


def make(name, base, kind, options, path):
    generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    model = load_f32(base).eval()
    model.requires_grad_(False)
    parts = []
    parameters = put_on(model, kind, options, generator, parts)
    ids, labels, _ = batch(model.config.vocab_size, generator, False)
    Kind.rows = OF_ROWS.get(kind, {})
    out = model(input_ids=ids, labels=labels, use_cache=False)
    loss = out.loss + sum(part.penalty() for part in parts)
    loss.backward()
    tensors = dict(input_ids=ids, labels=labels, logits=out.logits, loss=loss) | Kind.rows
    keys = sorted(key for key, p in parameters.items() if p.grad is not None)
    for key in keys[:: max(1, len(keys) // GRADIENTS_KEPT)]:
        tensors["grad." + key] = parameters[key].grad
    os.makedirs(path)
    save_file({k: v.detach().contiguous() for k, v in parameters.items()}, os.path.join(path, "adapter_model.safetensors"),
              metadata={"format": "pt"})
    save_file({k: v.detach().clone().contiguous() for k, v in tensors.items()}, os.path.join(path, "expected.safetensors"))
    with open(os.path.join(path, "adapter_config.json"), "w") as f:
        written = {k: v for k, v in options.items() if k != "width"}
        json.dump(written | dict(base_model_name_or_path=base), f, indent=2, sort_keys=True)
        f.write("\n")
    print(name, len(parameters), "tensors, loss", round(loss.item(), 4))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="*", help="names to make, or beginnings of names (default: all)")
    args = parser.parse_args()
    torch.set_num_threads(1)
    os.chdir(os.path.join(REFERENCE, "models"))
    for name, (base, kind, options) in CASES.items():
        if args.only and not any(name.startswith(only) for only in args.only):
            continue
        path = os.path.join("..", "adapters", name)
        shutil.rmtree(path, ignore_errors=True)
        make(name, base, kind, options, path)


if __name__ == "__main__":
    main()
