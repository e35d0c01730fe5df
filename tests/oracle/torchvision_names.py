#!/usr/bin/env python3
"""Networks in the files that torchvision makes, and what PyTorch computes with them.

Writes <out>/
    squeezenet_1_0.safetensors, squeezenet_1_1.safetensors   `features`, `logits`, `loss` and gradients of some tensors.  Weights and pixels are no
                                                 files but a formula of (tensor, element), which the test has as well: see weight()
    mobilenet_v2_torchvision/                    a tiny MobileNetV2 under torchvision's names, with `pixel_values` and `logits` in expected.safetensors
    mobilenet_v2_int8/                           the same, its norms folded into convolutions with a bias, and those in 8 bits with a scale for each tensor
    unet_pth/                                    the network of ../dense/unet_regression, its weights as torch.save writes them
"""
import argparse
import json
import math
import os
import shutil

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import MobileNetV2Config, MobileNetV2ForImageClassification

from vision import CLASSES, MOBILENET, randomise

LABELS = 3


class Fire(nn.Module):
    def __init__(self, inputs, squeeze, expand):
        super().__init__()
        self.squeeze = nn.Conv2d(inputs, squeeze, 1)
        self.expand1x1 = nn.Conv2d(squeeze, expand, 1)
        self.expand3x3 = nn.Conv2d(squeeze, expand, 3, padding=1)

    def forward(self, x):
        x = F.relu(self.squeeze(x))
        return torch.cat([F.relu(self.expand1x1(x)), F.relu(self.expand3x3(x))], 1)


def pool():
    return nn.MaxPool2d(3, 2, ceil_mode=True)


def squeezenet(version):
    """Iandola et al. 2016, and the authors' later version, with torchvision's names."""
    if version == "1_0":
        parts = [nn.Conv2d(3, 96, 7, 2), nn.ReLU(), pool(), Fire(96, 16, 64), Fire(128, 16, 64), Fire(128, 32, 128), pool(), Fire(256, 32, 128),
                 Fire(256, 48, 192), Fire(384, 48, 192), Fire(384, 64, 256), pool(), Fire(512, 64, 256)]
    else:
        parts = [nn.Conv2d(3, 64, 3, 2), nn.ReLU(), pool(), Fire(64, 16, 64), Fire(128, 16, 64), pool(), Fire(128, 32, 128), Fire(256, 32, 128), pool(),
                 Fire(256, 48, 192), Fire(384, 48, 192), Fire(384, 64, 256), Fire(512, 64, 256)]
    return nn.ModuleDict(dict(features=nn.Sequential(*parts), classifier=nn.Sequential(nn.Dropout(), nn.Conv2d(512, LABELS, 1), nn.ReLU())))


