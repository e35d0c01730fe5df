#!/usr/bin/env python3
"""Tiny random CRNNs, and what the same networks in PyTorch compute, in f64.

Rows have widths of their own.  In inference PyTorch sees each row alone, cut to its width, so that what Cambium makes of a padded batch is held
against rows without any padding; in training, where a batch norm sees the whole batch, columns behind the end of a row are zeros there too.

Writes <out>/<name>/{config.json, model.safetensors, expected.safetensors}.  expected.safetensors holds
    pixel_values              f32 (3, channels, H, W), noise behind the end of each row
    lengths                   i64 (3), how wide each row is
    labels                    i64 (3, S), -100 behind each row's
    hidden, logits, loss      f32; what is behind the end of a row is 0, and the head's bias
    grad.<tensor>             f32, gradient of `loss`, of every parameter
    train.<...>               the same in training; train.buffer.<tensor>: running statistics behind that step
    adapted, adapted.grad.<tensor>   f32, logits and gradients with a LoRA on the matrices of the recurrent layers, in <name>/adapter
and <out>/vocabulary: what transformers' Wav2Vec2CTCTokenizer makes of texts and of frames.
"""
import argparse
import json
import os

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

ACTIVATIONS = {"relu": F.relu, "silu": F.silu}

# name: configuration, width of the batch, widths and texts of its rows
MODELS = {
    "lstm": (dict(image_height=16, conv_dim=[4, 6, 5], conv_kernel=[3, 3, 2], conv_padding=[1, 1, 0], conv_batch_norm=[0, 1, 0],
                  pool_height=[2, 4, 1], pool_width=[2, 1, 1], hidden_size=5, num_hidden_layers=2, vocab_size=6, pad_token_id=2),
             24, [17, 24, 9], [[1, 3, 3, 0], [5, 4, 1], []]),
    "gru": (dict(num_channels=3, image_height=8, conv_dim=[4, 5], conv_kernel=[3, 3], conv_stride=[2, 1], conv_padding=[1, 1],
                 conv_batch_norm=[1, 1], pool_height=[2, 2], pool_width=[1, 2], hidden_act="silu", rnn_type="gru", hidden_size=4,
                 num_hidden_layers=1, bidirectional=False, vocab_size=5, ctc_zero_infinity=True),
            20, [20, 5, 14], [[1, 2], [3, 3, 4, 1], [4]]),
}
ADAPTED = {"lstm": ["crnn.rnn.weight_ih_l0", "crnn.rnn.weight_hh_l0", "crnn.rnn.weight_hh_l0_reverse", "crnn.rnn.weight_ih_l1_reverse",
                    "crnn.rnn.weight_hh_l1"]}
RANK, ALPHA = 2, 6


class Unit(nn.Module):
    def __init__(self, config, i, inputs):
        super().__init__()
        norm = config["conv_batch_norm"][i]
        self.convolution = nn.Conv2d(inputs, config["conv_dim"][i], config["conv_kernel"][i], config.get("conv_stride", [1] * 9)[i],
                                     config["conv_padding"][i], bias=not norm)
        if norm:
            self.normalization = nn.BatchNorm2d(config["conv_dim"][i])


