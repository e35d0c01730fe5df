#!/usr/bin/env python3
"""Files of torch.save, and what is in them.

    torch_files.py --make [DIRECTORY]                             writes into DIRECTORY (default: ../reference/formats)
        torch_zip.bin, torch_legacy.bin    every element type, views, shared storages, nested dicts; in both forms
        torch.safetensors                  the same tensors, contiguous, under the names that Cambium gives them
        torch_code.bin                     a pickle that would run a function of os
    torch_files.py --compare BUILD/libcambium.so --seeds 0 500    random files, compared byte for byte with what Cambium reads
"""
import argparse
import collections
import ctypes
import os
import random
import sys
import tempfile

import torch
from safetensors.torch import save_file

TYPES = ("bool uint8 int8 int16 int32 int64 float16 bfloat16 float32 float64 complex64 uint16 uint32 uint64 float8_e5m2 float8_e4m3fn "
         "float8_e5m2fnuz float8_e4m3fnuz float8_e8m0fnu").split()
NAMES = {"bool": "BOOL", "uint8": "U8", "int8": "I8", "int16": "I16", "int32": "I32", "int64": "I64", "float16": "F16", "bfloat16": "BF16",
         "float32": "F32", "float64": "F64", "complex64": "C64", "uint16": "U16", "uint32": "U32", "uint64": "U64", "float8_e5m2": "F8_E5M2",
         "float8_e4m3fn": "F8_E4M3", "float8_e5m2fnuz": "F8_E5M2FNUZ", "float8_e4m3fnuz": "F8_E4M3FNUZ", "float8_e8m0fnu": "F8_E8M0"}


def random_tensor(generator, name, shape):
    dtype = getattr(torch, name)
    size = torch.empty((), dtype=dtype).element_size()
    raw = torch.randint(0, 256, (*shape, size), dtype=torch.uint8, generator=generator)
    return raw[..., 0] % 2 == 1 if name == "bool" else raw.view(dtype)[..., 0].clone()


def flatten(value, prefix=""):
    """The tensors under the keys that lead to them, joined by dots."""
    if isinstance(value, torch.Tensor):
        return {prefix: value}
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, (list, tuple)) else ()
    out = {}
    for key, item in items:
        if isinstance(key, (str, int)) and not isinstance(key, bool):
            out |= flatten(item, f"{prefix}.{key}" if prefix else str(key))
    return out


def contiguous(tensors):
    return {name: t.detach().contiguous().clone() for name, t in tensors.items()}


# ---- the fixed files ---------------------------------------------------------------------------------------------------

def every_case():
    generator = torch.Generator().manual_seed(3)
    tensors = collections.OrderedDict((f"type.{name}", random_tensor(generator, name, (3, 4))) for name in TYPES)
    base = torch.arange(24, dtype=torch.float32).reshape(4, 6)
    tensors["whole"], tensors["rows"], tensors["transposed"], tensors["every_second"] = base, base[1:3], base.T, base[:, ::2]
    tensors["repeated"] = torch.tensor([1.5, -2.5]).expand(3, 2)
    tensors["scalar"], tensors["empty"] = torch.tensor(7), torch.zeros(2, 0, 3)
    tensors["parameter"] = torch.nn.Parameter(torch.tensor([[0.25, 4.0]]))
    tensors["nested"] = {"list": [torch.tensor([1, 2]), 5, None, (torch.tensor(True),)], 7: torch.tensor([0.5]), "text": "é 漢", "number": 1e30}
    tensors["size"], tensors["dtype"], tensors["device"] = torch.Size([2, 3]), torch.float32, torch.device("cpu")
    torch.manual_seed(0)
    module = torch.nn.Linear(2, 3)
    tensors["state_dict"] = module.state_dict()
    return tensors


class Code:
    def __reduce__(self):
        return os.system, ("echo this must not run",)


def make(directory):
    tensors = every_case()
    torch.save(tensors, os.path.join(directory, "torch_zip.bin"))
    old = {key: value for key, value in tensors.items() if not key.startswith(("type.uint16", "type.uint32", "type.uint64", "type.float8"))}
    torch.save(collections.OrderedDict(old), os.path.join(directory, "torch_legacy.bin"), _use_new_zipfile_serialization=False)
    save_file(contiguous(flatten(tensors)), os.path.join(directory, "torch.safetensors"))
    torch.save({"weight": torch.zeros(2), "code": Code()}, os.path.join(directory, "torch_code.bin"))


# ---- random files against the library ----------------------------------------------------------------------------------

class Entry(ctypes.Structure):
    _fields_ = [("name", ctypes.c_char_p), ("dtype", ctypes.c_int), ("type_name", ctypes.c_char_p), ("ndim", ctypes.c_int),
                ("shape", ctypes.c_int64 * 8), ("data", ctypes.c_void_p), ("size", ctypes.c_size_t)]


