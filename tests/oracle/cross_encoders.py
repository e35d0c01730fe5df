#!/usr/bin/env python3
"""A tiny random cross-encoder, and what plain transformers and PyTorch code makes of pairs.

    cross_encoders.py tests/reference/cross_encoder

Writes model/ (a BertForSequenceClassification with one label, and its tokenizer), groups.jsonl (a query, a positive, two negatives),
pairs.jsonl (a query, a document, a label) and expected.safetensors:
    groups.scores         f32 (3, 3)    logits of each group's documents, cut to LENGTH tokens
    groups.bce            f32           binary cross-entropy with positives times 2.5 (BCEWithLogitsLoss(pos_weight)), the mean
    groups.bce.grad       f32 (16, 16)  its gradient by bert.encoder.layer.0.attention.self.query.weight
    groups.listwise       f32           cross-entropy of softmax over each group, the mean
    groups.listwise.grad  f32 (16, 16)
    pairs.scores, .bce    f32           of pairs.jsonl, with their labels, positives times 1
    corpus.scores         f32 (3, D)    logits of each query of the groups with each document of them, in the order in which they first stand
--check DIR compares sentence-transformers' CrossEncoder(DIR).predict() with the sigmoid of what transformers says, where that is installed.
"""
import argparse
import json
import os
import shutil

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from transformers import BertConfig, BertForSequenceClassification

from sentence_encoders import SPECIAL, WORDS, make_tokenizer

LENGTH = 16
GROUPS = [("what is the lift of a wing ?", "the lift of a thin wing", "shock wave", "the heat flow under a body"),
          ("how does air flow ?", "the air flow at the plate does rise , layers of air speed under the body how does the pressure rise",
           "thin plate", "heat"),
          ("shock wave", "the pressure of a shock wave", "a wing", "the lift of a thin wing")]
PAIRS = [("what is the lift of a wing ?", "the lift of a thin wing", 1), ("what is the lift of a wing ?", "shock wave", 0),
         ("shock wave", "a wing", 0.25), ("shock wave", "the pressure of a shock wave", 1), ("heat", "thin plate", 0)]


def make_model(generator):
    model = BertForSequenceClassification(BertConfig(
        vocab_size=len(SPECIAL) + len(WORDS), hidden_size=16, intermediate_size=20, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=40, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, num_labels=1)).eval()
    for name, p in model.named_parameters():
        noise = torch.randn(p.shape, generator=generator)
        p.data = 1 + 0.2 * noise if p.dim() == 1 and name.endswith("weight") else 0.3 * noise
    return model


def score(model, tokenizer, pairs):
    e = tokenizer([a for a, _ in pairs], [b for _, b in pairs], padding=True, truncation="longest_first", max_length=LENGTH,
                  return_tensors="pt", return_token_type_ids=True)
    return model(**e).logits[:, 0]


def gradient(model, loss):
    model.zero_grad()
    loss.backward()
    return model.bert.encoder.layer[0].attention.self.query.weight.grad.clone()


def make(out):
    generator = torch.Generator().manual_seed(11)
    model, tokenizer = make_model(generator), make_tokenizer()
    directory = os.path.join(out, "model")
    shutil.rmtree(out, ignore_errors=True)
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    os.chmod(os.path.join(directory, "model.safetensors"), 0o644)
    with open(os.path.join(out, "groups.jsonl"), "w") as f:
        for query, positive, *negatives in GROUPS:
            f.write(json.dumps(dict(query=query, positive=positive, negatives=negatives)) + "\n")
    with open(os.path.join(out, "pairs.jsonl"), "w") as f:
        for query, document, label in PAIRS:
            f.write(json.dumps(dict(query=query, document=document, label=label)) + "\n")
    expected = {}
    flat = [(g[0], d) for g in GROUPS for d in g[1:]]
    targets = torch.tensor([[1.0, 0.0, 0.0]] * len(GROUPS))
    for name in ["bce", "listwise"]:
        scores = score(model, tokenizer, flat).view(len(GROUPS), -1)
        loss = (F.binary_cross_entropy_with_logits(scores, targets, pos_weight=torch.tensor(2.5)) if name == "bce" else
                F.cross_entropy(scores, torch.zeros(len(GROUPS), dtype=torch.long)))
        expected["groups.scores"] = scores.detach().clone()
        expected["groups." + name] = loss.detach().clone()
        expected[f"groups.{name}.grad"] = gradient(model, loss)
    with torch.no_grad():
        scores = score(model, tokenizer, [(a, b) for a, b, _ in PAIRS])
        expected["pairs.scores"] = scores
        expected["pairs.bce"] = F.binary_cross_entropy_with_logits(scores, torch.tensor([float(label) for _, _, label in PAIRS]))
        documents = list(dict.fromkeys(d for g in GROUPS for d in g[1:]))
        expected["corpus.scores"] = torch.stack([score(model, tokenizer, [(g[0], d) for d in documents]) for g in GROUPS])
    save_file({k: v.contiguous() for k, v in expected.items()}, os.path.join(out, "expected.safetensors"))
    os.chmod(os.path.join(out, "expected.safetensors"), 0o644)


def check(directory):
    from sentence_transformers import CrossEncoder
    from transformers import AutoModelForSequenceClassification, AutoTokenizer
    pairs = [(g[0], d) for g in GROUPS for d in g[1:]]
    encoder = CrossEncoder(directory, max_length=LENGTH)
    model, tokenizer = AutoModelForSequenceClassification.from_pretrained(directory).eval(), AutoTokenizer.from_pretrained(directory)
    with torch.no_grad():
        expected = torch.sigmoid(score(model, tokenizer, pairs))
    print("largest difference:", (torch.from_numpy(encoder.predict(pairs)) - expected).abs().max().item())


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", nargs="?", default=os.path.join(os.path.dirname(os.path.abspath(__file__)), "../reference/cross_encoder"))
    parser.add_argument("--check", metavar="DIR")
    args = parser.parse_args()
    check(args.check) if args.check else make(args.out)


if __name__ == "__main__":
    main()
