#!/usr/bin/env python3
"""Tiny random networks of diffusers that denoise, in f64, and what its schedulers make of noise.

Writes <out>/<name>/{config.json, diffusion_pytorch_model.safetensors, expected.safetensors}.  expected.safetensors holds
    sample                        f32 (3, channels, H, W)
    timesteps, classes            i64 (3); rows of the table of classes, if there is one
    target                        f32, of the output's shape
    output, loss                  f32; the mean square
    grad.<tensor>                 f32, gradient of `loss`, of every parameter
    adapted                       f32, the output with the LoRA of PEFT in <name>/adapter, of those in ADAPTERS
and <out>/schedules/<name>/{scheduler_config.json, expected.safetensors}, which holds
    alphas                        f64 (T), the products of 1 - beta
    steps.<n>                     i64, timesteps of n steps
    sample, noise, timesteps      f32 (3, 2, 4), f32, i64 (3)
    noisy, target, snr_weights    f32; the weights with gamma 5
    prediction                    f32; of twice the channels where the variance is learned
    <ddpm|ddim|ddim_eta>.<i>      f32, from timestep i of 10 steps with `noise`; i in STEPS
"""
import argparse
import json
import os
import shutil

import torch
from diffusers import DDIMScheduler, DDPMScheduler, DiTTransformer2DModel, UNet2DModel
from diffusers.schedulers import scheduling_ddpm
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file

ROWS = 3
COUNT = 10
STEPS = [0, 4, 9]

