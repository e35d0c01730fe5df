#!/usr/bin/env python3
"""Tiny random U-Nets, and what the same networks in PyTorch compute, in f64.

Writes <out>/<name>/{config.json, model.safetensors, expected.safetensors}.  expected.safetensors holds
    pixel_values                  f32 (3, channels, H, W)
    labels                        i64 (3, H, W), some of them -100; of a regression f32 (3, K, H, W); of whole images i64 (3)
    hidden, logits, loss          f32
    grad.<tensor>                 f32, gradient of `loss`, of every parameter
    train.<...>                   the same in training, of networks with batch norms; train.buffer.<tensor>: running statistics behind that step
    adapted                       f32, logits with the LoRA of PEFT in <name>/adapter, of those in ADAPTERS
"""
import argparse
import json
import os
import shutil

import torch
import torch.nn.functional as F
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch import nn

ROWS = 3
ACTIVATIONS = {"relu": nn.ReLU, "silu": nn.SiLU, "gelu": nn.GELU}

# name: configuration, height and width of the images
MODELS = {
    "unet": (dict(hidden_sizes=[3, 4, 5], id2label={"0": "a", "1": "b", "2": "c"}), (13, 10)),
    "unet_group": (dict(num_channels=1, hidden_sizes=[4, 8], layers_per_block=3, norm_type="group", norm_groups=2, hidden_act="silu",
                        downsample_type="avg_pool", upsample_type="bilinear", residual=True, num_labels=4), (9, 12)),
    "unet_conv": (dict(hidden_sizes=[4, 6, 6], layers_per_block=1, kernel_size=5, norm_type="instance", norm_eps=1e-3, hidden_act="gelu",
                       downsample_type="conv", residual=True, num_labels=2), (14, 9)),
    "unet_regression": (dict(hidden_sizes=[4, 6], norm_type="none", num_labels=2), (8, 8)),
    "unet_classes": (dict(hidden_sizes=[3, 4, 6], residual=True, num_labels=5), (11, 14)),
}
CLASSES = ["unet_classes"]  # of whole images
ADAPTERS = {name: dict(target_modules=["convolution"], modules_to_save=["classifier"]) for name in ("unet", "unet_classes")}


class Unit(nn.Module):
    def __init__(self, config, inputs, outputs, kernel, stride, activation):
        super().__init__()
        kind = config.get("norm_type", "batch")
        eps = config.get("norm_eps", 1e-5)
        self.convolution = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=kind == "none")
        if kind == "batch":
            self.normalization = nn.BatchNorm2d(outputs, eps=eps)
        elif kind != "none":
            self.normalization = nn.GroupNorm(outputs if kind == "instance" else config["norm_groups"], outputs, eps=eps)
        self.activation = ACTIVATIONS[config.get("hidden_act", "relu")]() if activation else nn.Identity()

    def forward(self, x):
        x = self.convolution(x)
        return self.activation(self.normalization(x) if hasattr(self, "normalization") else x)


class Block(nn.Module):
    def __init__(self, config, inputs, outputs, stride):
        super().__init__()
        count = config.get("layers_per_block", 2)
        self.residual = config.get("residual", False)
        self.layers = nn.ModuleList(
            Unit(config, outputs if i else inputs, outputs, config.get("kernel_size", 3), 1 if i else stride, not self.residual or i + 1 < count)
            for i in range(count))
        if self.residual and (inputs != outputs or stride > 1):
            self.shortcut = Unit(config, inputs, outputs, 1, stride, False)
        self.activation = ACTIVATIONS[config.get("hidden_act", "relu")]()

    def forward(self, x):
        y = x
        for layer in self.layers:
            y = layer(y)
        if not self.residual:
            return y
        return self.activation(y + (self.shortcut(x) if hasattr(self, "shortcut") else x))


class Maps(nn.Module):
    def __init__(self, config):
        super().__init__()
        widths = config["hidden_sizes"]
        self.down = config.get("downsample_type", "max_pool")
        self.up = config.get("upsample_type", "nearest")
        self.down_blocks = nn.ModuleList(
            Block(config, widths[i - 1] if i else config.get("num_channels", 3), widths[i], 2 if i and self.down == "conv" else 1)
            for i in range(len(widths)))
        self.up_blocks = nn.ModuleList(Block(config, widths[i] + widths[i + 1], widths[i], 1) for i in reversed(range(len(widths) - 1)))

    def forward(self, x):
        maps = []
        for i, block in enumerate(self.down_blocks):
            if i and self.down != "conv":
                x = F.max_pool2d(x, 2) if self.down == "max_pool" else F.avg_pool2d(x, 2)
            x = block(x)
            maps.append(x)
        for block, beside in zip(self.up_blocks, reversed(maps[:-1])):
            x = block(torch.cat([beside, F.interpolate(x, size=beside.shape[2:], mode=self.up)], 1))
        return x


class Smallest(Maps):
    """The way down alone."""

    def __init__(self, config):
        super().__init__(config)
        del self.up_blocks

    def forward(self, x):
        for i, block in enumerate(self.down_blocks):
            if i and self.down != "conv":
                x = F.max_pool2d(x, 2) if self.down == "max_pool" else F.avg_pool2d(x, 2)
            x = block(x)
        return x


class Classifier(nn.Module):
    def __init__(self, config, labels):
        super().__init__()
        self.unet = Smallest(config)
        self.classifier = nn.Linear(config["hidden_sizes"][-1], labels)

    def head(self, hidden):
        return self.classifier(hidden.mean((2, 3)))

    def forward(self, x):
        return self.head(self.unet(x))


