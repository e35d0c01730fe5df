#!/usr/bin/env python3
"""Rows with labels as transformers' examples make them, what models of encoders.py say of them, and an adapter of PEFT's with a head.

Writes <out> (default ../reference/tasks): tokenizer.json; pairs.jsonl, values.jsonl, sets.jsonl, words.jsonl and words.conll, what is judged;
adapter, of PEFT for the bare words of encoders/bert, which has no head: LoRA, and the pooler and the classifier whole; and expected.json:
    pairs, words       input_ids, token_type_ids, attention_mask (and labels, as run_ner.py aligns them) with max_length LENGTH, padded to the longest
    logits, loss       by the name of a model: of bert_rows, llama_rows and the adapter on pairs, bert_regression on values, distilbert_rows on sets,
                       bert_tokens on words; float32, all rows in one batch
With --program and --work it trains adapters by Cambium instead, on the model in encoders/bert, and compares what PEFT makes of them with
what `cambium eval --predictions` says; exit code 1 when they differ by more than 1e-4.
"""
import argparse
import json
import os
import shutil
import subprocess
import sys

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import AutoModelForSequenceClassification, AutoModelForTokenClassification, PreTrainedTokenizerFast

HERE = os.path.dirname(os.path.abspath(__file__))
LENGTH = 12
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "knife", "cut", "##s", "##ter", "branch", "##es", "a", "tree", "grow", "slow",
         "##ly", "and", "stem", ",", "anna", "pari", "rome", "in", "saw", "##y", "not", "is", "sharp", "."]

PAIRS = [("the knife cuts", "a knife is sharp", "yes"), ("a tree grows slowly.", "trees grow, and the stem is slow and sharp", "no"),
         ("anna saw the branches in rome, and a cutter cuts the trees and the stem slowly and slowly", "anna is in paris", "no"),
         ("rome", "", "maybe"), ("slowly, slowly, slowly, slowly", "the tree and the branches and the stems and the knife", "yes")]
VALUES = [("the knife cuts", 0.5), ("a tree grows slowly", -1.25), ("anna saw rome.", 3)]
SETS = [("the knife cuts", ["a", "c"]), ("a tree grows slowly, and the branches", []), ("anna saw rome.", ["b", "c", "d"])]
SENTENCES = [(["Anna", "cuts", "branches", "in", "Paris", "."], ["B-PER", "O", "O", "O", "B-LOC", "O"]),
             (["Rome", "grows"], ["B-LOC", "O"]),
             (["Anna", "slowly", "saw", "slowly-growing", "trees", "slowly", "in", "Rome"], ["B-PER", "O", "O", "O", "O", "O", "O", "B-LOC"])]
LABELS = {"pairs": ["maybe", "no", "unused", "yes"], "sets": ["a", "b", "c", "d"], "words": ["B-LOC", "B-PER", "I-PER", "O"]}


def make_tokenizer(path):
    t = Tokenizer(models.WordPiece({w: i for i, w in enumerate(WORDS)}, unk_token="[UNK]"))
    t.normalizer = normalizers.BertNormalizer(lowercase=True)
    t.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    t.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1",
                                                     special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    t.decoder = decoders.WordPiece()
    t.add_special_tokens(WORDS[:5])
    t.save(path)
    return PreTrainedTokenizerFast(tokenizer_file=path, pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]", unk_token="[UNK]")


def write_records(out):
    def lines(name, records):
        with open(os.path.join(out, name), "w") as f:
            for record in records:
                f.write(json.dumps(record) + "\n")
    lines("pairs.jsonl", [dict(sentence1=a, sentence2=b, label=c) for a, b, c in PAIRS])
    lines("values.jsonl", [dict(text=a, label=b) for a, b in VALUES])
    lines("sets.jsonl", [dict(text=a, labels=b) for a, b in SETS])
    lines("words.jsonl", [dict(tokens=a, ner_tags=b) for a, b in SENTENCES])
    with open(os.path.join(out, "words.conll"), "w") as f:
        f.write("-DOCSTART- -X- O O\n\n")
        for words, tags in SENTENCES:
            f.write("".join(f"{w} NN X {t}\n" for w, t in zip(words, tags)) + "\n")


def encode(tokenizer, first, second=None):
    return tokenizer(first, second, padding="longest", truncation="longest_first", max_length=LENGTH, return_tensors="pt",
                     return_token_type_ids=True)


def encode_words(tokenizer):
    """run_ner.py's tokenize_and_align_labels, without label_all_tokens."""
    e = tokenizer([words for words, _ in SENTENCES], is_split_into_words=True, padding="longest", truncation=True, max_length=LENGTH,
                  return_tensors="pt", return_token_type_ids=True)
    labels = []
    for i, (_, tags) in enumerate(SENTENCES):
        before, row = None, []
        for word in e.word_ids(i):
            row.append(-100 if word is None or word == before else LABELS["words"].index(tags[word]))
            before = word
        labels.append(row)
    return e, torch.tensor(labels)


def said(model, e, labels):
    inputs = dict(input_ids=e["input_ids"], attention_mask=e["attention_mask"])
    if getattr(model.config, "type_vocab_size", 0) > 1:
        inputs["token_type_ids"] = e["token_type_ids"]
    with torch.no_grad():
        out = model(**inputs, labels=labels)
    return dict(logits=out.logits.tolist(), loss=out.loss.item())


