#!/usr/bin/env python3
"""One or more adapters of every kind beside LoRA and (IA)^3, made by PEFT, and what the adapted networks compute.

Writes <out>/<name>/{adapter_config.json, adapter_model.safetensors, expected.safetensors} as peft_adapters.py does; run models.py and
peft_regression.py first.  Those of the network "conv2d" hold instead
    x, output           f32, its input (2, 5, 3, 3) and output (2, 2)
    grad.<key>          f32, gradient of the sum of output * (1, 2, 3, 4)
A case is (base, arguments, noise): every trained parameter is what PEFT starts with and normal noise of that deviation, so that nothing is
zero.  Seeds come from the names: a case can be added or remade alone.
"""
import argparse
import json
import os
import shutil
import types
import zlib

import peft
import torch
from safetensors.torch import load_file, save_file

from models import batch, load_f32
from peft_adapters import file_keys, sort_lists
from peft_regression import ModelConv2D

QV = ["q_proj", "v_proj"]
TASKS = ["MultitaskPromptTuning", "Poly"]  # kinds that want to know the task of each row
PROMPTS = ["PromptTuning", "PromptEncoder", "PrefixTuning", "MultitaskPromptTuning"]  # kinds of virtual tokens

KINDS = {
    "loha_qv": ("llama2", dict(kind="LoHa", r=4, alpha=6, target_modules=QV), 0.3),
    "loha_dense": ("llama2", dict(kind="LoHa", r=6, alpha=3, target_modules=["q_proj", "down_proj"], rank_pattern={"down_proj": 9},
                                  alpha_pattern={"layers.1.mlp.down_proj": 5}), 0.3),
    "loha_conv": ("conv2d", dict(kind="LoHa", r=3, alpha=6, target_modules=["conv2d"]), 0.4),
    "loha_tucker": ("conv2d", dict(kind="LoHa", r=3, alpha=6, target_modules=["conv2d"], use_effective_conv2d=True), 0.5),
    "lokr_qv": ("llama2", dict(kind="LoKr", r=2, alpha=6, target_modules=QV), 0.3),
    "lokr_whole": ("llama2", dict(kind="LoKr", r=8, alpha=4, target_modules=["q_proj", "up_proj"], decompose_factor=4), 0.3),
    "lokr_both": ("llama2", dict(kind="LoKr", r=2, alpha=6, target_modules="all-linear", decompose_both=True, decompose_factor=6,
                                 init_weights="lycoris"), 0.3),
    "lokr_conv": ("conv2d", dict(kind="LoKr", r=1, alpha=2, target_modules=["conv2d", "lin0"]), 0.4),
    "lokr_conv_whole": ("conv2d", dict(kind="LoKr", r=8, alpha=8, target_modules=["conv2d"], decompose_factor=2), 0.4),
    "lokr_tucker": ("conv2d", dict(kind="LoKr", r=2, alpha=4, target_modules=["conv2d"], use_effective_conv2d=True), 0.5),
    "vera_qv": ("llama2", dict(kind="Vera", r=5, target_modules=["q_proj", "down_proj"]), 0.3),
    "vera_key": ("qwen2", dict(kind="Vera", r=6, target_modules=["q_proj", "k_proj", "up_proj"], save_projection=False,
                               projection_prng_key=123456789, bias="vera_only"), 0.3),
    "vera_gpt2": ("gpt2", dict(kind="Vera", r=5, target_modules=["c_attn", "c_fc"], fan_in_fan_out=True, d_initial=0.5), 0.3),
    "fourierft_qv": ("llama2", dict(kind="FourierFT", n_frequency=60, scaling=40.0, target_modules=["q_proj", "down_proj"],
                                    n_frequency_pattern={"layers.1.mlp.down_proj": 5}), 0.3),
    "fourierft_gpt2": ("gpt2", dict(kind="FourierFT", n_frequency=90, scaling=50.0, random_loc_seed=4, fan_in_fan_out=True,
                                    bias="fourier_only"), 0.3),
    "hra_qv": ("llama2", dict(kind="HRA", r=4, target_modules=["q_proj", "down_proj"]), 0.1),
    "hra_biases": ("qwen2", dict(kind="HRA", r=5, target_modules=["q_proj", "k_proj"], bias="all"), 0.1),
    "hra_gs": ("llama2", dict(kind="HRA", r=3, apply_GS=True, target_modules=["v_proj", "up_proj"]), 0.1),
    "hra_conv": ("conv2d", dict(kind="HRA", r=6, target_modules=["conv2d", "lin0"]), 0.3),
    "ln_tuning_llama": ("llama2", dict(kind="LNTuning"), 0.3),
    "ln_tuning_gpt2": ("gpt2", dict(kind="LNTuning", target_modules=["ln_1", "ln_f"]), 0.3),
    "bitfit_gpt2": ("gpt2", dict(kind="BitFit"), 0.3),
    "beft_qwen2": ("qwen2", dict(kind="Beft", target_modules=["v_proj", "k_proj"]), 0.3),
    "beft_no_bias": ("llama2", dict(kind="Beft"), 0.3),
    "shira_qv": ("llama2", dict(kind="Shira", r=3, target_modules=["q_proj", "down_proj"], random_seed=11), 0.3),
    "hira_qv": ("llama2", dict(kind="Hira", r=4, target_modules=["q_proj", "down_proj"]), 0.3),
    "hira_gpt2": ("gpt2", dict(kind="Hira", r=3, target_modules=["c_attn"], fan_in_fan_out=True, init_weights="gaussian"), 0.3),
    "hira_embedding": ("llama2", dict(kind="Hira", r=3, target_modules=["embed_tokens"]), 0.3),
    "hira_conv": ("conv2d", dict(kind="Hira", r=3, target_modules=["conv2d", "lin0"]), 0.4),
    "miss_qv": ("llama2", dict(kind="Miss", r=10, target_modules=["q_proj", "down_proj"]), 0.3),
    "miss_bat": ("llama2", dict(kind="Miss", r=8, target_modules=["q_proj", "up_proj"], init_weights="bat"), 0.2),
    "miss_mini": ("qwen2", dict(kind="Miss", r=6, mini_r=4, target_modules=["k_proj", "up_proj"], init_weights="mini", bias="all"), 0.3),
    "c3a_qv": ("llama2", dict(kind="C3A", block_size=12, target_modules=["q_proj", "v_proj"], block_size_pattern={"v_proj": 8}), 2.0),
    "c3a_prime": ("llama2", dict(kind="C3A", block_size=2, target_modules=["up_proj"], init_weights="kaiming_uniform"), 2.0),
    "road_1": ("llama2", dict(kind="Road", group_size=12, target_modules=["q_proj", "down_proj"]), 0.3),
    "road_2": ("qwen2", dict(kind="Road", variant="road_2", group_size=8, target_modules=["k_proj", "up_proj"]), 0.3),
    "road_4": ("llama2", dict(kind="Road", variant="road_4", group_size=16, target_modules=["v_proj"]), 0.3),
    "oft_qv": ("llama2", dict(kind="OFT", oft_block_size=8, target_modules=["q_proj", "down_proj"]), 0.1),
    "oft_blocks": ("llama2", dict(kind="OFT", r=4, oft_block_size=0, target_modules=["v_proj", "up_proj"], use_cayley_neumann=False), 0.2),
    "oft_terms": ("qwen2", dict(kind="OFT", oft_block_size=7, target_modules=["k_proj", "down_proj"], num_cayley_neumann_terms=3,
                                block_share=True, bias="oft_only"), 0.1),
    "oft_coft": ("llama2", dict(kind="OFT", oft_block_size=4, target_modules=["q_proj"], coft=True, eps=0.3), 0.1),
    "oft_series": ("llama2", dict(kind="OFT", oft_block_size=9, target_modules=["q_proj"], num_cayley_neumann_terms=7), 0.1),
    "oft_embedding": ("llama2", dict(kind="OFT", oft_block_size=6, target_modules=["embed_tokens"]), 0.1),
    "oft_conv": ("conv2d", dict(kind="OFT", oft_block_size=5, target_modules=["conv2d", "lin0"]), 0.2),
    "boft_qv": ("llama2", dict(kind="BOFT", target_modules=["q_proj", "down_proj"]), 0.2),
    "boft_num": ("qwen2", dict(kind="BOFT", boft_block_size=0, boft_block_num=4, target_modules=["k_proj", "up_proj"], bias="boft_only"), 0.2),
    "boft_butterfly": ("llama2", dict(kind="BOFT", boft_block_size=4, boft_n_butterfly_factor=3, target_modules=["q_proj", "o_proj"]), 0.2),
    "boft_conv": ("conv2d", dict(kind="BOFT", boft_block_size=5, target_modules=["conv2d", "lin0"]), 0.2),
    "randlora_qv": ("llama2", dict(kind="RandLora", r=20, randlora_alpha=30, target_modules=["q_proj", "down_proj"]), 0.1),
    "randlora_drawn": ("qwen2", dict(kind="RandLora", r=9, randlora_alpha=30, target_modules=["k_proj", "up_proj"], save_projection=False,
                                     projection_prng_key=99, bias="randlora_only"), 0.1),
    "randlora_wrapped": ("llama2", dict(kind="RandLora", r=12, randlora_alpha=12, target_modules=QV, save_projection=False), 0.1),
    "randlora_sparse": ("gpt2", dict(kind="RandLora", r=12, randlora_alpha=30, target_modules=["c_attn", "c_fc"], save_projection=False,
                                     sparse=True, fan_in_fan_out=True), 0.1),
    "randlora_very_sparse": ("llama2", dict(kind="RandLora", r=16, randlora_alpha=30, target_modules=["v_proj"], save_projection=False,
                                            very_sparse=True), 0.1),
    "vblora_qv": ("llama2", dict(kind="VBLoRA", r=3, num_vectors=12, vector_length=8, target_modules=["q_proj", "down_proj"]), 0.5),
    "vblora_topk": ("llama2", dict(kind="VBLoRA", r=2, num_vectors=12, vector_length=8, topk=3, target_modules=["q_proj", "up_proj"],
                                   save_only_topk_weights=True), 0.5),
    "vblora_many": ("qwen2", dict(kind="VBLoRA", r=2, num_vectors=300, vector_length=16, target_modules=["k_proj"], bias="vblora_only",
                                  save_only_topk_weights=True), 0.5),
    "delora_qv": ("llama2", dict(kind="Delora", r=4, delora_lambda=3, target_modules=["q_proj", "down_proj"], rank_pattern={"q_proj": 6},
                                 lambda_pattern={"q_proj": 7}), 0.3),
    "adalora_qv": ("llama2", dict(kind="AdaLora", init_r=5, target_r=3, lora_alpha=20, total_step=10, target_modules=["q_proj", "down_proj"]),
                   0.3),
    "adalora_masked": ("qwen2", dict(kind="AdaLora", init_r=4, target_r=2, lora_alpha=16, total_step=10, target_modules=["k_proj", "up_proj"],
                                     bias="lora_only", marks=["1011", "0000", "0100", "1111"]), 0.3),
    "prompt_tuning_llama": ("llama2", dict(kind="PromptTuning", num_virtual_tokens=5), 0.1),
    "prompt_tuning_gpt2": ("gpt2", dict(kind="PromptTuning", num_virtual_tokens=3), 0.1),
    "p_tuning_qwen2": ("qwen2", dict(kind="PromptEncoder", num_virtual_tokens=4, encoder_hidden_size=20), 0.1),
    "p_tuning_lstm": ("llama2", dict(kind="PromptEncoder", num_virtual_tokens=4, encoder_hidden_size=12,
                                     encoder_reparameterization_type="LSTM", encoder_num_layers=1), 0.1),
    "prefix_tuning_llama": ("llama2", dict(kind="PrefixTuning", num_virtual_tokens=5), 0.1),
    "prefix_tuning_qwen2": ("qwen2", dict(kind="PrefixTuning", num_virtual_tokens=4, prefix_projection=True, encoder_hidden_size=24), 0.1),
    "prefix_tuning_qwen3": ("qwen3", dict(kind="PrefixTuning", num_virtual_tokens=3, init_weights="zero"), 0.3),
    "prefix_tuning_gpt2": ("gpt2", dict(kind="PrefixTuning", num_virtual_tokens=3), 0.1),
    "adaption_prompt_llama": ("llama2", dict(kind="AdaptionPrompt", adapter_len=4, adapter_layers=1), 0.5),
    "adaption_prompt_mistral": ("mistral", dict(kind="AdaptionPrompt", adapter_len=3, adapter_layers=2), 0.5),
    "adaption_prompt_gpt2": ("gpt2", dict(kind="AdaptionPrompt", adapter_len=3, adapter_layers=2), 0.5),
    "multitask_prompt_llama": ("llama2", dict(kind="MultitaskPromptTuning", num_virtual_tokens=4, num_tasks=3, num_ranks=2), 0.5),
    "poly_qv": ("llama2", dict(kind="Poly", r=3, n_tasks=3, n_skills=4, target_modules=["q_proj", "down_proj"]), 0.5),
    "poly_splits": ("qwen2", dict(kind="Poly", r=2, n_tasks=4, n_skills=3, n_splits=4, target_modules=["v_proj", "up_proj"]), 0.5),
    "adalora_gpt2": ("gpt2", dict(kind="AdaLora", init_r=4, target_r=2, lora_alpha=12, total_step=10, target_modules=["c_attn"],
                                  fan_in_fan_out=True), 0.3),
    "adalora_conv": ("conv2d", dict(kind="AdaLora", init_r=4, target_r=2, total_step=10, target_modules=["conv2d", "lin0"]), 0.4),
}