class UNet(nn.Module):
    def __init__(self, config, labels):
        super().__init__()
        self.unet = Maps(config)
        self.classifier = nn.Conv2d(config["hidden_sizes"][0], labels, 1)

    def head(self, hidden):
        return self.classifier(hidden)

    def forward(self, x):
        return self.head(self.unet(x))


def network(name, config):
    return (Classifier if name in CLASSES else UNet)(config, labels_of(config))


def labels_of(config):
    return len(config["id2label"]) if "id2label" in config else config["num_labels"]


def randomise(model, generator):
    for name, p in list(model.named_parameters()) + list(model.named_buffers()):
        if p.dtype == torch.int64:
            p.data.fill_(7)
            continue
        noise = torch.randn(p.shape, generator=generator)
        if name.endswith("running_var"):
            p.data = 0.5 + noise.abs()
        elif p.dim() == 1 and name.endswith("weight"):
            p.data = 1 + 0.2 * noise
        else:
            p.data = 0.3 * noise


def run(model, pixels, labels):
    model.zero_grad()
    hidden = model.unet(pixels)
    logits = model.head(hidden)
    loss = F.mse_loss(logits, labels.double()) if labels.is_floating_point() else F.cross_entropy(logits, labels, ignore_index=-100)
    loss.backward()
    return dict(hidden=hidden.detach(), logits=logits.detach(), loss=loss.detach(), **{"grad." + k: p.grad.clone() for k, p in model.named_parameters()})


def expected(model, name, config, size, generator):
    pixels = torch.randn((ROWS, config.get("num_channels", 3), *size), generator=generator)
    if config.get("norm_type") == "none":
        labels = torch.randn((ROWS, labels_of(config), *size), generator=generator)
    elif name in CLASSES:
        labels = torch.randint(labels_of(config), (ROWS,), generator=generator)
    else:
        labels = torch.randint(labels_of(config), (ROWS, *size), generator=generator)
        labels[torch.rand(labels.shape, generator=generator) < 0.2] = -100
    model.double()
    tensors = dict(pixel_values=pixels, labels=labels, **run(model.eval(), pixels.double(), labels))
    if any(k.endswith("running_mean") for k, _ in model.named_buffers()):
        tensors.update({"train." + k: v for k, v in run(model.train(), pixels.double(), labels).items()})
        tensors.update({"train.buffer." + k: b for k, b in model.named_buffers() if b.dtype != torch.int64})
    return {k: v.float() if v.is_floating_point() else v for k, v in tensors.items()}


def adapted(name, config, path, options, pixels, generator):
    """Makes an adapter that changes something, and gives the logits with what was written."""
    def base():
        model = network(name, config)
        model.load_state_dict(load_file(os.path.join(path, "model.safetensors")))
        return model.eval()
    model = get_peft_model(base(), LoraConfig(r=2, lora_alpha=3, **options))
    for _, p in sorted(model.named_parameters()):
        if p.requires_grad:
            p.data += 0.3 * torch.randn(p.shape, generator=generator)
    target = os.path.join(path, "adapter")
    model.save_pretrained(target)
    config_path = os.path.join(target, "adapter_config.json")
    with open(config_path) as f:
        values = json.load(f)
    values.update(base_model_name_or_path=os.path.basename(path), auto_mapping=None)
    with open(config_path, "w") as f:
        json.dump(values, f, indent=2, sort_keys=True)
        f.write("\n")
    os.remove(os.path.join(target, "README.md"))
    model = PeftModel.from_pretrained(base(), target).eval()
    with torch.no_grad():
        return model(pixels)


def stacks(out):
    """TIFFs of several images: levels are ten times the labels (place + image) % 4 of the other."""
    import numpy as np
    from PIL import Image
    labels = [((np.arange(12) + i) % 4).astype(np.uint8).reshape(3, 4) for i in range(3)]
    for name, pages in ("stack", [10 * x for x in labels]), ("stack-labels", labels), ("one", labels[:1]):
        first, *others = map(Image.fromarray, pages)
        first.save(os.path.join(out, name + ".tif"), save_all=True, append_images=others)


def main():
    here = os.path.dirname(os.path.abspath(__file__))
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", default=os.path.join(here, "..", "reference", "dense"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    stacks(args.out)
    for index, (name, (config, size)) in enumerate(MODELS.items()):
        path = os.path.join(args.out, name)
        shutil.rmtree(path, ignore_errors=True)
        os.makedirs(path)
        generator = torch.Generator().manual_seed(4000 + index)
        model = network(name, config)
        randomise(model, generator)
        save_file({k: v.clone() for k, v in model.state_dict().items()}, os.path.join(path, "model.safetensors"), {"format": "pt"})
        kind = "UNetFor" + ("ImageClassification" if name in CLASSES else
                            "DenseRegression" if config.get("norm_type") == "none" else "SemanticSegmentation")
        with open(os.path.join(path, "config.json"), "w") as f:
            json.dump(dict(model_type="unet", architectures=[kind], **config), f, indent=2)
            f.write("\n")
        tensors = expected(model, name, config, size, generator)
        if name in ADAPTERS:
            tensors["adapted"] = adapted(name, config, path, ADAPTERS[name], tensors["pixel_values"], generator)
        save_file({k: v.contiguous() for k, v in tensors.items()}, os.path.join(path, "expected.safetensors"))
        files = [os.path.join(folder, file) for folder, _, names in os.walk(path) for file in names]
        for file in files:
            os.chmod(file, 0o644)
        print(json.dumps(dict(model=name, bytes=sum(os.path.getsize(f) for f in files), loss=round(tensors["loss"].item(), 4))))


if __name__ == "__main__":
    main()
