#!/usr/bin/env bash
# The main job, from files to files: adapts the model of models/ with LoRA to the King James Bible, measures it before and
# after on books it has not seen, reloads the adapter, merges it into the base and checks that nothing changed.
#
#     tools/demo.sh [OUTPUT_DIRECTORY]         `cambium` must be on the PATH; `make demo` sees to that
set -euo pipefail
cd "$(dirname "$0")/.."
base=models/sprig-5m
text=examples/data/king-james.txt
unseen=examples/data/king-james-held-out.txt
out=${1:-build/demo}
begun=$SECONDS
rm -rf "$out"

title() { printf '\n\033[1m%s\033[0m\n' "$*"; }
run() { # shows a command, then runs it
    local word shown='$'
    for word; do
        case $word in *[!A-Za-z0-9_./=,:+-]*) shown+=" \"$word\"" ;; *) shown+=" $word" ;; esac
    done
    printf '%s\n' "$shown"
    "$@"
}
# value NAME: a field of a JSON line on standard input
value() { sed -n "s/.*\"$1\":\"\{0,1\}\([^\",}]*\).*/\1/p"; }
perplexity() { cambium eval "$@" --task perplexity --data "$unseen" --sequence-length 256 --batch-size 8 --json; }
# The columns of log.jsonl's losses as a picture of 64 x 10 characters; every column is a mean.
curve() {
    value loss <"$1" | awk -v wide=64 -v high=10 '
        { loss[NR] = $1 }
        END {
            if (NR < wide) wide = NR
            for (c = 0; c < wide; c++) {
                sum = n = 0
                for (i = int(c * NR / wide) + 1; i <= int((c + 1) * NR / wide); i++) { sum += loss[i]; n++ }
                mean[c] = sum / n
                if (c == 0 || mean[c] < low) low = mean[c]
                if (c == 0 || mean[c] > top) top = mean[c]
            }
            if (top == low) top = low + 1
            for (r = high - 1; r >= 0; r--) {
                line = sprintf("  %6.3f |", low + (top - low) * r / (high - 1))
                for (c = 0; c < wide; c++) line = line (int((mean[c] - low) / (top - low) * (high - 1) + 0.5) == r ? "*" : " ")
                print line
            }
            axis = ""
            for (c = 0; c < wide; c++) axis = axis "-"
            printf "         +%s\n          step 1%*s\n", axis, wide - 6, "step " NR
        }'
}

title "1. How well does the base know this voice?  (perplexity on two unseen books; lower is better)"
before=$(perplexity "$base" | value perplexity | xargs printf %.2f)
echo "perplexity before: $before"
prompt="And it came to pass, that the king"
run cambium generate "$base" --prompt "$prompt" --max-new-tokens 48 --temperature 0.7 --top-p 0.9 --seed 1

title "2. Adapt it: rank-8 LoRA on every linear layer; the base stays frozen"
run cambium train "$base" --data "$text" --output "$out/adapter" --rank 8 --alpha 16 --target-modules all-linear \
    --steps 200 --batch-size 8 --sequence-length 256 --learning-rate 3e-3 --lr-scheduler-type cosine --warmup-steps 20 --seed 1
curve "$out/adapter/log.jsonl"
echo "the same as a picture: $out/adapter/curves.png"

title "3. Reload the adapter from disk and measure again"
after_json=$(perplexity "$base" --adapter "$out/adapter")
after=$(value perplexity <<<"$after_json" | xargs printf %.2f)
echo "perplexity after:  $after   (before: $before)"
run cambium generate "$base" --adapter "$out/adapter" --prompt "$prompt" --max-new-tokens 48 --temperature 0.7 --top-p 0.9 --seed 1

title "4. Merge it into the base: the difference between merged and adapted is measured"
run cambium merge "$base" --adapter "$out/adapter" --output "$out/merged" --dtype f32
merged_json=$(perplexity "$out/merged")
merged_loss=$(value loss <<<"$merged_json") after_loss=$(value loss <<<"$after_json")
echo "perplexity merged: $(value perplexity <<<"$merged_json" | xargs printf %.2f)"
awk -v a="$merged_loss" -v b="$after_loss" 'BEGIN { d = a - b; exit !(d < 1e-4 && d > -1e-4) }' ||
    { echo "demo: the merged model's loss is $merged_loss, expected the adapted one's $after_loss to 1e-4" >&2; exit 1; }
awk -v a="$after" -v b="$before" 'BEGIN { exit !(a < 0.9 * b) }' ||
    { echo "demo: perplexity after is $after, expected under 0.9 of $before" >&2; exit 1; }
echo "merged = adapted: losses $merged_loss and $after_loss agree to 1e-4"

title "Done in $((SECONDS - begun)) s"
echo "adapter (PEFT reads it): $out/adapter     merged model: $out/merged"
