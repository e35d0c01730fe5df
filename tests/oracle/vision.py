#!/usr/bin/env python3
"""Tiny random models of images, and what transformers computes with them, in f64.

Writes <out>/<name>/{config.json, model.safetensors, expected.safetensors}.  expected.safetensors holds
    pixel_values                      f32 (3, channels, H, W)
    labels                            i64 (3)
    hidden, features, logits, loss    f32: last_hidden_state, what the classifier reads, ...
    grad.<tensor>                     f32, gradient of `loss`, of every parameter, by the name of its tensor in the checkpoint
    resized.pixel_values, resized.logits   f32, of transformers with interpolated positions; of convolutional networks, which take any size
    train.<...>                       the same in training, of models with batch norms, which go by the batch's statistics then
    train.buffer.<tensor>             running statistics behind that one step
    input_ids, attention_mask         i64 (3, 8), of CLIP; image_features, text_features, text_hidden; logits is logits_per_image
    adapted                           f32, logits with the LoRA of PEFT in <name>/adapter, of those in ADAPTERS
In <name>_torchvision is the same network under the names of torchvision and timm.
"""
import argparse
import json
import os
import shutil

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import (CLIPConfig, CLIPForImageClassification, CLIPModel, CLIPTextConfig, CLIPTextModel, CLIPVisionConfig,
                          CLIPVisionModelWithProjection, ConvNextConfig, ConvNextForImageClassification, DeiTConfig, DeiTForImageClassification, DeiTForImageClassificationWithTeacher, MobileNetV2Config,
                          MobileNetV2ForImageClassification, ResNetConfig, ResNetForImageClassification, SegformerConfig,
                          SegformerForImageClassification, SwinConfig,
                          SwinForImageClassification, ViTConfig, ViTForImageClassification, ViTModel)

ROWS, CLASSES = 3, 4

VIT = dict(hidden_size=16, intermediate_size=20, num_hidden_layers=2, num_attention_heads=2, image_size=12, patch_size=4, num_labels=CLASSES,
           layer_norm_eps=1e-6)
RESNET = dict(embedding_size=4, hidden_sizes=[8, 12], depths=[2, 1], num_labels=CLASSES)
CONVNEXT = dict(hidden_sizes=[8, 12], depths=[2, 1], num_stages=2, num_labels=CLASSES)
MOBILENET = dict(depth_multiplier=0.1, depth_divisible_by=4, min_depth=4, expand_ratio=2.0, finegrained_output=False, num_labels=CLASSES,
                 classifier_dropout_prob=0.0)
SWIN = dict(image_size=16, patch_size=2, embed_dim=8, depths=[2, 1], num_heads=[1, 2], window_size=4, mlp_ratio=2.0, num_labels=CLASSES,
            drop_path_rate=0.0)
SEGFORMER = dict(num_encoder_blocks=2, depths=[2, 1], hidden_sizes=[8, 12], sr_ratios=[4, 1], patch_sizes=[7, 3], strides=[4, 2],
                 num_attention_heads=[1, 2], mlp_ratios=[2, 3], decoder_hidden_size=10, drop_path_rate=0.0, classifier_dropout_prob=0.0, num_labels=CLASSES)
TOWER = dict(hidden_size=16, intermediate_size=20, num_hidden_layers=2, num_attention_heads=2, projection_dim=6)
CLIP_VISION = dict(TOWER, image_size=12, patch_size=4)
CLIP_TEXT = dict(TOWER, hidden_size=12, vocab_size=30, max_position_embeddings=10, bos_token_id=0, eos_token_id=29, pad_token_id=1)
CLIP = dict(text_config=CLIP_TEXT, vision_config=CLIP_VISION, projection_dim=6)

