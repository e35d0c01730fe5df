#!/bin/sh
# Labels from end to end: a tiny encoder learns made-up rows of every task, by adapters and whole, resumes with the same bits, and says what
# is wrong with bad input.
#
#     tasks.sh PROGRAM REFERENCE_DIRECTORY TEMPORARY_DIRECTORY
set -u
program=$1
reference=$2
work=$3/tasks.$$
. "$(dirname "$0")/checks.sh"
mkdir -p "$work" || exit 1
case $program in /*) ;; *) program=$(pwd)/$program ;; esac
reference=$(cd "$reference" && pwd)
cd "$work" || exit 1

# ---- a tiny BERT of few words, and rows that a rule has labelled ----
printf '%s' '{"model_type": "bert", "architectures": ["BertForMaskedLM"], "vocab_size": 30, "hidden_size": 32, "intermediate_size": 48,
"num_hidden_layers": 1, "num_attention_heads": 2, "max_position_embeddings": 24, "type_vocab_size": 2, "hidden_act": "gelu", "initializer_range": 0.2}' >config.json
awk 'BEGIN {
    split("the knife branch tree grow slow and stem anna rome in saw not is sharp", words, " ")
    n = 1
    for (i = 0; i < 96; i++) {
        text = ""; tokens = ""; tags = ""; knife = rome = 0
        for (k = 0; k < 3 + i % 5; k++) {
            n = (n * 1103515245 + 12345) % 2147483648
            w = words[int(n / 65536) % 15 + 1]
            knife += w == "knife"; rome += w == "rome"
            tag = w == "anna" ? "B-PER" : w == "rome" ? "B-LOC" : "O"
            text = text (k ? " " : "") w
            tokens = tokens (k ? ", " : "") "\"" w "\""
            tags = tags (k ? ", " : "") "\"" tag "\""
            printf "%s %s\n", w, tag >"words.conll"
        }
        printf "\n" >"words.conll"
        sharp = i % 2
        if (sharp && !knife) { text = text " knife"; knife = 1 }
        if (!sharp && knife) gsub(/knife/, "tree", text)
        printf "%s%s,%s\n", i ? "" : "sentence,label\n", text, sharp ? "sharp" : "dull" >"texts.csv"
        printf "{\"sentence1\": \"%s\", \"sentence2\": \"%s\", \"label\": %d}\n", text, i % 3 ? "not slow" : "sharp stem", (i % 3 > 0) >"pairs.jsonl"
        printf "{\"text\": \"%s\", \"label\": %s}\n", text, sharp ? 1.5 : -0.5 >"values.jsonl"
        printf "{\"text\": \"%s\", \"labels\": [%s%s%s]}\n", text, sharp ? "\"s\"" : "", sharp && rome ? ", " : "", rome ? "\"r\"" : "" >"sets.jsonl"
        print text >"texts.txt"
    }
}'
expect base "$program" pretrain --config config.json --tokenizer "$reference/tasks/tokenizer.json" --data texts.txt --lines --output base --steps 4 --quiet

# ---- every task by an adapter ----
common="--target-modules all-linear --rank 4 --learning-rate 0.01 --steps 100 --batch-size 16 --dtype f32 --sequence-length 16 --seed 1 --quiet"
learns() { # TASK DATA METRIC LEAST
    # shellcheck disable=SC2086
    expect "train_$1" "$program" train base --task "$1" --data "$2" --validation-data "$2" --eval-steps 60 --output "$1" $common
    expect "eval_$1" "$program" eval base --adapter "$1" --data "$2" --sequence-length 16 --json --predictions "$1.said"
    [ -s "eval_$1.err" ] && fail "eval_$1: found on standard error: $(cat "eval_$1.err")"
    over "eval_$1.out" "$3" "$4"
    grep -q "\"task\": *\"$1\"" "eval_$1.out" || fail "eval_$1: $(cat "eval_$1.out")"
    [ "$(wc -l <"$1.said")" = 96 ] || fail "$1.said: expected 96 lines"
    grep -q "\"eval_$3\":" "$1/log.jsonl" || fail "$1/log.jsonl has no eval_$3"
}
learns sequence-classification texts.csv accuracy 0.8
learns multi-label sets.jsonl f1_micro 0.85
learns regression values.jsonl pearson 0.9
learns token-classification words.conll f1 0.9
grep -q '"0": *"dull"' sequence-classification/labels.json || fail "labels: $(cat sequence-classification/labels.json)"
grep -q '"task_type": *"SEQ_CLS"' sequence-classification/adapter_config.json || fail "no SEQ_CLS"
grep -q '"task_type": *"TOKEN_CLS"' token-classification/adapter_config.json || fail "no TOKEN_CLS"
head -1 sequence-classification.said | grep -q '"source": "texts.csv:2", "label": "dull", "scores": {"dull": ' || fail "$(head -1 sequence-classification.said)"
head -1 token-classification.said | grep -q '"source": "words.conll:1", "tags": \["' || fail "$(head -1 token-classification.said)"

# ---- merged: the base gets the head and the labels, also one whose file leaves out the name of the model ----
merges() { # BASE ADAPTER DATA
    expect "merge_$2" "$program" merge "$1" --adapter "$2" --output "merged_$2"
    grep -q "^same likeliest token *100.00 %" "merge_$2.out" || fail "merge_$2: $(cat "merge_$2.out")"
    cp "$reference/tasks/tokenizer.json" "merged_$2"
    expect "adapted_$2" "$program" eval "$1" --adapter "$2" --tokenizer "$reference/tasks/tokenizer.json" --data "$3" --json
    expect "alone_$2" "$program" eval "merged_$2" --data "$3" --json
    for field in loss accuracy; do
        a=$(sed -n "s/.*\"$field\": *\([-0-9.e+]*\).*/\1/p" "adapted_$2.out")
        b=$(sed -n "s/.*\"$field\": *\([-0-9.e+]*\).*/\1/p" "alone_$2.out")
        awk -v a="$a" -v b="$b" 'BEGIN { exit !(a != "" && a - b < 1e-5 && b - a < 1e-5) }' || fail "merged_$2: $field is $b, with the adapter $a"
    done
    cmp -s "merged_$2/config.json" "$1/config.json" && fail "merged_$2: has the base's config.json"
}
merges base sequence-classification texts.csv
merges base token-classification words.conll
expect bare "$program" train "$reference/encoders/bert_bare" --tokenizer "$reference/tasks/tokenizer.json" --task sequence-classification \
    --data texts.csv --output bare --target-modules query --steps 3 --learning-rate 0.01 --sequence-length 16 --dtype f32 --quiet
