#!/bin/sh
# The trained Llama of llama2.c (stories260K.bin, tok512.bin and the text that its author published), converted, continues
# greedily as published, token for token, and can be fine-tuned.  Skipped (77) unless CAMBIUM_DATA holds stories260k.
#
#     stories260k.sh PROGRAM REFERENCE_DIRECTORY TEMPORARY_DIRECTORY
set -eu
program=$1
root=$(cd "$2/../.." && pwd)
work=$3/stories260k.$$
data=${CAMBIUM_DATA:-}/stories260k
[ -f "$data/stories260K.bin" ] || { echo "skipped: CAMBIUM_DATA names no directory with stories260k"; exit 77; }
trap 'rm -rf "$work"' EXIT
mkdir -p "$work"

"$program" convert "$data/stories260K.bin" --tokenizer "$data/tok512.bin" --output "$work/model" >/dev/null

# the first block after the command with -t 0.0 is the published text
awk '/-t 0\.0/ { inside = 1; next } inside && /^```/ { exit } inside' "$data/stories260K.md" >"$work/published"
"$program" tokenizer encode "$work/model" --no-special-tokens "$(cat "$work/published")" >"$work/published.ids"
prompt="Once upon a time"
count=$(($(wc -w <"$work/published.ids") - $("$program" tokenizer encode "$work/model" --no-special-tokens "$prompt" | wc -w)))
{
    printf '%s' "$prompt"
    "$program" generate "$work/model" --prompt "$prompt" --max-new-tokens "$count" --temperature 0
} >"$work/ours"
cmp "$work/published" "$work/ours"
"$program" tokenizer encode "$work/model" --no-special-tokens "$(cat "$work/ours")" >"$work/ours.ids"
cmp "$work/published.ids" "$work/ours.ids"

head -n 400 "$root/examples/data/king-james.txt" >"$work/text.txt"
perplexity() {
    "$program" eval "$@" --task perplexity --data "$root/examples/data/king-james-held-out.txt" --max-batches 4 --json |
        sed -n 's/.*"perplexity":\([0-9.]*\).*/\1/p'
}
"$program" train "$work/model" --data "$work/text.txt" --output "$work/adapter" --target-modules all-linear --rank 8 --alpha 16 \
    --steps 40 --batch-size 4 --sequence-length 128 --learning-rate 1e-2 --seed 1 >/dev/null
before=$(perplexity "$work/model") after=$(perplexity "$work/model" --adapter "$work/adapter")
awk -v a="$after" -v b="$before" 'BEGIN { exit !(a < 0.5 * b) }' || { echo "perplexity $after after, $before before: expected half"; exit 1; }
