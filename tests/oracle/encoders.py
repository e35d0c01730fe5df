#!/usr/bin/env python3
"""Tiny random encoders, and decoders that classify, and what transformers computes with them.

Writes <out>/<name>/{config.json, model.safetensors, expected.safetensors}.  expected.safetensors holds
    input_ids, attention_mask         i64 (3, 11); the second and third row are padded on the right
    token_type_ids                    i64 (3, 11), of models that have them
    labels                            i64: (3, 11) with -100 where there is no loss, or (3); f32 (3, 4) or (3, 1) where problem_type says so
    hidden                            f32 (3, 11, C); at masked positions it means nothing
    logits, loss                      f32, of a model with a head
    grad.<parameter>                  f32, gradient of `loss`, of every parameter
    adapted                           f32, logits with the LoRA of PEFT in <name>/adapter, of those in ADAPTERS
bert_bare has the names of the first BERTs: no "bert." and norms with gamma and beta.
"""
import argparse
import json
import os
import shutil

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import (AutoModel, AutoModelForMaskedLM, AutoModelForSequenceClassification, AutoModelForTokenClassification, BertConfig,
                          CamembertConfig, DebertaV2Config, DistilBertConfig, GPT2Config, LlamaConfig, MPNetConfig, Qwen2Config, RobertaConfig, T5Config, UMT5Config,
                          XLMRobertaConfig)

ROWS, LENGTH = 3, 11
WORDS, CLASSES = 30, 4

BERT = dict(vocab_size=WORDS, hidden_size=16, intermediate_size=20, num_hidden_layers=1, num_attention_heads=2, max_position_embeddings=20,
            type_vocab_size=2, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, layer_norm_eps=1e-5)
DISTIL = dict(vocab_size=WORDS, dim=16, hidden_dim=20, n_layers=1, n_heads=2, max_position_embeddings=20, dropout=0.0, attention_dropout=0.0,
              seq_classif_dropout=0.0)
LLAMA = dict(vocab_size=WORDS, hidden_size=16, intermediate_size=20, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=1,
             max_position_embeddings=20, bos_token_id=1, eos_token_id=2, pad_token_id=0)
# what v3 has, in small: 11 tokens are more than half of the buckets
DEBERTA = dict(vocab_size=WORDS, hidden_size=16, intermediate_size=20, num_hidden_layers=2, num_attention_heads=2, max_position_embeddings=20,
               type_vocab_size=0, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, layer_norm_eps=1e-5, relative_attention=True,
               pos_att_type="p2c|c2p", share_att_key=True, norm_rel_ebd="layer_norm", position_buckets=6, position_biased_input=False)
DEBERTA_OWN = dict(share_att_key=False, norm_rel_ebd="none", position_buckets=-1, num_hidden_layers=1)
MPNET = {key: value for key, value in BERT.items() if key != "type_vocab_size"} | dict(relative_attention_num_buckets=33)
T5 = dict(vocab_size=WORDS, d_model=16, d_kv=6, d_ff=20, num_layers=1, num_heads=2, relative_attention_num_buckets=8, relative_attention_max_distance=8,
          dropout_rate=0.0, classifier_dropout=0.0, decoder_start_token_id=0, pad_token_id=0, eos_token_id=1)
LABELS = dict(num_labels=CLASSES)

WORD, ROW, TOKEN, BARE = AutoModelForMaskedLM, AutoModelForSequenceClassification, AutoModelForTokenClassification, AutoModel

