#!/usr/bin/env python3
"""A tiny random sentence encoder, and what plain transformers and PyTorch code makes of it.

    sentence_encoders.py tests/reference/sentence_encoders

Writes model/ (a BertModel with its tokenizer) and expected.safetensors:
    <mode>                f32 (5, 16)   the texts of TEXTS pooled, for each mode of sentence-transformers' Pooling
    cls_mean              f32 (5, 32)   two modes, one after the other
    normalized            f32 (5, 16)   mean, length 1
    prompted              f32 (5, 16)   mean with PROMPT before every text
    prompt_left_out       f32 (5, 16)   the same, the prompt's tokens not pooled (include_prompt false)
    cut                   f32 (5, 16)   mean of the first 6 tokens
    dense                 f32 (5, 7)    tanh(W mean + b)
    dense.weight, .bias   f32           of it
    ranking.loss          f32           MultipleNegativesRankingLoss of GROUPS, scale 20, means of tokens
    ranking.grad          f32 (16, 16)  its gradient by encoder.layer.0.attention.self.query.weight
Pooling is written out here, so that it is compared with its definition; --check compares it with the package sentence-transformers as well,
where that is installed.
"""
import argparse
import json
import os
import shutil

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

WORDS = "the a of wing lift flow heat plate thin body speed air layer shock wave what is how does pressure rise at ? , query : un ##der ##s".split()
TEXTS = ["the lift of a thin wing", "shock wave", "what is the pressure rise at the plate ? how does the heat flow under a body",
         "air", "layers , speeds , waves"]
PROMPT = "query : "
GROUPS = [(0, 2, 4), (1, 3, 0)]  # anchor, positive, hard negative: numbers of TEXTS
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
MODES = ["cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken"]


def make_tokenizer():
    vocabulary = {word: i for i, word in enumerate(SPECIAL + WORDS)}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", vocabulary["[CLS]"]), ("[SEP]", vocabulary["[SEP]"])])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]",
                                   mask_token="[MASK]", model_max_length=32)


def make_model(generator):
    model = BertModel(BertConfig(vocab_size=len(SPECIAL) + len(WORDS), hidden_size=16, intermediate_size=20, num_hidden_layers=2,
                                 num_attention_heads=2, max_position_embeddings=40, hidden_dropout_prob=0.0,
                                 attention_probs_dropout_prob=0.0)).eval()
    for name, p in model.named_parameters():
        noise = torch.randn(p.shape, generator=generator)
        p.data = 1 + 0.2 * noise if p.dim() == 1 and name.endswith("weight") else 0.3 * noise
    return model


def pool(mode, hidden, skipped=0):
    """hidden (T, C) of one text without padding."""
    kept = hidden[skipped:]
    if mode == "cls":
        return kept[0]
    if mode == "max":
        return kept.max(0).values
    if mode == "mean":
        return kept.mean(0)
    if mode == "mean_sqrt_len_tokens":
        return kept.sum(0) / len(kept) ** 0.5
    if mode == "weightedmean":
        weights = torch.arange(skipped + 1, len(hidden) + 1.0).unsqueeze(1)
        return (kept * weights).sum(0) / weights.sum()
    return kept[-1]


def hidden_states(model, tokenizer, prompt="", most=None):
    with torch.no_grad():
        return [model(**tokenizer(prompt + text, return_tensors="pt", truncation=most is not None, max_length=most)).last_hidden_state[0]
                for text in TEXTS]


def pooled(mode, states, skipped=0):
    return torch.stack([pool(mode, h, skipped) for h in states])


def embeddings(model, tokenizer, generator):
    states = hidden_states(model, tokenizer)
    out = {mode: pooled(mode, states) for mode in MODES}
    out["cls_mean"] = torch.cat([out["cls"], out["mean"]], 1)
    out["normalized"] = F.normalize(out["mean"], dim=1)
    prompted = hidden_states(model, tokenizer, PROMPT)
    skipped = len(tokenizer(PROMPT)["input_ids"]) - 1  # [CLS] and the prompt, without [SEP]
    out["prompted"] = pooled("mean", prompted)
    out["prompt_left_out"] = pooled("mean", prompted, skipped)
    out["cut"] = pooled("mean", hidden_states(model, tokenizer, most=6))
    out["dense.weight"] = torch.randn(7, 16, generator=generator)
    out["dense.bias"] = torch.randn(7, generator=generator)
    out["dense"] = torch.tanh(out["mean"] @ out["dense.weight"].T + out["dense.bias"])
    return out


def ranking(model, tokenizer):
    """As sentence-transformers has it: positives of all, then negatives, are each anchor's candidates."""
    vectors = [model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0].mean(0) for text in TEXTS]
    anchors, positives, negatives = (F.normalize(torch.stack([vectors[group[i]] for group in GROUPS]), dim=1) for i in range(3))
    scores = 20 * anchors @ torch.cat([positives, negatives]).T
    loss = F.cross_entropy(scores, torch.arange(len(GROUPS)))
    weight = model.encoder.layer[0].attention.self.query.weight
    return {"ranking.loss": loss.detach(), "ranking.grad": torch.autograd.grad(loss, weight)[0]}


def check(path, expected):
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.models import Pooling, Transformer
    for mode in MODES:
        st = SentenceTransformer(modules=[Transformer(path), Pooling(16, pooling_mode=mode)], device="cpu")
        difference = (torch.tensor(st.encode(TEXTS)) - expected[mode]).abs().max().item()
        print(f"{mode}: {difference:.1e} from sentence-transformers")
        assert difference < 1e-5


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("output")
    parser.add_argument("--check", action="store_true", help="compare with the package sentence-transformers")
    args = parser.parse_args()
    generator = torch.Generator().manual_seed(7)
    tokenizer, model, path = make_tokenizer(), make_model(generator), os.path.join(args.output, "model")
    shutil.rmtree(args.output, ignore_errors=True)
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    expected = {**embeddings(model, tokenizer, generator), **ranking(model, tokenizer)}
    save_file({name: t.contiguous() for name, t in expected.items()}, os.path.join(args.output, "expected.safetensors"))
    with open(os.path.join(args.output, "texts.json"), "w") as f:
        json.dump(dict(texts=TEXTS, prompt=PROMPT), f, indent=2)
        f.write("\n")
    if args.check:
        check(path, expected)


if __name__ == "__main__":
    main()