def tucker_product(t1, w1a, w1b, t2, w2a, w2b, scale):
    """What PEFT 0.21's HadaWeightCP computes, for torch to differentiate: its own backward takes w2's Tucker factors for w1's."""
    first = torch.einsum("i j k l, j r, i p -> p r k l", t1, w1b, w1a)
    return first * torch.einsum("i j k l, j r, i p -> p r k l", t2, w2b, w2a) * scale


class CircularConvolution:
    """PEFT 0.21's BlockCircularConvolution for torch to differentiate: its own backward gives x the transposed kernel's gradient."""

    @staticmethod
    def apply(x, w):
        _, n, b = w.shape
        x = torch.einsum("...nb,mnb->...mb", torch.fft.ifft(x.reshape(*x.shape[:-1], n, b)), torch.fft.fft(w))
        return torch.fft.fft(x).real.flatten(start_dim=-2)


peft.tuners.loha.layer.make_weight_cp = tucker_product
peft.tuners.c3a.layer.BlockCircularConvolution = CircularConvolution
# Butterflies of more than one factor want a CUDA kernel; without it PEFT takes one factor, whatever the config says.
peft.tuners.boft.layer.get_fbd_cuda = lambda: True
peft.tuners.boft.layer.FastBlockDiag = types.SimpleNamespace(apply=lambda x: torch.stack([torch.block_diag(*part) for part in x]))
GRADIENTS_KEPT = 6  # per adapter, spread over its keys