MODELS = {
    "bert": (WORD, BertConfig(**{**BERT, "num_hidden_layers": 2})),
    "bert_untied": (WORD, BertConfig(**BERT, tie_word_embeddings=False, hidden_act="relu")),
    "roberta": (WORD, RobertaConfig(**{**BERT, "type_vocab_size": 1})),
    "xlm_roberta": (WORD, XLMRobertaConfig(**{**BERT, "type_vocab_size": 1, "hidden_act": "gelu_new"}, pad_token_id=3)),
    "distilbert": (WORD, DistilBertConfig(**{**DISTIL, "n_layers": 2})),
    "bert_rows": (ROW, BertConfig(**BERT, **LABELS)),
    "bert_regression": (ROW, BertConfig(**BERT, num_labels=1, problem_type="regression")),
    "roberta_rows": (ROW, RobertaConfig(**{**BERT, "type_vocab_size": 1}, **LABELS)),
    "distilbert_rows": (ROW, DistilBertConfig(**DISTIL, **LABELS, problem_type="multi_label_classification")),
    "bert_tokens": (TOKEN, BertConfig(**BERT, **LABELS)),
    "xlm_roberta_tokens": (TOKEN, XLMRobertaConfig(**{**BERT, "type_vocab_size": 1}, **LABELS)),
    "distilbert_tokens": (TOKEN, DistilBertConfig(**DISTIL, **LABELS)),
    "bert_bare": (BARE, BertConfig(**BERT)),
    "llama_rows": (ROW, LlamaConfig(**LLAMA, **LABELS)),
    "gpt2_rows": (ROW, GPT2Config(vocab_size=WORDS, n_positions=20, n_embd=16, n_layer=1, n_head=2, resid_pdrop=0.0, embd_pdrop=0.0,
                                  attn_pdrop=0.0, pad_token_id=0, bos_token_id=1, eos_token_id=2, **LABELS)),
    "qwen2_tokens": (TOKEN, Qwen2Config(**LLAMA, **LABELS, classifier_dropout=0.0)),
    "deberta_v3": (WORD, DebertaV2Config(**DEBERTA, legacy=False)),
    "deberta_v2": (WORD, DebertaV2Config(**{**DEBERTA, **DEBERTA_OWN}, max_relative_positions=5)),
    "deberta_v3_rows": (ROW, DebertaV2Config(**DEBERTA, **LABELS, pooler_hidden_act="tanh")),
    "deberta_v2_conv": (ROW, DebertaV2Config(**DEBERTA, **LABELS, conv_kernel_size=3, conv_act="gelu", problem_type="multi_label_classification")),
    "deberta_v2_tokens": (TOKEN, DebertaV2Config(**{**DEBERTA, **DEBERTA_OWN, "pos_att_type": ["p2c"], "type_vocab_size": 2,
                                                    "position_biased_input": True}, **LABELS)),
    "deberta_plain": (BARE, DebertaV2Config(**{**DEBERTA, **DEBERTA_OWN, "relative_attention": False, "position_biased_input": True})),
    "mpnet": (WORD, MPNetConfig(**{**MPNET, "num_hidden_layers": 2})),
    "mpnet_rows": (ROW, MPNetConfig(**MPNET, **LABELS)),
    "mpnet_bare": (BARE, MPNetConfig(**MPNET)),
    "camembert": (WORD, CamembertConfig(**{**BERT, "type_vocab_size": 1}, pad_token_id=1)),
    "t5_rows": (ROW, T5Config(**T5, **LABELS)),
    "umt5_rows": (ROW, UMT5Config(**T5, **LABELS, problem_type="multi_label_classification")),
}

# name: options of the LoRA; task types SEQ_CLS and TOKEN_CLS train and save the head whole
ADAPTERS = {
    "bert": dict(target_modules="all-linear"),
    "bert_rows": dict(task_type="SEQ_CLS"),
    "roberta_rows": dict(task_type="SEQ_CLS", target_modules="all-linear"),
    "distilbert_rows": dict(task_type="SEQ_CLS", target_modules=["q_lin", "lin1"]),
    "xlm_roberta_tokens": dict(task_type="TOKEN_CLS", target_modules=["query", "output.dense"]),
    "llama_rows": dict(task_type="SEQ_CLS", target_modules="all-linear"),
    "deberta_v3": dict(target_modules="all-linear"),
    "deberta_v3_rows": dict(task_type="SEQ_CLS", target_modules=["query_proj", "key_proj", "value_proj"]),
    "mpnet_rows": dict(task_type="SEQ_CLS", target_modules=["q", "o", "dense"]),
    "t5_rows": dict(task_type="SEQ_CLS"),
    "deberta_v2_tokens": dict(task_type="TOKEN_CLS", target_modules=["pos_query_proj", "query_proj", "value_proj"]),
}


def randomise(model, generator):
    """Norm weights 1 + noise, biases noise, everything else std 0.3."""
    for name, p in model.named_parameters():
        noise = torch.randn(p.shape, generator=generator)
        is_norm = p.dim() == 1 and name.endswith("weight")
        p.data = 1 + 0.2 * noise if is_norm else 0.3 * noise