merges "$reference/encoders/bert_bare" bare texts.csv

# ---- pairs, whole models, and models that have a head ----
expect whole "$program" pretrain --model base --task sequence-classification --data pairs.jsonl --output whole --steps 100 --batch-size 16 \
    --learning-rate 3e-3 --sequence-length 16 --quiet
expect eval_whole "$program" eval whole --data pairs.jsonl --json
over eval_whole.out accuracy 0.95
grep -q '"BertForSequenceClassification"' whole/config.json || fail "architectures: $(cat whole/config.json)"
grep -q '"problem_type": *"single_label_classification"' whole/config.json || fail "no problem_type"
# the same labels, so the same head, without asking for a task
expect further "$program" train whole --data pairs.jsonl --output further --target-modules query --steps 2 --sequence-length 16 --quiet
grep -q '"classifier"' further/adapter_config.json || fail "the head is not in modules_to_save"
grep -q '"pooler"' further/adapter_config.json && fail "a pooler that was there is in modules_to_save"
# an adapter goes on, with the labels it has
expect on "$program" train base --adapter sequence-classification --data texts.csv --output on --steps 2 --dtype f32 --sequence-length 16 --quiet
cmp -s on/labels.json sequence-classification/labels.json || fail "labels of an adapter that went on: $(cat on/labels.json)"

# ---- interrupted and resumed: the same bits ----
long="--task sequence-classification --data texts.csv --validation-split 0.2 --eval-steps 40 --target-modules all-linear --dropout 0.1
    --steps 200 --batch-size 8 --gradient-accumulation-steps 2 --dtype f32 --sequence-length 16 --seed 2"
# shellcheck disable=SC2086
expect straight "$program" train base $long --output straight --quiet
# shellcheck disable=SC2086
"$program" train base $long --output stopped --json >stopped.out 2>stopped.err </dev/null &
pid=$!
for _ in $(seq 2000); do
    [ -f stopped/log.jsonl ] && [ "$(wc -l <stopped/log.jsonl)" -ge 20 ] && break
    kill -0 $pid 2>/dev/null || break
    sleep 0.02
done
kill -INT $pid
wait $pid
[ $? = 130 ] || fail "interrupted: exit status was not 130: $(cat stopped.err)"
# shellcheck disable=SC2086
expect resumed "$program" train base $long --output stopped --resume --quiet
cmp -s straight/adapter_model.safetensors stopped/adapter_model.safetensors || fail "a resumed run ends with other bits"
[ "$(wc -l <stopped/log.jsonl)" = "$(wc -l <straight/log.jsonl)" ] || fail "a resumed run has another log"

# ---- what is refused ----
train="train base --output never --target-modules query --steps 1 --sequence-length 16"
printf 'text,label\nthe knife,a\n' >one.csv
printf 'text,kind\nthe knife,a\n' >other.csv
printf 'text,label\nthe knife,nan\n' >nan.csv
printf 'text,label\nthe tree,blunt\n' >unknown.csv
# shellcheck disable=SC2086
{
    bad 1 'other.csv:1: found 2 columns, the first named "text", and none named label; --columns label=NAME names another' $train --task sequence-classification --data other.csv
    bad 1 'nan.csv:2: label: found "nan", expected a finite number' $train --task regression --data nan.csv
    bad 1 'texts.txt: found a file of plain text, expected records with labels' $train --task multi-label --data texts.txt
    bad 1 'unknown.csv:2: label: found "blunt", expected one of the 2 labels dull, sharp, or its number' $train --task sequence-classification --data texts.csv --validation-data unknown.csv
    bad 2 'mix fusion is of adapters for words' train base --adapter a --adapter b --mix fusion --task regression --data nan.csv --output never
    bad 1 '--labels: found no --task that they are for' $train --labels a,b --data texts.txt
    bad 1 'sequence-classification was trained for sequence-classification' train base --adapter sequence-classification --task regression --data values.jsonl --output never
}
bad 1 'unknown.csv:2: label: found "blunt", expected one of the 2 labels dull, sharp' eval base --adapter sequence-classification --data unknown.csv
bad 1 '--task regression: base has no head for it, nor has an adapter' eval base --task regression --data values.jsonl
bad 1 '--predictions is of labels' eval base --data texts.txt --predictions said.jsonl
bad 1 'BertForSequenceClassification generates nothing' generate base --adapter sequence-classification --prompt a
expect columns "$program" train base --task sequence-classification --data other.csv --columns label=kind --output columns --target-modules query --steps 1 \
    --sequence-length 16 --labels b,a --quiet
grep -q '"0": *"b"' columns/labels.json || fail "--labels: $(cat columns/labels.json)"

cd / && [ $failures = 0 ] && rm -rf "$work"
[ $failures = 0 ]