def weight(number, shape):
    """Of the tensor that is the number-th in the order of names: a hash of the places, uniform, scaled as He et al. initialise."""
    count = math.prod(shape)
    x = np.arange(1, count + 1, dtype=np.uint32) + np.uint32(number * 1000003)
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
        x = (x ^ (x >> np.uint32(shift))) * np.uint32(factor)
    x = (x ^ (x >> np.uint32(16))).astype(np.float64) / 2**31 - 1
    scale = math.sqrt(2 / max(1, count // shape[0])) if len(shape) > 1 else 0.1
    return torch.from_numpy(math.sqrt(3) * scale * x).reshape(shape)


def expected_of_squeezenet(version):
    model = squeezenet(version).double().eval()
    for number, (_, p) in enumerate(sorted(model.named_parameters())):
        p.data = weight(number, p.shape)
    pixels = weight(1000, (2, 3, 68, 61)) * 80
    maps = model["features"](pixels)
    logits = model["classifier"](maps).mean((2, 3))
    loss = F.cross_entropy(logits, torch.tensor([2, 0]))
    loss.backward()
    named = dict(model.named_parameters())
    grads = {"grad." + k: named[k].grad for k in ("features.0.bias", "features.3.squeeze.weight", "features.12.expand1x1.bias", "classifier.1.weight")}
    tensors = dict(features=maps.mean((2, 3)), logits=logits, loss=loss, **grads)
    return {k: v.detach().float().contiguous() for k, v in tensors.items()}


def torchvision_name(name):
    import re
    name = name.replace("mobilenet_v2.", "", 1)
    rules = [(r"^conv_stem\.first_conv\.", "features.0.0."), (r"^conv_stem\.conv_3x3\.", "features.1.conv.0.0."), (r"^conv_stem\.reduce_1x1\.", "features.1.conv.1."),
             (r"^conv_1x1\.", "features.18.0."), (r"^classifier\.", "classifier.1."),
             (r"^layer\.(\d+)\.expand_1x1\.", lambda m: f"features.{int(m[1]) + 2}.conv.0.0."), (r"^layer\.(\d+)\.conv_3x3\.", lambda m: f"features.{int(m[1]) + 2}.conv.1.0."),
             (r"^layer\.(\d+)\.reduce_1x1\.", lambda m: f"features.{int(m[1]) + 2}.conv.2.")]
    for pattern, text in rules:
        name = re.sub(pattern, text, name)
    name = re.sub(r"(\d+)\.normalization\.", lambda m: f"{int(m[1]) + 1}.", name)
    return name.replace("convolution.", "")


def write(path, config, tensors, expected):
    shutil.rmtree(path, ignore_errors=True)
    os.makedirs(path)
    save_file({k: v.clone().contiguous() for k, v in tensors.items()}, os.path.join(path, "model.safetensors"), {"format": "pt"})
    save_file({k: v.float().contiguous() for k, v in expected.items()}, os.path.join(path, "expected.safetensors"))
    with open(os.path.join(path, "config.json"), "w") as f:
        json.dump(config, f, indent=2)
        f.write("\n")


def quantised(w):
    scale = w.abs().max() / 127
    return torch.clamp(torch.round(w / scale), -128, 127).to(torch.int8), torch.tensor([scale.item(), 0.0])


def mobilenets(out):
    generator = torch.Generator().manual_seed(5000)
    config = MobileNetV2Config(**MOBILENET, tf_padding=False, layer_norm_eps=1e-5)
    model = MobileNetV2ForImageClassification(config).eval()
    randomise(model, generator)
    pixels = torch.randn((1, 3, 40, 33), generator=generator)
    written = dict(model_type="mobilenet_v2", architectures=["MobileNetV2ForImageClassification"], layer_norm_eps=1e-5, num_labels=CLASSES,
                   **{k: v for k, v in MOBILENET.items() if k not in ("num_labels", "classifier_dropout_prob")}, tf_padding=False)
    tensors = {torchvision_name(k): v.float() if v.is_floating_point() else v for k, v in model.state_dict().items()
               if not k.endswith("num_batches_tracked")}
    with torch.no_grad():
        logits = model.double()(pixel_values=pixels.double()).logits
    write(os.path.join(out, "mobilenet_v2_torchvision"), written, tensors, dict(pixel_values=pixels, logits=logits))
    folded = {}
    for name, module in model.named_modules():
        if not (hasattr(module, "convolution") and hasattr(module, "normalization")):
            continue
        norm, conv = module.normalization, module.convolution
        gain = norm.weight / torch.sqrt(norm.running_var + norm.eps)
        w, scale = quantised((conv.weight * gain[:, None, None, None]).detach().float())
        bias = (norm.bias - norm.running_mean * gain).detach().float()
        target = torchvision_name(name + ".convolution.")
        folded.update({target + "weight": w, target + "qweight": scale, target + "bias": bias})
        conv.weight.data = (w.double() * scale[0].double())
        conv.bias = nn.Parameter(bias.double())
        module.normalization = nn.Identity()
    w, scale = quantised(model.classifier.weight.detach().float())
    model.classifier.weight.data = w.double() * scale[0].double()
    folded.update({"classifier.1.weight": w, "classifier.1.qweight": scale, "classifier.1.bias": model.classifier.bias.detach().float()})
    with torch.no_grad():
        logits = model(pixel_values=pixels.double()).logits
    write(os.path.join(out, "mobilenet_v2_int8"), dict(written, batch_norm=False), folded, dict(pixel_values=pixels, logits=logits))


def main():
    here = os.path.dirname(os.path.abspath(__file__))
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", default=os.path.join(here, "..", "reference", "torchvision"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    os.makedirs(args.out, exist_ok=True)
    for version in ("1_0", "1_1"):
        save_file(expected_of_squeezenet(version), os.path.join(args.out, f"squeezenet_{version}.safetensors"))
    mobilenets(args.out)
    source, target = os.path.join(args.out, "..", "dense", "unet_regression"), os.path.join(args.out, "unet_pth")
    shutil.rmtree(target, ignore_errors=True)
    os.makedirs(target)
    torch.save(load_file(os.path.join(source, "model.safetensors")), os.path.join(target, "weights.pth"))
    shutil.copy(os.path.join(source, "config.json"), target)
    for folder, _, files in os.walk(args.out):
        for file in files:
            os.chmod(os.path.join(folder, file), 0o644)
            print(json.dumps(dict(file=os.path.relpath(os.path.join(folder, file), args.out), bytes=os.path.getsize(os.path.join(folder, file)))))


if __name__ == "__main__":
    main()
