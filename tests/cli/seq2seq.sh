#!/bin/sh
# Sources and targets from end to end: a tiny T5 made here learns to answer, whole and by an adapter, resumes with the same bits, is measured and asked,
# with a SentencePiece tokenizer of T5's; its encoder alone gives embeddings; and what does not fit is refused.
#
#     seq2seq.sh PROGRAM REFERENCE_DIRECTORY TEMPORARY_DIRECTORY
set -u
program=$1
reference=$2
work=$3/seq2seq.$$
. "$(dirname "$0")/checks.sh"
mkdir -p "$work" || exit 1
case $program in /*) ;; *) program=$(pwd)/$program ;; esac
reference=$(cd "$reference" && pwd)
cd "$work" || exit 1

# ---- a tiny T5 1.1, and questions whose answer is their second word ----
printf '%s' '{"model_type": "t5", "architectures": ["T5ForConditionalGeneration"], "vocab_size": 300, "d_model": 32, "d_kv": 8, "d_ff": 48,
"num_layers": 1, "num_heads": 4, "feed_forward_proj": "gated-gelu", "relative_attention_num_buckets": 8, "relative_attention_max_distance": 16,
"tie_word_embeddings": false, "eos_token_id": 1, "pad_token_id": 0, "decoder_start_token_id": 0}' >config.json
awk 'BEGIN {
    split("to in of we an", words, " ")
    for (i = 0; i < 100; i++)
        printf "{\"input\": \"%s %s %s\", \"target\": \"%s\"}\n", words[i % 5 + 1], words[int(i / 5) % 5 + 1], words[int(i / 25) % 4 + 1], words[int(i / 5) % 5 + 1] >"pairs.jsonl"
    printf "question\tanswer\n" >"other.tsv"
    for (i = 0; i < 20; i++)
        printf "%s %s\tyes\n", words[i % 5 + 1], words[i % 4 + 1] >"other.tsv"
}'
common="--sequence-length 24 --max-target-length 8 --batch-size 16 --dtype f32 --seed 1 --quiet"
# shellcheck disable=SC2086
expect whole "$program" pretrain --config config.json --tokenizer "$reference/tokenizers/files/t5" --data pairs.jsonl --validation-data pairs.jsonl \
    --output whole --steps 300 --eval-steps 150 --learning-rate 0.01 $common
expect eval_whole "$program" eval whole --data pairs.jsonl --sequence-length 24 --max-new-tokens 8 --dtype f32 --json --predictions said.jsonl
over eval_whole.out exact_match 0.9
over eval_whole.out chrf 80
grep -q '"task": *"seq2seq"' eval_whole.out || fail "eval_whole: $(cat eval_whole.out)"
[ "$(wc -l <said.jsonl)" = 100 ] || fail "said.jsonl: expected 100 lines"
grep -q '"source": *"pairs.jsonl:1", *"text": *"to", *"target": *"to"' said.jsonl || fail "said.jsonl: $(head -1 said.jsonl)"

# ---- an adapter, stopped and gone on with ----
adapter="--task seq2seq --data other.tsv --columns input=question,target=answer --source-prefix ask: --learning-rate 0.02 --save-steps 10"
# shellcheck disable=SC2086
expect adapter "$program" train whole $adapter --steps 40 --output adapter $common
grep -q '"task_type": *"SEQ_2_SEQ_LM"' adapter/adapter_config.json || fail "adapter_config.json has another task type"
# shellcheck disable=SC2086
expect half "$program" train whole $adapter --steps 40 --output again --overwrite $common
cmp -s adapter/adapter_model.safetensors again/adapter_model.safetensors || fail "the same run came out otherwise"
expect eval_adapter "$program" eval whole --adapter adapter --data other.tsv --columns input=question,target=answer --source-prefix ask: --dtype f32 \
    --max-new-tokens 8 --json
over eval_adapter.out exact_match 0.9
expect merged "$program" merge whole --adapter adapter --output merged --quiet
expect eval_merged "$program" eval merged --data other.tsv --columns input=question,target=answer --source-prefix ask: --dtype f32 --max-new-tokens 8 --json
over eval_merged.out exact_match 0.9

# ---- questions ----
expect one "$program" generate whole --prompt "we of to" --max-new-tokens 8 --dtype f32
[ "$(cat one.out)" = of ] || fail "one: $(cat one.out)"
printf '{"prompt": "we of to"}\n{"prompt": "ask:we of", "adapter": "other"}\n{"prompt": "an in", "max_new_tokens": 1}\n' >prompts.jsonl
expect many "$program" generate whole --adapter other=adapter --prompts prompts.jsonl --batch-size 2 --max-new-tokens 8 --dtype f32
grep -q '^\[1\] -$' many.out && sed -n 2p many.out | grep -q '^of$' && sed -n 4p many.out | grep -q '^yes$' || fail "many: $(cat many.out)"
expect sampled "$program" generate whole --prompt "we of to" --temperature 0.7 --top-p 0.9 --seed 3 --max-new-tokens 8
expect beams "$program" generate whole --prompt "we of to" --num-beams 3 --max-new-tokens 8 --dtype f32
[ "$(cat beams.out)" = of ] || fail "beams: $(cat beams.out)"
expect eval_beams "$program" eval whole --data pairs.jsonl --sequence-length 24 --max-new-tokens 8 --max-batches 2 --num-beams 2 --dtype f32 --json
over eval_beams.out exact_match 0.8
expect planned "$program" generate whole --prompt "we of to" --dry-run
expect planned_beams "$program" generate whole --prompt "we of to" --num-beams 3 --dry-run
expect plan "$program" train whole --task seq2seq --data pairs.jsonl --output planned --dry-run
expect inspected "$program" inspect whole
mkdir encoder && cp whole/model.safetensors whole/*token* encoder && sed 's/T5ForConditionalGeneration/T5EncoderModel/' whole/config.json >encoder/config.json
printf "to in\nof we an\n" >texts.txt
expect embedded "$program" embed encoder --data texts.txt
[ "$(wc -l <embedded.out)" = 2 ] || fail "embedded: $(cat embedded.out)"

# ---- texts that are judged ----
printf 'text,label\nwe of to,yes\nan in,no\nof of,yes\nin an,no\n' >kinds.csv
expect kinds "$program" train whole --task sequence-classification --data kinds.csv --output kinds --steps 40 --batch-size 4 --learning-rate 0.01 --seed 1
grep -q '"classification_head"' kinds/adapter_config.json || fail "the head is not saved: $(cat kinds/adapter_config.json)"
expect judged "$program" eval whole --adapter kinds --data kinds.csv --json
over judged.out accuracy 0.9
expect kinds_merged "$program" merge whole --adapter kinds --output kinds-merged --quiet
expect judged_merged "$program" eval kinds-merged --data kinds.csv --json
over judged_merged.out accuracy 0.9
expect started "$program" train whole --task sequence-classification --data kinds.csv --output started --steps 2 --batch-size 4 --init-lora-weights eva --rank 2

# ---- what is refused ----
decoder=$reference/../../models/sprig-5m
# shellcheck disable=SC2086
{
    bad 2 'packing: is for words, and has no meaning for labels, or for sources with targets' train whole --data pairs.jsonl --output never --packing
    bad 2 'source-prefix: is of sources and targets' train $decoder --data pairs.jsonl --output never --source-prefix x
    bad 1 'num_beams is 3, expected 1 with a temperature' generate whole --prompt a --num-beams 3 --temperature 1
    bad 2 'num-beams: is an option of --task seq2seq' eval whole --adapter kinds --data kinds.csv --num-beams 2
    bad 1 '--task seq2seq: found a llama, expected a model with an encoder and a decoder' train $decoder --task seq2seq --data pairs.jsonl --output never
    bad 1 '--task seq2seq: ' eval $decoder --task seq2seq --data pairs.jsonl
    bad 2 'max-new-tokens: is an option of --task seq2seq' eval $decoder --data pairs.jsonl --max-new-tokens 3
}
bad 1 'prompts.jsonl:1: completion: found none beside prompt' train whole --data prompts.jsonl --output never
bad 1 'other.tsv:1: found 2 columns' train whole --data other.tsv --output never
bad 1 'batching by depth is for recursive models' generate whole --prompts prompts.jsonl --adapter other=adapter --batching depth
bad 1 'T5EncoderModel generates nothing' generate encoder --prompt a
bad 1 'has the weight of layer shared, which a file of the model holds once' merge "$reference/seq2seq/umt5" --adapter "$reference/seq2seq/umt5/adapter" --output never

cd / && [ $failures = 0 ] && rm -rf "$work"
[ $failures = 0 ]
