#!/bin/sh
# Reading text in images from end to end: a CRNN from its configuration learns drawn digits, an adapter on its recurrent matrices goes on, is
# resumed with the same bits, evaluated and merged; and what is wrong with bad input is said.
#
#     recognition.sh PROGRAM REFERENCE_DIRECTORY TEMPORARY_DIRECTORY
set -u
program=$1
work=$3/recognition.$$
root=$(cd "$(dirname "$0")/../.." && pwd)
. "$(dirname "$0")/checks.sh"
mkdir -p "$work" || exit 1
case $program in /*) ;; *) program=$(pwd)/$program ;; esac
cd "$work" || exit 1
lines=$root/examples/lines
ln -s "$root/examples/crnn" crnn

# ---- a network from its configuration ----
expect plan "$program" pretrain --config crnn/config.json --tokenizer crnn/vocab.json --data "$lines/train" --output reader --steps 9 --dry-run
[ -e reader ] && fail "a dry run left $(ls reader)"
expect reader "$program" pretrain --config crnn/config.json --tokenizer crnn/vocab.json --task text-recognition --data "$lines/train/metadata.jsonl" \
    --validation-split 0.2 --output reader --steps 150 --batch-size 16 --learning-rate 0.01 --seed 1 --json --quiet
over reader.out validation_accuracy 0.1
[ -f reader/vocab.json ] && [ -f reader/preprocessor_config.json ] || fail "expected the vocabulary and the processor beside the model: $(ls reader)"
expect eval "$program" eval reader --data "$lines/test" --json --predictions said.jsonl
expect alone "$program" eval reader --data "$lines/test" --json --batch-size 1
for field in accuracy cer wer rows characters; do
    sed "s/.*\"$field\": *\([-0-9.e]*\).*/\1/" eval.out >a
    sed "s/.*\"$field\": *\([-0-9.e]*\).*/\1/" alone.out >b
    cmp -s a b || fail "rows in a batch and alone are read otherwise: $field $(cat a b)"
done
[ "$(grep -c '"reference"' said.jsonl)" = 16 ] || fail "expected 16 predictions: $(cat said.jsonl)"
expect beam "$program" eval reader --data "$lines/test" --json --beam-width 5

# ---- an adapter, resumed with the same bits ----
long="--data $lines/train --rank 2 --target-modules weight_ih_l0,weight_hh_l0,weight_hh_l0_reverse --learning-rate 0.005 --batch-size 8 --steps 12
    --save-steps 4 --seed 1 --quiet --crop-padding 1 --jitter-brightness 0.2"
# shellcheck disable=SC2086
{
    expect straight "$program" train reader $long --output straight
    expect half "$program" train reader $long --output twice --dropout 0
    cmp -s straight/adapter_model.safetensors twice/adapter_model.safetensors || fail "the same run ends with other bits"
    "$program" train reader $long --steps 4000 --output killed >killed.out 2>&1 &
    child=$!
    tries=0
    while [ ! -f killed/checkpoint.safetensors ] && [ $tries -lt 600 ]; do
        sleep 0.05
        tries=$((tries + 1))
    done
    kill -INT $child
    wait $child
    grep -q "interrupted" killed.out || fail "expected an interrupted run: $(cat killed.out)"
    bad 1 "the checkpoint is of another run" train reader $long --output killed --resume --max-width 30
    # one that goes on where it stopped ends with the bits of one that was never stopped
    expect through "$program" train reader $long --steps 60 --output through
    "$program" train reader $long --steps 60 --output stopped >stopped.out 2>&1 &
    child=$!
    tries=0
    while [ ! -f stopped/checkpoint.safetensors ] && [ $tries -lt 600 ]; do
        sleep 0.02
        tries=$((tries + 1))
    done
    kill -INT $child
    wait $child
    expect resumed "$program" train reader $long --steps 60 --output stopped --resume
    cmp -s through/adapter_model.safetensors stopped/adapter_model.safetensors || fail "a resumed recogniser ends with other bits"
}
expect adapted "$program" eval reader --adapter straight --data "$lines/test" --json
expect merge "$program" merge reader --adapter straight --output merged
grep -q "same likeliest token *100" merge.out || fail "merging changes what is said: $(cat merge.out)"
expect merged "$program" eval merged --data "$lines/test" --json

# ---- in other forms ----
expect nf4 "$program" convert reader --output nf4 --quantize nf4
expect int8 "$program" convert reader --output int8 --quantize int8
cmp -s reader/vocab.json int8/vocab.json && cmp -s reader/preprocessor_config.json int8/preprocessor_config.json || fail "expected what reads and writes texts: $(ls int8)"
expect shown "$program" inspect int8
expect small "$program" eval int8 --data "$lines/test" --json
grep -q '"rows":16' small.out || fail "a quantised model reads nothing: $(cat small.out)"

# ---- bad input ----
mkdir odd
cp "$lines/test/00.png" odd
said() { printf '%s\n' "$1" >odd/lines.jsonl; }
said '{"image": "00.png", "text": "2x"}'
bad 1 'odd/lines.jsonl:1: text: found "x", expected characters of the vocabulary' eval reader --data odd/lines.jsonl
said '{"image": "00.png", "text": "22222222222222"}'
bad 1 'odd/lines.jsonl:1: text: "22222222222222" needs 27 frames' eval reader --data odd/lines.jsonl
expect long "$program" eval reader --data odd/lines.jsonl --ctc-zero-infinity --json
grep -q '"too_long":1' long.out || fail "expected one text too long: $(cat long.out)"
said '{"image": "00.png", "text": "27"}'
expect without "$program" eval reader --data odd/lines.jsonl --json
printf '%s\n' '{"image": "00.png", "text": "22222222222222"}' >>odd/lines.jsonl
expect with "$program" eval reader --data odd/lines.jsonl --ctc-zero-infinity --json
for field in loss characters; do
    sed "s/.*\"$field\": *\([-0-9.e]*\).*/\1/" without.out >a
    sed "s/.*\"$field\": *\([-0-9.e]*\).*/\1/" with.out >b
    cmp -s a b || fail "a text that is too long changes the loss: $field $(cat a b)"
done
grep -q '"rows":2' with.out || fail "a text that is too long is no row: $(cat with.out)"
said '{"image": "none.png", "text": "2"}'
bad 1 "odd/none.png" eval reader --data odd/lines.jsonl
bad 1 "expected a table (.jsonl, .csv, .tsv) of images and texts" eval reader --data odd
bad 1 "whose architectures in config.json ends with ForCTC" train "$root/models/sprig-5m" --task text-recognition --data odd --output never
bad 1 "gradient_checkpointing: is of models of blocks" train reader --data "$lines/train" --output never --gradient-checkpointing
bad 1 "is a matrix of a recurrence, whose inputs are not looked at" train reader --data "$lines/train" --output never --target-modules weight_ih_l0 \
    --init-lora-weights eva
bad 1 "found mixup or CutMix" train reader --data "$lines/train" --output never --mixup-alpha 0.5
printf '{"<pad>": 0, "1": 1}' >few.json
bad 1 "few.json: found 2 tokens" eval reader --tokenizer few.json --data "$lines/test"
bad 2 "--tokenizer is needed with --config" pretrain --config crnn/config.json --task text-recognition --data "$lines/train" --output never

cd / && rm -rf "$work"
[ $failures = 0 ] && echo "all passed"
exit $failures
