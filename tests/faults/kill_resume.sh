#!/usr/bin/env bash
# Kills real runs with SIGKILL at random moments and always resumes them.  After every kill each file in the output directory must be
# whole; a run that ends at last must have the bits of one that nothing happened to: adapter (or model), checkpoint, and the losses in
# log.jsonl; and nothing of the killed processes may be left.
#
#     kill_resume.sh PROGRAM TEST_FAULTS TEMPORARY_DIRECTORY [KILLS [SEED]]
#
# TEST_FAULTS (tests/unit/test_faults.c) looks at the files.  Three of four kills are of `train`, the others of `pretrain`; where in a run
# they fall goes by turns: anywhere, while it starts, while a file is being written, near its end.
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
program=$(realpath "$1")
checker=$(realpath "$2")
kills=${4:-${CAMBIUM_KILLS:-8}}
seed=${5:-1}
work=$3/kill_resume.$$
mkdir -p "$work"
cd "$work"
trap 'cd /; [ $? = 0 ] && rm -rf "$work" || echo "left for a look: $work"' EXIT
fail() {
    echo "FAIL: $* (seed $seed, kill $kill)"
    exit 1
}

head -n 150 "$root/examples/data/king-james.txt" >text.txt
head -n 20 "$root/examples/data/king-james-held-out.txt" >held-out.txt
cat >config.json <<'END'
{"model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": 4096, "hidden_size": 64, "num_hidden_layers": 2,
 "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 96, "max_position_embeddings": 128, "rms_norm_eps": 1e-5,
 "tie_word_embeddings": true, "hidden_act": "silu", "initializer_range": 0.05}
END
common=(--data text.txt --validation-data held-out.txt --steps 24 --save-steps 4 --eval-steps 3 --eval-batches 2 --batch-size 2
    --sequence-length 32 --learning-rate 3e-3 --seed 7 --threads 1 --quiet)
start() { # start KIND DIRECTORY OPTION...: replaces the shell
    local kind=$1 directory=$2
    shift 2
    case $kind in
    train) exec "$program" train "$root/models/sprig-5m" --output "$directory" --rank 4 --dropout 0.1 --target-modules all-linear "${common[@]}" "$@" ;;
    pretrain) exec "$program" pretrain --config config.json --tokenizer "$root/models/sprig-5m" --output "$directory" "${common[@]}" "$@" ;;
    esac
}
result() { # what a finished run is: hashes and losses, without the clock
    "$checker" fingerprint "$1"/*model.safetensors "$1/checkpoint.safetensors"
    cat "$1"/*config.json
    sed -E 's/"(tokens_per_second|seconds|memory)":[^,}]*,?//g' "$1/log.jsonl"
}
now() { date +%s%N; }

kill=0
declare -A length
for kind in train pretrain; do
    begun=$(now)
    (start "$kind" "whole-$kind" >/dev/null)
    length[$kind]=$(($(now) - begun))
    result "whole-$kind" >"whole-$kind.result"
done

# uniform numbers in [0, 1), three a kill
mapfile -t random < <(awk -v seed="$seed" -v n="$kills" 'BEGIN { srand(seed); for (i = 0; i < 3 * n; i++) printf "%.6f\n", rand() }')
fraction() { awk -v u="$1" -v a="$2" -v b="$3" -v t="$4" 'BEGIN { printf "%.6f", (a + (b - a) * u) * t / 1e9 }'; }

runs=0 finished=0 early=0
finish() {
    (start "$kind" run --resume >/dev/null) || fail "$kind does not resume"
    "$checker" files run || fail "$kind: a resumed run leaves this"
    result run >run.result
    cmp whole-"$kind".result run.result || fail "$kind: a resumed run ends with other bits"
    rm -rf run
    finished=$((finished + 1))
}
left=0
while [ "$kill" -lt "$kills" ]; do
    u=${random[$((3 * kill))]} turn=$((kill % 4))
    if [ "$left" = 0 ]; then # so many kills before the run may end
        kind=train
        [ $((runs % 4)) = 3 ] && kind=pretrain
        left=$(awk -v u="${random[$((3 * kill + 1))]}" 'BEGIN { print 1 + int(u * 5) }')
        runs=$((runs + 1))
    fi
    kill=$((kill + 1))
    (start "$kind" run --resume >/dev/null 2>err) &
    pid=$!
    case $turn in
    0) sleep "$(fraction "$u" 0 1 "${length[$kind]}")" ;;
    1) sleep "$(fraction "$u" 0 0.3 "${length[$kind]}")" ;;
    2) # the second or a later temporary file, as it may be
        sleep "$(fraction "$u" 0 0.8 "${length[$kind]}")"
        while builtin kill -0 "$pid" 2>/dev/null && ! compgen -G 'run/.*.tmp-*' >/dev/null; do :; done ;;
    3) sleep "$(fraction "$u" 0.7 1.1 "${length[$kind]}")" ;;
    esac
    builtin kill -KILL "$pid" 2>/dev/null || true
    status=0
    wait "$pid" 2>/dev/null || status=$?
    [ "$status" = 137 ] || [ "$status" = 0 ] || fail "$kind ended with status $status: $(cat err)"
    [ "$status" = 137 ] || early=$((early + 1))
    [ ! -e run ] || "$checker" files run killed || fail "$kind: a killed run leaves this"
    left=$((left - 1))
    [ "$left" -gt 0 ] || finish
done
[ "$left" = 0 ] || finish
echo "$kills kills (seed $seed; $early came after the end), $finished runs finished, each with the bits of the run that was left alone"
