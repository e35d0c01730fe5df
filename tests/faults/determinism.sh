#!/usr/bin/env bash
# Same seed and thread count, same bits: training, resuming, generating, with gradient checkpointing and without.  With
# CAMBIUM_MEASURE=1 it also measures what else changes bits, and by how much: thread counts, instruction sets, the makeup of a batch
# (docs/determinism.md has such a table).
#
#     determinism.sh PROGRAM TEST_FAULTS TEMPORARY_DIRECTORY
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
program=$(realpath "$1")
work=$3/determinism.$$
mkdir -p "$work"
cd "$work"
trap 'cd /; rm -rf "$work"' EXIT
base=$root/models/sprig-5m
head -n 600 "$root/examples/data/king-james.txt" >text.txt
failures=0

replace_by_train() { # OUTPUT OPTION...
    local output=$1
    shift
    exec "$program" train "$base" --data text.txt --output "$output" --rank 8 --alpha 16 --dropout 0.1 --target-modules all-linear --steps 8 \
        --batch-size 4 --sequence-length 128 --learning-rate 3e-3 --seed 3 --quiet "$@" >/dev/null
}
train() { (replace_by_train "$@"); }
losses() { sed 's/.*"loss":\([^,]*\),.*"grad_norm":\([^,]*\),.*/\1 \2/' "$1/log.jsonl"; }
compare() { # compare WHAT A B: a line of the table; false when bits differ
    if cmp -s "$2/adapter_model.safetensors" "$3/adapter_model.safetensors" && [ "$(losses "$2")" = "$(losses "$3")" ]; then
        printf '%-58s same bits\n' "$1"
    else
        printf '%-58s losses differ by up to %s\n' "$1" "$(paste -d' ' <(losses "$2") <(losses "$3") |
            awk '{ d = $1 - $3; d = d < 0 ? -d : d; if (d > most) most = d } END { printf "%.1e", most }')"
        return 1
    fi
}
same() { compare "$@" || failures=$((failures + 1)); }
measured() { compare "$@" || true; }

for dtype in bf16 f32; do
    export OMP_NUM_THREADS=2
    train "$dtype" --dtype $dtype
    train "$dtype-again" --dtype $dtype
    same "$dtype, again" "$dtype" "$dtype-again"
    train "$dtype-checkpointing" --dtype $dtype --gradient-checkpointing
    if [ $dtype = f32 ]; then
        same "$dtype, --gradient-checkpointing" "$dtype" "$dtype-checkpointing"
    else # bf16 results are rounded at other places where the tape keeps nothing of them
        measured "$dtype, --gradient-checkpointing" "$dtype" "$dtype-checkpointing"
    fi
    replace_by_train "$dtype-resumed" --dtype $dtype --save-steps 1 2>/dev/null &
    pid=$!
    while [ ! -e "$dtype-resumed/checkpoint.safetensors" ] && kill -0 "$pid"; do sleep 0.01; done
    kill -INT "$pid" || true
    wait "$pid" || true
    train "$dtype-resumed" --dtype $dtype --save-steps 1 --resume
    same "$dtype, interrupted and resumed" "$dtype" "$dtype-resumed"
    ONEDNN_MAX_CPU_ISA=AVX2 train "$dtype-onednn" --dtype $dtype
    measured "$dtype, ONEDNN_MAX_CPU_ISA=AVX2" "$dtype" "$dtype-onednn"
    [ -n "${CAMBIUM_MEASURE:-}" ] || continue
    for threads in 1 3 4; do
        train "$dtype-$threads" --dtype $dtype --threads $threads
        same "$dtype, $threads threads instead of 2" "$dtype" "$dtype-$threads"
    done
    for isa in avx512 avx2 portable; do
        CAMBIUM_ISA=$isa train "$dtype-$isa" --dtype $dtype
        measured "$dtype, CAMBIUM_ISA=$isa instead of the machine's" "$dtype" "$dtype-$isa"
    done
    train "$dtype-accumulated" --dtype $dtype --batch-size 2 --gradient-accumulation-steps 2 --dropout 0
    train "$dtype-whole" --dtype $dtype --dropout 0
    measured "$dtype, 2 x 2 rows accumulated instead of 4 (no dropout)" "$dtype-whole" "$dtype-accumulated"
done

generate() { # the ids of the tokens
    "$program" generate "$base" --adapter bf16 --prompt "And it came to pass" --max-new-tokens 24 --seed 5 --json "$@" |
        sed -n 's/.*"ids":\(\[[^]]*\]\).*/\1/p'
}
for how in "--temperature 0" "--temperature 0.9 --top-p 0.95"; do
    # shellcheck disable=SC2086
    generate $how >a
    # shellcheck disable=SC2086
    generate $how >b
    [ -s a ] && cmp -s a b || { echo "generate $how: other tokens the second time" && failures=$((failures + 1)); }
    for threads in ${CAMBIUM_MEASURE:+1 4}; do
        # shellcheck disable=SC2086
        generate $how --threads $threads >b
        cmp -s a b && word=same || word=other
        printf '%-58s %s tokens\n' "generate $how, $threads threads instead of 2" "$word"
    done
done
[ "$failures" = 0 ] || { echo "$failures failures"; exit 1; }