# name: class, configuration, height and width of the images, and of others
MODELS = {
    "vit": (ViTForImageClassification, ViTConfig(**VIT), (12, 12), (20, 16)),
    "vit_wide": (ViTForImageClassification, ViTConfig(**{**VIT, "image_size": [8, 12], "patch_size": [4, 2]}, qkv_bias=False, num_channels=1,
                                                      hidden_act="relu"), (8, 12), None),
    "vit_bare": (ViTModel, ViTConfig(**VIT), (12, 12), None),
    "deit": (DeiTForImageClassification, DeiTConfig(**VIT), (12, 12), (16, 12)),
    "deit_teacher": (DeiTForImageClassificationWithTeacher, DeiTConfig(**VIT), (12, 12), None),
    "resnet_basic": (ResNetForImageClassification, ResNetConfig(**RESNET, layer_type="basic"), (24, 20), (33, 40)),
    "resnet_bottleneck": (ResNetForImageClassification, ResNetConfig(**RESNET, downsample_in_first_stage=True), (32, 32), None),
    "resnet_first": (ResNetForImageClassification, ResNetConfig(**{**RESNET, "hidden_sizes": [16, 24]}, downsample_in_bottleneck=True, hidden_act="silu"), (24, 24), None),
    "convnext": (ConvNextForImageClassification, ConvNextConfig(**CONVNEXT), (32, 24), (37, 33)),
    "convnext_plain": (ConvNextForImageClassification, ConvNextConfig(**CONVNEXT, layer_scale_init_value=0.0, patch_size=2, num_channels=2), (16, 16),
                       None),
    "mobilenet_v2": (MobileNetV2ForImageClassification, MobileNetV2Config(**MOBILENET, output_stride=16, num_channels=1), (64, 64), (45, 38)),
    "mobilenet_v2_dilated": (MobileNetV2ForImageClassification, MobileNetV2Config(**MOBILENET, tf_padding=False, output_stride=8,
                                                                                first_layer_is_expansion=False, hidden_act="relu"), (32, 40), None),
    "swin": (SwinForImageClassification, SwinConfig(**SWIN), (16, 16), (22, 19)),
    "swin_positions": (SwinForImageClassification, SwinConfig(**{**SWIN, "window_size": 2, "depths": [2, 2]}, use_absolute_embeddings=True,
                                                              qkv_bias=False), (16, 16), (20, 16)),
    "segformer": (SegformerForImageClassification, SegformerConfig(**SEGFORMER), (16, 20), (21, 18)),
    "clip_vision": (CLIPVisionModelWithProjection, CLIPVisionConfig(**CLIP_VISION), (12, 12), None),
    "clip_classifier": (CLIPForImageClassification, CLIPConfig(**CLIP, num_labels=CLASSES), (12, 12), None),
    "clip": (CLIPModel, CLIPConfig(**CLIP), (12, 12), None),
    "clip_of_old": (CLIPModel, CLIPConfig(**{**CLIP, "text_config": dict(CLIP_TEXT, eos_token_id=2)}), (12, 12), None),
    "clip_text": (CLIPTextModel, CLIPTextConfig(**CLIP_TEXT), None, None),
}

# name: options of the LoRA
ADAPTERS = {
    "resnet_basic": dict(target_modules=["convolution"]),
    "convnext": dict(target_modules=["pwconv1", "patch_embeddings", "downsampling_layer.1"]),
    "mobilenet_v2_dilated": dict(target_modules=["expand_1x1.convolution", "first_conv.convolution"]),  # TensorFlow's padding does not know PEFT's layers
    "clip": dict(target_modules=["q_proj", "fc2", "patch_embedding", "visual_projection"]),
}
TORCHVISION = ["resnet_basic"]


def randomise(model, generator):
    """Norm weights and running variances around 1, everything else noise."""
    for name, p in list(model.named_parameters()) + list(model.named_buffers()):
        if p.dtype == torch.int64:  # but for this one they are tables of places
            if name.endswith("num_batches_tracked"):
                p.data.fill_(7)
            continue
        noise = torch.randn(p.shape, generator=generator)
        if name.endswith("running_var"):
            p.data = 0.5 + noise.abs()
        elif p.dim() == 1 and name.endswith("weight"):
            p.data = 1 + 0.2 * noise
        else:
            p.data = 0.3 * noise


def checkpoint_names(model, path):
    """Names of parameters and buffers in the file, found by their values."""
    stored = load_file(os.path.join(path, "model.safetensors"))
    names = {}
    for name, p in list(model.named_parameters()) + list(model.named_buffers()):
        same = [k for k, v in stored.items() if k == name] or [k for k, v in stored.items() if v.shape == p.shape and torch.equal(v, p)]
        if same:
            names[name] = same[0]
    return names


def base_of(model):
    if hasattr(model, "vision_model"):
        return model.vision_model
    return getattr(model, model.base_model_prefix, model)


