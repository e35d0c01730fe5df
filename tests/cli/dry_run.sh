#!/bin/sh
# --dry-run of every command: nothing is left behind, the files and their sizes are those that the command then writes, and the predicted
# peak of memory is within a tenth of the measured one.
#
#     dry_run.sh PROGRAM REFERENCE_DIRECTORY MODEL_DIRECTORY TEXT_FILE TEMPORARY_DIRECTORY
set -u
program=$1
reference=$2
model=$3
text=$4
work=$5/dry_run.$$
mkdir -p "$work" && cd "$work" || exit 1
checks=0
failures=0

fail() {
    failures=$((failures + 1))
    echo "FAIL: $*"
}

# field FILE NAME: the number of a field of the last line.
field() {
    tail -n 1 "$1" | sed -n "s/.*\"$2\":\([0-9]*\).*/\1/p"
}

# The files that a plan names, with their sizes; and those that are there.
planned() {
    grep -o '"path":"[^"]*","bytes":[0-9]*' plan.out | sed 's/"path":"\([^"]*\)","bytes":\(.*\)/\1 \2/' | sort
}
there() {
    find "$1" -type f -exec stat -c '%n %s' {} + | sort
}

# dry OUTPUT COMMAND...: plans (leaving nothing, not even a directory), runs, compares.  OUTPUT "": the command writes nothing.
dry() {
    output=$1
    shift
    checks=$((checks + 1))
    ls -AR . | grep -vx 'plan.out' >before.list
    "$program" "$@" --dry-run --json --threads 2 >plan.out 2>plan.err || fail "$* --dry-run: exit status $?: $(cat plan.err)"
    ls -AR . | grep -vx 'plan.out' >after.list
    cmp -s before.list after.list || fail "$* --dry-run: left $(diff before.list after.list | tr '\n' ' ')"
    "$program" "$@" --json --threads 2 >run.out 2>run.err || fail "$*: exit status $?: $(cat run.err)"
    predicted=$(field plan.out peak)
    measured=$(field run.out peak_memory)
    awk -v a="$predicted" -v b="$measured" 'BEGIN { exit !(a > 0 && a < 1.1 * b && a > 0.9 * b) }' ||
        fail "$*: predicted a peak of $predicted bytes, measured $measured"
    [ -z "$output" ] && return
    planned >planned.list
    there "$output" | grep -v '/events\.\|/log\.jsonl\|/curves\.png' >there.list
    grep -v '/events\.\|/log\.jsonl\|/curves\.png' planned.list >sizes.list
    cmp -s sizes.list there.list || fail "$*: planned and found files: $(diff sizes.list there.list | tr '\n' ' ')"
}

# refused TEXT COMMAND...: a dry run finds what is wrong, in one line, and leaves nothing.
refused() {
    wanted=$1
    shift
    checks=$((checks + 1))
    "$program" "$@" --dry-run --output never/deep >bad.out 2>bad.err && fail "$* --dry-run: exit status 0"
    grep -qF -e "$wanted" bad.err && [ "$(wc -l <bad.err)" = 1 ] || fail "$* --dry-run: expected \"$wanted\" in: $(cat bad.err)"
    [ -e never ] && fail "$* --dry-run: left $(ls -R never)" && rm -rf never
}

touch before.list after.list plan.err
rows="--batch-size 2 --sequence-length 64"
# shellcheck disable=SC2086
dry deep/adapter train "$model" --data "$text" --target-modules all-linear --steps 2 $rows --output deep/adapter
# shellcheck disable=SC2086
dry "" eval "$model" --data "$text" --max-batches 3 $rows
# shellcheck disable=SC2086
dry "" eval "$model" --adapter deep/adapter --dtype bf16 --data "$text" --max-batches 3 $rows
dry "" generate "$model" --prompt "In the beginning" --max-new-tokens 400 --ignore-eos
dry merged merge "$model" --adapter deep/adapter --output merged
dry merged_nf4 merge "$model" --adapter deep/adapter --quantize nf4 --max-kl 9 --output merged_nf4
for kind in nf4 int8 int8-block; do
    dry "$kind" convert "$model" --quantize "$kind" --block-size 32 --output "$kind"
done
dry plain convert nf4 --dtype f32 --output plain
dry plain.gguf convert "$model" --to gguf --output plain.gguf
dry q8.gguf convert "$model" --to gguf --dtype q8_0 --max-kl 9 --output q8.gguf
dry merged.gguf merge "$model" --adapter deep/adapter --output merged.gguf
dry merged_q8.gguf merge q8.gguf --adapter deep/adapter --max-kl 9 --output merged_q8.gguf
dry nf4.gguf convert nf4 --to gguf --max-kl 9 --output nf4.gguf
dry unpacked convert q8.gguf --output unpacked
# shellcheck disable=SC2086
dry qv train "$model" --data "$text" --target-modules q_proj,v_proj --steps 1 $rows --output qv
for to in gguf-lora mlx adapterhub; do
    dry "qv_$to" convert qv --base "$model" --to "$to" --output "qv_$to"
done
dry qv_peft convert qv_mlx --base "$model" --to peft --output qv_peft
dry learned.json tokenizer train --data "$text" --vocab-size 2000 --output learned.json
dry copied.json tokenizer convert "$model" --output copied.json
dry llama2c convert "$reference/formats/llama2c.bin" --tokenizer "$reference/formats/llama2c_tokenizer.bin" --output llama2c

mkdir cut && cp "$model"/*.json cut && head -c 100000 "$model/model.safetensors" >cut/model.safetensors
refused "cut/model.safetensors" convert cut
refused "cut/model.safetensors" merge cut --adapter deep/adapter
refused "expected a model or an adapter" convert "$(mkdir empty && echo empty)"
cp -r "$model" other && chmod -R u+w other && sed -i 's/"intermediate_size": [0-9]*/"intermediate_size": 64/' other/config.json
refused "gate_proj" merge other --adapter deep/adapter
refused "block" convert "$model" --quantize int8-block --block-size 7
touch file
checks=$((checks + 1))
"$program" merge "$model" --adapter deep/adapter --output file/x --dry-run >bad.out 2>bad.err && fail "merge into a file: exit status 0"

cd / && rm -rf "$work"
echo "$checks checks, $failures failures"
[ "$failures" = 0 ]