class Trunk(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.config = config
        dims = config["conv_dim"]
        self.conv_layers = nn.ModuleList(Unit(config, i, dims[i - 1] if i else config.get("num_channels", 1)) for i in range(len(dims)))
        self.rnn = (nn.GRU if config.get("rnn_type") == "gru" else nn.LSTM)(
            dims[-1], config["hidden_size"], config["num_hidden_layers"], batch_first=True, bidirectional=config.get("bidirectional", True))

    def widths(self, i, widths):
        c = self.config
        stride = c.get("conv_stride", [1] * 9)[i]
        return [((w + 2 * c["conv_padding"][i] - c["conv_kernel"][i]) // stride + 1) // c["pool_width"][i] for w in widths]

    def forward(self, x, widths):
        """x (B, C, H, W), columns behind `widths` zeros."""
        c = self.config
        for i, unit in enumerate(self.conv_layers):
            x = unit.convolution(x)
            x = ACTIVATIONS[c.get("hidden_act", "relu")](unit.normalization(x) if hasattr(unit, "normalization") else x)
            x = F.max_pool2d(x, (c["pool_height"][i], c["pool_width"][i]))
            widths = self.widths(i, widths)
            x = x * (torch.arange(x.shape[3]) < torch.tensor(widths)[:, None])[:, None, None]
        assert x.shape[2] == 1
        rows = pack_padded_sequence(x[:, :, 0].transpose(1, 2), widths, batch_first=True, enforce_sorted=False)
        return pad_packed_sequence(self.rnn(rows)[0], batch_first=True, total_length=x.shape[3])[0], widths


class CRNN(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.crnn = Trunk(config)
        self.lm_head = nn.Linear(config["hidden_size"] * (2 if config.get("bidirectional", True) else 1), config["vocab_size"])


def alone(model, parameters, pixels, widths):
    """Hidden states of every row by itself, and how many frames each has."""
    frames = lambda w: torch.func.functional_call(model.crnn, parameters, (pixels[:1, :, :, :w], [w]))[0].shape[1]
    most, hidden, counts = frames(pixels.shape[3]), [], []
    for row, width in zip(pixels, widths):
        y, (count,) = torch.func.functional_call(model.crnn, parameters, (row[None, :, :, :width], [width]))
        hidden.append(F.pad(y[0], (0, 0, 0, most - count)))
        counts.append(count)
    return torch.stack(hidden), counts


def loss_of(config, logits, counts, texts):
    targets = torch.tensor([t for text in texts for t in text])
    lengths = torch.tensor([len(text) for text in texts])
    return F.ctc_loss(logits.log_softmax(-1).transpose(0, 1), targets, torch.tensor(counts), lengths, blank=config.get("pad_token_id", 0),
                      reduction="sum", zero_infinity=config.get("ctc_zero_infinity", False)) / len(targets)


def randomise(model, generator):
    for name, p in list(model.named_parameters()) + list(model.named_buffers()):
        if p.dtype == torch.int64:
            p.data.fill_(7)
            continue
        noise = torch.randn(p.shape, generator=generator)
        if name.endswith("running_var"):
            p.data = 0.5 + noise.abs()
        elif "normalization.weight" in name:
            p.data = 1 + 0.2 * noise
        else:
            p.data = 0.4 * noise


def adapt(model, names, generator):
    """Factors of each, and the trunk's parameters with them."""
    factors = {}
    for name in names:
        out, inputs = model.get_parameter(name).shape
        factors[name] = (torch.randn((RANK, inputs), generator=generator).double().mul(0.25).requires_grad_(),
                         torch.randn((out, RANK), generator=generator).double().mul(0.25).requires_grad_())
    own = dict(model.crnn.named_parameters())
    changed = {k: p + ALPHA / RANK * factors["crnn." + k][1] @ factors["crnn." + k][0] if "crnn." + k in factors else p for k, p in own.items()}
    return factors, changed


def save_adapter(path, factors):
    os.makedirs(path, exist_ok=True)
    config = dict(peft_type="LORA", base_model_name_or_path=None, task_type=None, r=RANK, lora_alpha=ALPHA, lora_dropout=0.0, bias="none",
                  target_modules=sorted(factors), init_lora_weights=True)
    with open(os.path.join(path, "adapter_config.json"), "w") as f:
        json.dump(config, f, indent=2)
    tensors = {f"base_model.model.{name}.lora_{which}.weight": p.detach().float().contiguous()
               for name, (a, b) in factors.items() for which, p in (("A", a), ("B", b))}
    save_file(tensors, os.path.join(path, "adapter_model.safetensors"), metadata={"format": "pt"})


def make(name, config, width, widths, texts, out):
    torch.manual_seed(len(name))
    generator = torch.Generator().manual_seed(100 + len(name))
    model = CRNN(config)
    randomise(model, generator)
    pixels = torch.randn((len(widths), config.get("num_channels", 1), config["image_height"], width), generator=generator)
    longest = max(map(len, texts))
    tensors = dict(pixel_values=pixels, lengths=torch.tensor(widths),
                   labels=torch.tensor([text + [-100] * (longest - len(text)) for text in texts]))
    path = os.path.join(out, name)
    os.makedirs(path, exist_ok=True)
    full = dict(config, model_type="crnn", architectures=["CRNNForCTC"])
    with open(os.path.join(path, "config.json"), "w") as f:
        json.dump(full, f, indent=2)
    save_file({k: v.clone() for k, v in model.state_dict().items()}, os.path.join(path, "model.safetensors"), metadata={"format": "pt"})
    model, pixels = model.double().eval(), pixels.double()

    own = dict(model.crnn.named_parameters()) | dict(model.crnn.named_buffers())
    hidden, counts = alone(model, own, pixels, widths)
    logits = model.lm_head(hidden)
    loss = loss_of(config, logits, counts, texts)
    loss.backward()
    tensors |= dict(hidden=hidden, logits=logits, loss=loss) | {"grad." + k: p.grad for k, p in model.named_parameters()}

    if name in ADAPTED:
        model.zero_grad(set_to_none=True)
        factors, changed = adapt(model, ADAPTED[name], generator)
        logits = model.lm_head(alone(model, changed | dict(model.crnn.named_buffers()), pixels, widths)[0])
        loss_of(config, logits, counts, texts).backward()
        save_adapter(os.path.join(path, "adapter"), factors)
        tensors["adapted"] = logits
        for layer, (a, b) in factors.items():
            tensors |= {f"adapted.grad.{layer}.lora_A.weight": a.grad, f"adapted.grad.{layer}.lora_B.weight": b.grad}

    model.zero_grad(set_to_none=True)
    model.train()
    zeros = pixels * (torch.arange(width) < torch.tensor(widths)[:, None])[:, None, None]
    hidden, counts = model.crnn(zeros, widths)
    loss = loss_of(config, model.lm_head(hidden), counts, texts)
    loss.backward()
    tensors |= {"train.loss": loss} | {"train.grad." + k: p.grad for k, p in model.named_parameters()}
    tensors |= {"train.buffer." + k: b for k, b in model.named_buffers()}
    save_file({k: (v.float() if v.is_floating_point() else v).detach().contiguous().clone() for k, v in tensors.items()},
              os.path.join(path, "expected.safetensors"))
    print(f"{path}: loss {loss.item():.4f}, frames {counts}, {sum(os.path.getsize(os.path.join(path, n)) for n in os.listdir(path))} bytes")


# ---- the vocabulary ----

TOKENS = ["<pad>", "<s>", "</s>", "<unk>", "|", "A", "B", "\u00c9", "'"]
TEXTS = ["ab a", "\u00e9b'", "a z b", "BA", ""]
FRAMES = [[0, 5, 5, 0, 5, 6, 6, 4, 4, 0, 7], [4, 5, 4, 0, 0], [8, 0, 8, 6], [0, 0], [5, 4, 6, 6, 6]]  # with no special token but the blank: it is passed
# over, by transformers 5 before repetitions are, where special tokens are skipped


def vocabulary(out):
    """What transformers makes of texts, and of frames, with a vocabulary in capitals: vocabulary/expected.jsonl."""
    from transformers import Wav2Vec2CTCTokenizer
    path = os.path.join(out, "vocabulary")
    os.makedirs(path, exist_ok=True)
    with open(os.path.join(path, "vocab.json"), "w") as f:
        json.dump({t: i for i, t in enumerate(TOKENS)}, f)
    with open(os.path.join(path, "tokenizer_config.json"), "w") as f:
        json.dump(dict(tokenizer_class="Wav2Vec2CTCTokenizer", do_lower_case=True), f)
    tokenizer = Wav2Vec2CTCTokenizer(os.path.join(path, "vocab.json"), do_lower_case=True)
    with open(os.path.join(path, "expected.jsonl"), "w") as f:
        for text in TEXTS:
            f.write(json.dumps(dict(text=text, ids=tokenizer(text).input_ids)) + "\n")
        for frames in FRAMES:
            f.write(json.dumps(dict(frames=frames, text=tokenizer.decode(frames))) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", default=os.path.normpath(os.path.join(os.path.dirname(__file__), "..", "reference", "crnn")))
    args = parser.parse_args()
    torch.set_num_threads(1)
    for name, (config, width, widths, texts) in MODELS.items():
        make(name, config, width, widths, texts, args.out)
    vocabulary(args.out)


if __name__ == "__main__":
    main()