def make_adapter(base, out, generator):
    model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=4)
    model = get_peft_model(model, LoraConfig(r=2, lora_alpha=3, task_type="SEQ_CLS", modules_to_save=["pooler"]))
    for _, p in sorted(model.named_parameters()):
        if p.requires_grad:
            p.data += 0.3 * torch.randn(p.shape, generator=generator)
    model.save_pretrained(out)
    os.remove(os.path.join(out, "README.md"))
    path = os.path.join(out, "adapter_config.json")
    with open(path) as f:
        values = json.load(f)
    values["base_model_name_or_path"] = "bert"
    with open(path, "w") as f:
        json.dump(values, f, indent=2, sort_keys=True)
        f.write("\n")
    os.chmod(os.path.join(out, "adapter_model.safetensors"), 0o644)
    return PeftModel.from_pretrained(AutoModelForSequenceClassification.from_pretrained(base, num_labels=4), out).eval()


def reference(encoders, out):
    tokenizer = make_tokenizer(os.path.join(out, "tokenizer.json"))
    write_records(out)
    pairs = encode(tokenizer, [p[0] for p in PAIRS], [p[1] for p in PAIRS])
    words, tags = encode_words(tokenizer)
    of_pairs = torch.tensor([LABELS["pairs"].index(p[2]) for p in PAIRS])
    of_sets = torch.tensor([[float(name in s) for name in LABELS["sets"]] for _, s in SETS])

    def load(kind, name):
        return kind.from_pretrained(os.path.join(encoders, name)).eval()
    row = AutoModelForSequenceClassification
    results = {name: said(load(row, name), pairs, of_pairs) for name in ("bert_rows", "llama_rows")}
    results["bert_regression"] = said(load(row, "bert_regression"), encode(tokenizer, [v[0] for v in VALUES]),
                                      torch.tensor([[float(v[1])] for v in VALUES]))
    results["distilbert_rows"] = said(load(row, "distilbert_rows"), encode(tokenizer, [s[0] for s in SETS]), of_sets)
    results["bert_tokens"] = said(load(AutoModelForTokenClassification, "bert_tokens"), words, tags)
    adapted = make_adapter(os.path.join(encoders, "bert"), os.path.join(out, "adapter"), torch.Generator().manual_seed(7))
    results["adapter"] = said(adapted, pairs, of_pairs)
    plain = {name: {k: e[k].tolist() for k in ("input_ids", "token_type_ids", "attention_mask")} for name, e in (("pairs", pairs), ("words", words))}
    plain["words"]["labels"] = tags.tolist()
    with open(os.path.join(out, "expected.json"), "w") as f:
        json.dump(dict(labels=LABELS, max_length=LENGTH, **plain, results=results), f, indent=0)
        f.write("\n")


def ours(program, work, encoders, out):
    """Trains on each of the files, and lets PEFT say what the adapters make of them."""
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=os.path.join(out, "tokenizer.json"), pad_token="[PAD]")
    base, worst = os.path.join(encoders, "bert"), 0
    for task, file, texts in (("sequence-classification", "pairs", PAIRS), ("multi-label", "sets", SETS), ("regression", "values", VALUES),
                              ("token-classification", "words", None)):
        data, adapter, predictions = os.path.join(out, file + ".jsonl"), os.path.join(work, file), os.path.join(work, file + ".said")
        common = ["--tokenizer", os.path.join(out, "tokenizer.json"), "--sequence-length", str(LENGTH), "--dtype", "f32", "--data", data]
        subprocess.run([program, "train", base, "--task", task, *common, "--output", adapter, "--steps", "20", "--learning-rate", "0.02",
                        "--overwrite", "--quiet"], check=True, stdout=subprocess.DEVNULL)
        subprocess.run([program, "eval", base, "--adapter", adapter, *common, "--predictions", predictions], check=True, stdout=subprocess.DEVNULL)
        with open(os.path.join(adapter, "labels.json")) as f:
            labels = json.load(f)["id2label"]
        kind = AutoModelForTokenClassification if texts is None else AutoModelForSequenceClassification
        model = PeftModel.from_pretrained(kind.from_pretrained(base, num_labels=len(labels)), adapter).eval()
        e = encode_words(tokenizer)[0] if texts is None else encode(tokenizer, [t[0] for t in texts], [t[1] for t in texts] if file == "pairs" else None)
        with torch.no_grad():
            logits = model(input_ids=e["input_ids"], attention_mask=e["attention_mask"], token_type_ids=e["token_type_ids"]).logits
        with open(predictions) as f:
            rows = [json.loads(line) for line in f]
        for i, line in enumerate(rows):
            if task == "regression":
                difference = abs(line["value"] - logits[i].item())
            elif texts is None:
                ids = e.word_ids(i)
                first = [ids.index(w) for w in sorted({w for w in ids if w is not None})]
                theirs = [labels[str(logits[i, t].argmax().item())] for t in first]
                difference = float(theirs != line["tags"][:len(theirs)] or any(line["tags"][len(theirs):]))
            else:
                p = logits[i].sigmoid() if task == "multi-label" else logits[i].softmax(0)
                difference = max(abs(line["scores"][labels[str(k)]] - p[k].item()) for k in range(len(labels)))
            worst = max(worst, difference)
        print(json.dumps(dict(task=task, rows=len(rows), worst=worst)))
    sys.exit(0 if worst < 1e-4 else 1)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", default=os.path.join(HERE, "..", "reference", "tasks"))
    parser.add_argument("--encoders", default=os.path.join(HERE, "..", "reference", "encoders"))
    parser.add_argument("--program")
    parser.add_argument("--work")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.program:
        ours(args.program, args.work, args.encoders, args.out)
    shutil.rmtree(args.out, ignore_errors=True)
    os.makedirs(args.out)
    reference(args.encoders, args.out)


if __name__ == "__main__":
    main()