def inputs_of(model, generator):
    padding = model.config.pad_token_id
    ids = torch.randint(4, WORDS, (ROWS, LENGTH), generator=generator)
    mask = torch.ones_like(ids)
    mask[1, -4:] = 0
    mask[2, -1:] = 0
    if model.config.is_encoder_decoder:
        ids[torch.arange(ROWS), mask.sum(1) - 1] = model.config.eos_token_id
    ids[mask == 0] = padding
    inputs = dict(input_ids=ids, attention_mask=mask)
    if getattr(model.config, "type_vocab_size", 0) > 1:
        inputs["token_type_ids"] = (torch.arange(LENGTH).expand(ROWS, -1) > 5).long()
    return inputs


def labels_of(kind, config, inputs, generator):
    if kind is WORD:
        labels = inputs["input_ids"].clone()
        labels[torch.rand(labels.shape, generator=generator) < 0.5] = -100
    elif kind is TOKEN:
        labels = torch.randint(CLASSES, (ROWS, LENGTH), generator=generator)
        labels[0, 3] = -100
    elif config.problem_type == "regression":
        return torch.randn((ROWS, 1), generator=generator)
    elif config.problem_type == "multi_label_classification":
        return (torch.rand((ROWS, CLASSES), generator=generator) < 0.5).float()
    else:
        return torch.randint(CLASSES, (ROWS,), generator=generator)
    return labels.masked_fill(inputs["attention_mask"] == 0, -100)


def hidden_of(model, inputs):
    base = getattr(model, model.base_model_prefix, model)
    if model.config.is_encoder_decoder:
        inputs = dict(inputs, decoder_input_ids=model._shift_right(inputs["input_ids"]))
    return base(**inputs).last_hidden_state.detach()


def expected(kind, model, generator):
    inputs = inputs_of(model, generator)
    tensors = dict(inputs, hidden=hidden_of(model, inputs))
    if kind is BARE:
        return tensors
    labels = labels_of(kind, model.config, inputs, generator)
    out = model(**inputs, labels=labels)
    out.loss.backward()
    tensors.update(labels=labels, logits=out.logits.detach(), loss=out.loss.detach())
    for name, p in model.named_parameters():
        if p.grad is not None:
            tensors["grad." + name] = p.grad
    return tensors


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
    model = PeftModel.from_pretrained(kind.from_pretrained(path), target)
    with torch.no_grad():
        return model(**inputs).logits


def rename_as_at_first(path):
    file = os.path.join(path, "model.safetensors")
    tensors = load_file(file)
    tensors = {k.removeprefix("bert.").replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): v
               for k, v in tensors.items()}
    save_file(tensors, file, {"format": "pt"})


def main():
    here = os.path.dirname(os.path.abspath(__file__))
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", default=os.path.join(here, "..", "reference", "encoders"))
    parser.add_argument("--only", nargs="*", help="names to make (default: all)")
    args = parser.parse_args()
    torch.set_num_threads(1)
    for index, (name, (kind, config)) in enumerate(MODELS.items()):
        if args.only and name not in args.only:
            continue
        path = os.path.join(args.out, name)
        shutil.rmtree(path, ignore_errors=True)
        generator = torch.Generator().manual_seed(2000 + index)
        model = kind.from_config(config, attn_implementation="eager")
        randomise(model, generator)
        model.save_pretrained(path)
        if name == "bert_bare":
            rename_as_at_first(path)
        model = kind.from_pretrained(path, attn_implementation="eager").train()
        tensors = expected(kind, model, generator)
        if name in ADAPTERS:
            inputs = {k: tensors[k] for k in ("input_ids", "attention_mask", "token_type_ids") if k in tensors}
            tensors["adapted"] = adapted(kind, path, ADAPTERS[name], inputs, generator)
        save_file({k: v.clone().contiguous() for k, v in tensors.items()}, os.path.join(path, "expected.safetensors"))
        extra = os.path.join(path, "generation_config.json")
        if os.path.exists(extra):
            os.remove(extra)
        files = [os.path.join(folder, file) for folder, _, names in os.walk(path) for file in names]
        for file in files:
            os.chmod(file, 0o644)
        size = sum(os.path.getsize(file) for file in files)
        print(json.dumps(dict(model=name, bytes=size, loss=round(tensors["loss"].item(), 4) if "loss" in tensors else None)))


if __name__ == "__main__":
    main()