def features_of(model, out, inputs):
    """What a classifier reads, or CLIP's features."""
    if isinstance(model, CLIPVisionModelWithProjection):
        return model(**inputs).image_embeds
    if isinstance(model, CLIPForImageClassification):
        return out.last_hidden_state[:, 1:].mean(1)
    if isinstance(model, SegformerForImageClassification):
        return out.last_hidden_state.flatten(2).mean(-1)
    if out.last_hidden_state.dim() == 4 or isinstance(model, SwinForImageClassification):
        return out.pooler_output.flatten(1)
    return out.last_hidden_state[:, 0]


def gradients(model, names, loss):
    model.zero_grad()
    loss.backward()
    return {"grad." + names[name]: p.grad for name, p in model.named_parameters() if p.grad is not None}


def run(model, names, inputs, labels):
    """Hidden states, logits, loss and gradients."""
    base = base_of(model)
    was = {k: b.clone() for k, b in model.named_buffers()}
    with torch.no_grad():
        out = base(**inputs)
        tensors = dict(hidden=out.last_hidden_state, features=features_of(model, out, inputs))
    for k, b in model.named_buffers():
        b.data.copy_(was[k])  # that was no step
    if not hasattr(model, "num_labels") or base is model or isinstance(model, CLIPVisionModelWithProjection):
        return tensors
    logits = model(**inputs).logits
    loss = torch.nn.functional.cross_entropy(logits, labels)
    return dict(tensors, logits=logits.detach(), loss=loss.detach(), **gradients(model, names, loss))


def texts(config, generator):
    """Ids with their end at other places, and padding behind it."""
    end = config.eos_token_id if config.eos_token_id != 2 else config.vocab_size - 1
    ids = torch.randint(3, end, (ROWS, 8), generator=generator)
    ids[0, -1] = ids[1, 4] = ids[2, 6] = end
    mask = torch.ones_like(ids)
    mask[1, 5:] = 0
    mask[2, 7:] = 0
    ids[mask == 0] = config.pad_token_id
    return dict(input_ids=ids, attention_mask=mask)


def expected_of_texts(model, path, generator):
    inputs = texts(model.config, generator)
    with torch.no_grad():
        out = model.double().eval()(**inputs)
    return dict(inputs, hidden=out.last_hidden_state.float(), features=out.pooler_output.float())


def expected_of_both(model, path, generator, size):
    """CLIP: features of images and texts, how they fit, and the gradients of the contrastive loss."""
    names = checkpoint_names(model, path)
    model.double().eval()
    pixels = torch.randn((ROWS, 3, *size), generator=generator).double()
    inputs = texts(model.config.text_config, generator)
    out = model(pixel_values=pixels, **inputs, return_loss=True)
    tensors = dict(inputs, pixel_values=pixels, image_features=model.get_image_features(pixel_values=pixels).pooler_output.detach(),
                   text_features=model.get_text_features(**inputs).pooler_output.detach(), logits=out.logits_per_image.detach(),
                   loss=out.loss.detach(), hidden=out.vision_model_output.last_hidden_state.detach(),
                   text_hidden=out.text_model_output.last_hidden_state.detach(), **gradients(model, names, out.loss))
    return {k: v.float() if v.is_floating_point() else v for k, v in tensors.items()}


def expected(model, path, generator, size, other):
    names = checkpoint_names(model, path)
    model.double()
    channels = getattr(model.config, "vision_config", model.config).num_channels
    inputs = dict(pixel_values=torch.randn((ROWS, channels, *size), generator=generator).double())
    labels = torch.randint(CLASSES, (ROWS,), generator=generator)
    tensors = dict(inputs, labels=labels, **run(model.eval(), names, inputs, labels))
    if other:
        pixels = torch.randn((ROWS, channels, *other), generator=generator).double()
        options = {} if tensors["hidden"].dim() == 4 else dict(interpolate_pos_encoding=True)
        with torch.no_grad():
            tensors.update({"resized.pixel_values": pixels, "resized.logits": model(pixel_values=pixels, **options).logits})
    if any(name.endswith("running_mean") for name, _ in model.named_buffers()):
        trained = run(model.train(), names, inputs, labels)
        if isinstance(model, MobileNetV2ForImageClassification):  # its norms, over fifty in a row, make 2e-4 of the rounding of torch's own f32
            trained = {k: v for k, v in trained.items() if not k.startswith("grad.")}
        tensors.update({"train." + k: v for k, v in trained.items()})
        tensors.update({"train.buffer." + names[k]: b for k, b in model.named_buffers() if b.dtype != torch.int64})
    return {k: v.float() if v.is_floating_point() else v for k, v in tensors.items()}