def load_library(path):
    library = ctypes.CDLL(path)
    library.cb_weights_open_file.restype = ctypes.c_void_p
    library.cb_weights_at.restype = ctypes.POINTER(Entry)
    library.cb_weights_count.restype = ctypes.c_size_t
    library.cb_error_message.restype = ctypes.c_char_p
    for function, types in (("cb_weights_open_file", [ctypes.c_char_p]), ("cb_weights_at", [ctypes.c_void_p, ctypes.c_size_t]),
                            ("cb_weights_count", [ctypes.c_void_p]), ("cb_weights_close", [ctypes.c_void_p])):
        getattr(library, function).argtypes = types
    return library


def read(library, path):
    weights = library.cb_weights_open_file(path.encode())
    if not weights:
        raise ValueError(library.cb_error_message().decode())
    out = {}
    for i in range(library.cb_weights_count(weights)):
        e = library.cb_weights_at(weights, i)[0]
        out[e.name.decode()] = (e.type_name.decode(), tuple(e.shape[: e.ndim]), ctypes.string_at(e.data, e.size) if e.size else b"")
    library.cb_weights_close(weights)
    return out


def raw_bytes(t):
    flat = torch.empty(t.shape, dtype=t.dtype).copy_(t.detach()).reshape(-1)
    return flat.view(torch.uint8).numpy().tobytes() if t.numel() else b""


def random_view(rng, t):
    for _ in range(rng.randint(0, 3)):
        choice = rng.randrange(5)
        if choice == 0 and t.ndim > 1:
            t = t.transpose(rng.randrange(t.ndim), rng.randrange(t.ndim))
        elif choice == 1 and t.ndim:
            d = rng.randrange(t.ndim)
            begin = rng.randint(0, t.shape[d])
            t = t.narrow(d, begin, rng.randint(0, t.shape[d] - begin))
        elif choice == 2 and t.ndim:
            t = t[:: rng.randint(1, 3)]
        elif choice == 3 and t.ndim < 6:
            t = t.unsqueeze(rng.randint(0, t.ndim))
        elif choice == 4 and t.ndim and 0 not in t.shape:
            t = t.select(0, rng.randrange(t.shape[0]))
    return t


def random_object(rng, generator, types, depth):
    out = collections.OrderedDict() if rng.random() < 0.5 else {}
    shared = [random_tensor(generator, rng.choice(types), [rng.randint(0, 7) for _ in range(rng.randint(0, 4))]) for _ in range(3)]
    for i in range(rng.randint(0, 8)):
        key = rng.choice([f"k{i}.weight", f"é{i}", i, "x" * rng.choice([1, 200, 300]) + str(i)])
        kind = rng.randrange(8)
        if kind == 0 and depth < 3:
            out[key] = random_object(rng, generator, types, depth + 1)
        elif kind == 1:
            out[key] = [random_view(rng, rng.choice(shared)), (3, "text", random_view(rng, rng.choice(shared)))]
        elif kind == 2:
            out[key] = rng.choice([None, True, 1, -1, 2**40, -2**70, 0.5, "text", torch.float32, torch.Size([1]), torch.device("cpu")])
        elif kind == 3 and (t := rng.choice(shared)).is_floating_point() and "float8" not in str(t.dtype):
            out[key] = torch.nn.Parameter(random_view(rng, t))
        else:
            out[key] = random_view(rng, rng.choice(shared))
    return out


def compare(path, first, last):
    library, failures = load_library(path), 0
    with tempfile.TemporaryDirectory() as directory:
        file = os.path.join(directory, "x.bin")
        for seed in range(first, last):
            rng, generator = random.Random(seed), torch.Generator().manual_seed(seed)
            legacy = rng.random() < 0.4
            protocol = rng.choice([2, 2, 3, 4, 5])
            types = [t for t in TYPES if not legacy or not t.startswith(("uint1", "uint3", "uint6", "float8"))]
            value = random_object(rng, generator, types, 0)
            torch.save(value, file, pickle_protocol=protocol, _use_new_zipfile_serialization=not legacy)
            expected = {name: (NAMES[str(t.dtype)[6:]], tuple(t.shape), raw_bytes(t)) for name, t in flatten(value).items()}
            try:
                found = read(library, file)
                problem = next((n for n in expected.keys() | found.keys() if expected.get(n) != found.get(n)), None)
            except ValueError as error:
                problem, library = str(error), library
                library.cb_error_clear()
            if problem is not None:
                failures += 1
                print(f"seed {seed}, {'legacy' if legacy else 'zip'}, protocol {protocol}: {problem}")
    print(f"{last - first} files, {failures} failures")
    return failures == 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--make", nargs="?", const=os.path.join(os.path.dirname(os.path.abspath(__file__)), "../reference/formats"))
    parser.add_argument("--compare", metavar="LIBRARY")
    parser.add_argument("--seeds", nargs=2, type=int, default=(0, 500))
    options = parser.parse_args()
    if options.make:
        make(options.make)
    if options.compare and not compare(options.compare, *options.seeds):
        sys.exit(1)