NETWORKS = {
    "unet": (UNet2DModel, dict(sample_size=8, in_channels=1, out_channels=1, layers_per_block=1, block_out_channels=(4, 8),
                               down_block_types=("AttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "AttnUpBlock2D"),
                               norm_num_groups=2, attention_head_dim=2, num_class_embeds=3)),
    "unet_shift": (UNet2DModel, dict(sample_size=(8, 4), in_channels=2, out_channels=3, layers_per_block=2, block_out_channels=(6, 4, 4),
                                     down_block_types=("DownBlock2D", "DownBlock2D", "AttnDownBlock2D"),
                                     up_block_types=("AttnUpBlock2D", "UpBlock2D", "UpBlock2D"), norm_num_groups=2,
                                     attention_head_dim=None, resnet_time_scale_shift="scale_shift", downsample_padding=0,
                                     center_input_sample=True, flip_sin_to_cos=False, freq_shift=1, mid_block_scale_factor=1.5,
                                     act_fn="gelu", time_embedding_dim=10)),
}
NETWORKS["dit"] = (DiTTransformer2DModel, dict(num_attention_heads=2, attention_head_dim=4, in_channels=2, out_channels=4, num_layers=2,
                                               sample_size=6, patch_size=2, num_embeds_ada_norm=3, norm_num_groups=1))
ADAPTERS = {"unet": ["to_q", "to_out.0", "conv1", "time_emb_proj"], "dit": ["to_v", "norm1.linear", "proj", "embedding_table"]}

SCHEDULES = {
    "linear": dict(),
    "scaled": dict(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, clip_sample=False, timestep_spacing="leading",
                   steps_offset=1, set_alpha_to_one=False),
    "cosine_v": dict(num_train_timesteps=100, beta_schedule="squaredcos_cap_v2", prediction_type="v_prediction",
                     timestep_spacing="linspace", variance_type="fixed_large"),
    "zero_snr": dict(num_train_timesteps=50, prediction_type="sample", rescale_betas_zero_snr=True, timestep_spacing="trailing",
                     clip_sample_range=0.7),
    "learned": dict(variance_type="learned_range"),
}


def randomise(model, generator):
    for name, p in model.named_parameters():
        noise = torch.randn(p.shape, generator=generator)
        p.data = 1 + 0.2 * noise if p.dim() == 1 and name.endswith("weight") else 0.3 * noise


def call(model, sample, timesteps, classes):
    return model(sample, timesteps, class_labels=classes).sample if classes is not None else model(sample, timesteps).sample


def adapt(model, targets, out, inputs, generator):
    adapted = get_peft_model(model, LoraConfig(r=2, lora_alpha=3, target_modules=targets))
    for name, p in adapted.named_parameters():
        if "lora_" in name:
            p.data = 0.3 * torch.randn(p.shape, generator=generator)
    adapted.save_pretrained(out)
    for name in os.listdir(out):
        if name == "README.md":
            os.remove(os.path.join(out, name))
    return call(adapted.double(), *inputs).detach()


def network(name, out):
    kind, config = NETWORKS[name]
    generator = torch.Generator().manual_seed(len(name))
    model = kind(**config).eval()
    randomise(model, generator)
    model.save_pretrained(out)
    height, width = model.config.sample_size if isinstance(model.config.sample_size, (tuple, list)) else [model.config.sample_size] * 2
    sample = torch.randn((ROWS, model.config.in_channels, height, width), generator=generator)
    timesteps = torch.tensor([0, 7, 999])
    rows = model.config.get("num_class_embeds") or model.config.get("num_embeds_ada_norm", 0) + 1
    classes = torch.tensor([1, rows - 1, 0]) if rows > 1 else None
    model.double()
    inputs = (sample.double(), timesteps, classes)
    output = call(model, *inputs)
    target = torch.randn(output.shape, generator=generator)
    loss = (output - target).square().mean()
    loss.backward()
    tensors = dict(sample=sample, timesteps=timesteps, target=target, output=output.detach(), loss=loss.detach(),
                   **{"grad." + k: p.grad for k, p in model.named_parameters()})
    if classes is not None:
        tensors["classes"] = classes
    if name in ADAPTERS:
        tensors["adapted"] = adapt(model.float(), ADAPTERS[name], os.path.join(out, "adapter"), inputs, generator)
    tensors = {k: v.float().contiguous() if v.is_floating_point() else v for k, v in tensors.items()}
    save_file(tensors, os.path.join(out, "expected.safetensors"))


def snr_weights(schedule, timesteps, gamma=5.0):
    alpha = schedule.alphas_cumprod.double()[timesteps]
    snr = alpha / (1 - alpha)
    least = snr.clamp(max=gamma)
    kind = schedule.config.prediction_type
    return least if kind == "sample" else least / (snr + 1) if kind == "v_prediction" else least / snr


def schedule(name, out):
    settings = SCHEDULES[name]
    ddpm = DDPMScheduler(**{k: v for k, v in settings.items() if k != "set_alpha_to_one"})
    ddim = DDIMScheduler(**{k: v for k, v in settings.items() if k != "variance_type"})
    generator = torch.Generator().manual_seed(len(name))
    sample = torch.randn((ROWS, 2, 4), generator=generator)
    noise = torch.randn(sample.shape, generator=generator)
    learned = settings.get("variance_type") == "learned_range"
    prediction = torch.randn((ROWS, 4 if learned else 2, 4), generator=generator)
    steps = ddpm.config.num_train_timesteps
    timesteps = torch.tensor([0, steps // 3, steps - 2])
    tensors = dict(alphas=ddpm.alphas_cumprod.double(), sample=sample, noise=noise, timesteps=timesteps, prediction=prediction,
                   noisy=ddpm.add_noise(sample, noise, timesteps), snr_weights=snr_weights(ddpm, timesteps).float())
    tensors["target"] = dict(epsilon=noise, sample=sample, v_prediction=ddpm.get_velocity(sample, noise, timesteps))[
        ddpm.config.prediction_type].clone()
    for n in (1, 7, COUNT):
        ddpm.set_timesteps(n)
        tensors[f"steps.{n}"] = ddpm.timesteps.clone()
    ddpm.set_timesteps(COUNT)
    ddim.set_timesteps(COUNT)
    scheduling_ddpm.randn_tensor = lambda *a, **k: noise if not learned else torch.cat([noise, noise], 1)[:, :2]
    for i in STEPS:
        t = int(ddpm.timesteps[i])
        tensors[f"ddpm.{i}"] = ddpm.step(prediction, t, sample).prev_sample
        said = prediction[:, :2]
        tensors[f"ddim.{i}"] = ddim.step(said, t, sample).prev_sample
        tensors[f"ddim_eta.{i}"] = ddim.step(said, t, sample, eta=0.6, variance_noise=noise).prev_sample
    os.makedirs(out, exist_ok=True)
    with open(os.path.join(out, "scheduler_config.json"), "w") as f:
        json.dump({"_class_name": "DDIMScheduler", **settings}, f, indent=2)
        f.write("\n")
    save_file({k: v.contiguous() for k, v in tensors.items()}, os.path.join(out, "expected.safetensors"))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", default="../reference/diffusion")
    args = parser.parse_args()
    for name in NETWORKS:
        path = os.path.join(args.out, name)
        shutil.rmtree(path, ignore_errors=True)
        network(name, path)
    for name in SCHEDULES:
        path = os.path.join(args.out, "schedules", name)
        shutil.rmtree(path, ignore_errors=True)
        schedule(name, path)


if __name__ == "__main__":
    main()