def adapted(kind, path, options, inputs, generator):
    """Makes an adapter that changes something, and gives the logits with what was written."""
    model = get_peft_model(kind.from_pretrained(path), LoraConfig(r=2, lora_alpha=3, **options))
    for name, p in sorted(model.named_parameters()):
        if p.requires_grad:
            p.data += 0.3 * torch.randn(p.shape, generator=generator)
    target = os.path.join(path, "adapter")
    model.save_pretrained(target)
    config = os.path.join(target, "adapter_config.json")
    with open(config) as f:
        values = json.load(f)
    values["base_model_name_or_path"] = os.path.basename(path)
    with open(config, "w") as f:
        json.dump(values, f, indent=2, sort_keys=True)
        f.write("\n")
    os.remove(os.path.join(target, "README.md"))
    model = PeftModel.from_pretrained(kind.from_pretrained(path), target).eval()
    with torch.no_grad():
        out = model(**inputs)
    return out.logits if hasattr(out, "logits") else out.logits_per_image


def as_torchvision(path, target):
    """The names of torchvision.models.resnet, by the places of layers."""
    import re
    rules = [(r"^resnet\.embedder\.embedder\.convolution", "conv1"), (r"^resnet\.embedder\.embedder\.normalization", "bn1"),
             (r"^classifier\.1", "fc"), (r"shortcut\.convolution", "downsample.0"), (r"shortcut\.normalization", "downsample.1"),
             (r"^resnet\.encoder\.stages\.(\d+)\.layers", lambda m: f"layer{int(m[1]) + 1}"),
             (r"layer\.(\d+)\.convolution", lambda m: f"conv{int(m[1]) + 1}"), (r"layer\.(\d+)\.normalization", lambda m: f"bn{int(m[1]) + 1}")]
    tensors = load_file(os.path.join(path, "model.safetensors"))
    for pattern, text in rules:
        tensors = {re.sub(pattern, text, k): v for k, v in tensors.items()}
    shutil.rmtree(target, ignore_errors=True)
    os.makedirs(target)
    save_file(tensors, os.path.join(target, "model.safetensors"), {"format": "pt"})
    shutil.copy(os.path.join(path, "config.json"), target)


def main():
    here = os.path.dirname(os.path.abspath(__file__))
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", default=os.path.join(here, "..", "reference", "vision"))
    parser.add_argument("--only", nargs="*", help="names to make (default: all)")
    args = parser.parse_args()
    torch.set_num_threads(1)
    for index, (name, (kind, config, size, other)) in enumerate(MODELS.items()):
        if args.only and name not in args.only:
            continue
        path = os.path.join(args.out, name)
        shutil.rmtree(path, ignore_errors=True)
        generator = torch.Generator().manual_seed(3000 + index)
        config._attn_implementation = "eager"
        model = kind(config)
        randomise(model, generator)
        model.save_pretrained(path)
        if kind is CLIPTextModel:
            tensors = expected_of_texts(model, path, generator)
        elif kind is CLIPModel:
            tensors = expected_of_both(model, path, generator, size)
        else:
            tensors = expected(model, path, generator, size, other)
        if name in ADAPTERS:
            inputs = {k: tensors[k] for k in ("pixel_values", "input_ids", "attention_mask") if k in tensors}
            tensors["adapted"] = adapted(kind, path, ADAPTERS[name], inputs, generator)
        save_file({k: v.clone().contiguous() for k, v in tensors.items()}, os.path.join(path, "expected.safetensors"))
        if name in TORCHVISION:
            as_torchvision(path, path + "_torchvision")
        files = [os.path.join(folder, file) for folder, _, names in os.walk(path) for file in names]
        for file in files:
            os.chmod(file, 0o644)
        size = sum(os.path.getsize(file) for file in files)
        print(json.dumps(dict(model=name, bytes=size, loss=round(tensors["loss"].item(), 4) if "loss" in tensors else None)))


if __name__ == "__main__":
    main()