def language_model(base, generator, kind):
    virtual = kind in PROMPTS
    model = load_f32(base)
    ids, labels, _ = batch(model.config.vocab_size, generator, False)
    if virtual:
        labels[:, 0] = -100  # which PEFT has the last virtual token predict

    def run(adapted):
        own = dict(task_ids=torch.tensor([2, 1])) if kind in TASKS else {}
        out = adapted(input_ids=ids, labels=labels, use_cache=False, **own)
        # virtual tokens have logits too
        return dict(input_ids=ids, labels=labels, logits=out.logits[:, -ids.shape[1]:], loss=out.loss, **own), out.loss

    return model, "CAUSAL_LM", run


def convolution(weights):
    model = ModelConv2D()
    model.load_state_dict(load_file(weights))
    x = torch.arange(90).float().reshape(2, 5, 3, 3) / 90

    def run(adapted):
        output = adapted(x)
        return dict(x=x, output=output), (output * torch.tensor([[1.0, 2.0], [3.0, 4.0]])).sum()

    return model, None, run


def add_noise(model, deviation, generator):
    for p in model.parameters():
        if p.requires_grad:
            p.data = p.data + deviation * torch.randn(p.shape, generator=generator)


class BitFit(torch.nn.Module):
    """Every bias trained whole, and nothing else: PEFT has no such type, but keys for biases that it trains beside other things."""

    def __init__(self, model):
        super().__init__()
        self.model = model
        for name, p in model.named_parameters():
            p.requires_grad = name.endswith(".bias")

    def forward(self, *args, **kwargs):
        return self.model(*args, **kwargs)

    def named_parameters(self, *args, **kwargs):
        return (("base_model." + name, p) for name, p in super().named_parameters(*args, **kwargs))

    def save_pretrained(self, path):
        os.makedirs(path)
        biases = {name: p for name, p in self.named_parameters() if p.requires_grad}
        save_file({name: p.detach().contiguous() for name, p in biases.items()}, os.path.join(path, "adapter_model.safetensors"),
                  metadata={"format": "pt"})
        layers = {name.split(".")[-2] for name in biases}
        config = dict(auto_mapping=None, base_model_name_or_path=self.model.name_or_path, exclude_modules=None, inference_mode=True,
                      modules_to_save=None, peft_type="BITFIT", peft_version=peft.__version__, revision=None,
                      target_modules=sorted(layers), task_type="CAUSAL_LM")
        with open(os.path.join(path, "adapter_config.json"), "w") as f:
            json.dump(config, f)


