"""Cambium as the scripts here use it: the program, and the library through ctypes; and PEFT adapters and logits to compare with."""
import ctypes
import os
import random
import subprocess

import numpy as np
import peft
import torch
import transformers


class Tensor(ctypes.Structure):
    _fields_ = [("dtype", ctypes.c_int), ("ndim", ctypes.c_int), ("shape", ctypes.c_int64 * 8)]


class Options(ctypes.Structure):
    _fields_ = [("dtype", ctypes.c_int), ("keep_weights", ctypes.c_bool)]


class Ours:
    def __init__(self, build):
        self.program = os.path.join(build, "cambium")
        self.c = c = ctypes.CDLL(os.path.join(build, "libcambium.so"))
        for name in ("cb_model_load_with", "cb_scope_open", "cb_from_nd", "cb_model_logits", "cb_adapter_load", "cb_model_root",
                     "cb_tokenizer_load"):
            getattr(c, name).restype = ctypes.c_void_p
        for name in ("cb_error_message", "cb_model_type"):
            getattr(c, name).restype = ctypes.c_char_p

    def run(self, *words):
        done = subprocess.run([self.program, *words], capture_output=True, text=True)
        return done.returncode == 0, (done.stdout + done.stderr).strip()

    def fail(self):
        message = self.c.cb_error_message().decode()
        self.c.cb_error_clear()
        raise RuntimeError(message)

    def logits(self, path, ids, adapter=None):
        """(rows, length, vocabulary) of ids of two dimensions, (length, vocabulary) of one."""
        c, scope = self.c, ctypes.c_void_p(self.c.cb_scope_open())
        model = ctypes.c_void_p(c.cb_model_load_with(path.encode(), Options()))
        if not model:
            self.fail()
        loaded = None
        if adapter:
            loaded = ctypes.c_void_p(c.cb_adapter_load(adapter.encode(), ctypes.c_void_p(c.cb_model_root(model)), c.cb_model_type(model)))
            if not loaded:
                self.fail()
        array = np.atleast_2d(np.asarray(ids, np.int32)).copy()
        tensor = ctypes.c_void_p(c.cb_from_nd(4, array.ctypes.data_as(ctypes.c_void_p), 2, (ctypes.c_int64 * 2)(*array.shape)))
        found = ctypes.c_void_p(c.cb_model_logits(model, tensor, None))
        if not found:
            self.fail()
        shape = ctypes.cast(found, ctypes.POINTER(Tensor)).contents
        out = np.empty(tuple(shape.shape[:3]), np.float32)
        c.cb_read(found, 0, out.ctypes.data_as(ctypes.c_void_p))
        if loaded:
            c.cb_adapter_free(loaded)
        c.cb_model_free(model)
        c.cb_scope_close(scope)
        return out if np.ndim(ids) == 2 else out[0]


def compare(ours, theirs):
    """The largest difference over the largest logit, and the share of positions with the same likeliest token."""
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max()), float((ours.argmax(-1) == theirs.argmax(-1)).mean())


def some_ids(seed, count=40):
    return np.random.default_rng(seed).integers(3, 300, count)


def transformers_logits(path, ids):
    model = transformers.AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, attn_implementation="eager").eval()
    with torch.no_grad():
        found = model(torch.tensor(np.atleast_2d(ids))).logits.numpy()
    return found if np.ndim(ids) == 2 else found[0]


def random_adapter(seed, architecture, path, output, names=None):
    """A LoRA adapter that PEFT writes: rsLoRA, ranks and alphas by pattern, any of the projections."""
    rng = random.Random(seed)
    model = transformers.AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    names = names or (["c_attn", "attn.c_proj", "c_fc", "mlp.c_proj"] if architecture == "gpt2" else
                      ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"])
    targets = rng.sample(names, rng.randint(1, len(names)))
    options = dict(r=rng.choice([1, 3, 4, 8]), lora_alpha=rng.choice([1, 8, 20]), use_rslora=rng.random() < 0.5, target_modules=targets)
    if rng.random() < 0.5:
        options["rank_pattern"] = {rng.choice(targets): rng.choice([2, 5])}
    if rng.random() < 0.5:
        options["alpha_pattern"] = {rng.choice(targets): rng.choice([3, 30])}
    torch.manual_seed(seed)
    model = peft.get_peft_model(model, peft.LoraConfig(fan_in_fan_out=architecture == "gpt2", **options))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_" in name:
                weight.copy_(torch.randn_like(weight) * 0.05)
    model.save_pretrained(output)
    return model.eval(), options