def vblora_keys(model):
    """Trained parameters as Cambium names them: the file may hold mixtures instead of logits, and the bank hangs on every layer."""
    pairs = {}
    for name, p in model.named_parameters():
        if p.requires_grad:
            key = "base_model.vblora_vector_bank" if "vector_bank" in name else name.replace(".default", "")
            pairs[key] = p
    return pairs


def mask_triplets(adapted, marks):
    """AdaLoRA as training leaves it: some triplets of each layer are masked, which the config says under the names of the factors."""
    factors = [(name, p) for name, p in adapted.base_model.model.named_parameters() if ".lora_E." in name]
    pattern = {name: [mark == "1" for mark in marks[i % len(marks)]] for i, (name, _) in enumerate(factors)}
    for name, p in factors:
        p.data[~torch.tensor(pattern[name])] = 0
    adapted.peft_config["default"].rank_pattern = pattern


def make(name, base, options, noise, path, weights):
    seed = zlib.crc32(name.encode())
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed + 1)
    options = dict(options)
    kind, marks = options.pop("kind"), options.pop("marks", None)
    model, task, run = convolution(weights) if base == "conv2d" else language_model(base, generator, kind)
    if kind == "BitFit":
        adapted = BitFit(model)
    else:
        adapted = peft.get_peft_model(model, getattr(peft, kind + "Config")(task_type=task, **options))
    add_noise(adapted, noise, generator)
    if marks:
        mask_triplets(adapted, marks)
    with torch.no_grad():
        run(adapted)  # some kinds settle their parameters in a pass
    adapted.save_pretrained(path)
    for file in os.listdir(path):
        if not file.startswith("adapter_"):
            os.remove(os.path.join(path, file))
    sort_lists(os.path.join(path, "adapter_config.json"))
    with open(os.path.join(path, "adapter_config.json")) as f:
        written = json.load(f)
    if base == "conv2d":
        written |= dict(base_model_name_or_path=base, auto_mapping=None)
    with open(os.path.join(path, "adapter_config.json"), "w") as f:
        json.dump(written, f, indent=2, sort_keys=True)
    if kind in PROMPTS:  # the file has what an encoder made, and gradients are those of that
        adapted = peft.PeftModel.from_pretrained(load_f32(base), path)
        adapted.prompt_encoder.requires_grad_(True)
    if marks:  # the file has fewer rows than what was trained
        adapted = peft.PeftModel.from_pretrained(load_f32(base), path, is_trainable=True)
    if kind == "Poly":
        adapted.eval()  # in training its weights are drawn
    tensors, loss = run(adapted)
    loss.backward()
    saved = load_file(os.path.join(path, "adapter_model.safetensors"))
    if kind in PROMPTS:
        pairs = dict(adapted.prompt_encoder["default"].named_parameters())
        pairs["prompt_embeddings"] = pairs.pop("embedding.weight")
    else:
        pairs = vblora_keys(adapted) if kind == "VBLoRA" else file_keys(adapted, saved)
    keys = sorted(key for key in pairs if pairs[key].numel())
    for key in keys[:: max(1, len(keys) // GRADIENTS_KEPT)]:
        tensors["grad." + key] = pairs[key].grad
    save_file({k: v.detach().clone().contiguous() for k, v in tensors.items()}, os.path.join(path, "expected.safetensors"))
    return dict(adapter=name, base=base, keys=len(saved), unmapped=len(saved) - len(pairs), loss=round(loss.item(), 4))


def main():
    here = os.path.dirname(os.path.abspath(__file__))
    reference = os.path.abspath(os.path.join(here, "..", "reference"))
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="*", help="names to make, or beginnings of names (default: all)")
    args = parser.parse_args()
    torch.set_num_threads(1)
    os.chdir(os.path.join(reference, "models"))  # so that base_model_name_or_path is just the model's name
    for name, (base, options, noise) in KINDS.items():
        if args.only and not any(name.startswith(only) for only in args.only):
            continue
        path = os.path.join(reference, "adapters", name)
        shutil.rmtree(path, ignore_errors=True)
        done = make(name, base, options, noise, path, os.path.join(reference, "peft_regression/conv2d.safetensors"))
        for file in os.listdir(path):
            os.chmod(os.path.join(path, file), 0o644)
        print(json.dumps(done | dict(bytes=sum(os.path.getsize(os.path.join(path, f)) for f in os.listdir(path)))))


if __name__ == "__main__":
    main()
