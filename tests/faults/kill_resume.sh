#!/usr/bin/env bash
# Kills real runs with SIGKILL at random moments and always resumes them.  After every kill each file in the output directory must be
# whole; a run that ends at last must have the bits of one that nothing happened to: adapter (or model), checkpoint, and the losses in
# log.jsonl; and nothing of the killed processes may be left.
#
#     kill_resume.sh PROGRAM TEST_FAULTS TEMPORARY_DIRECTORY [KILLS [SEED]]
#
# TEST_FAULTS (tests/unit/test_faults.c) looks at the files.  Three of four kills are of `train`, the others of `pretrain`; where in a run
# they fall goes by turns: anywhere, while it starts, while a checkpoint is written, near its end.  A moment is so many lines of
# log.jsonl and a part of a step's time more, so that a slow machine, or a run that has less before it than the one before, does not end
# before its kill.
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
lines_of() { # FILE: sets `lines`
    lines=0
    [ ! -e "$1" ] || { mapfile -t log <"$1" && lines=${#log[@]}; }
}
mkfifo never
exec {never}<>never
pause() { read -r -t "$1" -u "$never" || true; } # without a process

wait_for() { # FILE LINES: until it has so many, or the process is gone
    lines_of "$1"
    while [ "$lines" -lt "$2" ] && builtin kill -0 "$pid" 2>/dev/null; do
        pause 0.002
        lines_of "$1"
    done
}
# of a run that is left alone: lines in its log, and times until the first, between two, after the last
declare -A total starting step ending
for kind in train pretrain; do
    (start $kind timed-$kind >/dev/null)
    lines_of timed-$kind/log.jsonl
    total[$kind]=$lines
    moments=("$(now)")
    (start $kind whole-$kind >/dev/null) &
    pid=$!
    for line in 1 "$lines"; do
        wait_for whole-$kind/log.jsonl "$line"
        moments+=("$(now)")
    done
    wait "$pid"
    moments+=("$(now)")
    starting[$kind]=$((moments[1] - moments[0])) step[$kind]=$(((moments[2] - moments[1]) / total[$kind]))
    ending[$kind]=$((moments[3] - moments[2]))
    result whole-$kind >whole-$kind.result
    result timed-$kind | cmp - whole-$kind.result
done

# uniform numbers in [0, 1), three a kill
mapfile -t random < <(awk -v seed="$seed" -v n="$kills" 'BEGIN { srand(seed); for (i = 0; i < 3 * n; i++) printf "%.6f\n", rand() }')
between() { awk -v u="$1" -v a="$2" -v b="$3" 'BEGIN { printf "%d", a + int(u * (b - a + 1)) }'; }
part() { awk -v u="$1" -v t="$2" 'BEGIN { printf "%.6f", u * t / 1e9 }'; } # of nanoseconds, in seconds
progress() {
    local spent=$((($(now) - begun_all) / 1000000000 + 1))
    echo "kill $kill of $kills, $early after the end, $writing while a file was written; $((60 * kill / spent)) a minute, about $(((kills - kill) * spent / kill)) s left"
}

runs=0 finished=0 early=0 writing=0
finish() {
    (start "$kind" run --resume >/dev/null) || fail "$kind does not resume"
    "$checker" files run || fail "$kind: a resumed run leaves this"
    result run >run.result
    cmp whole-"$kind".result run.result || fail "$kind: a resumed run ends with other bits"
    rm -rf run
    finished=$((finished + 1))
}
left=0 begun_all=$(now)
while [ "$kill" -lt "$kills" ]; do
    u=${random[$((3 * kill))]} rest=${random[$((3 * kill + 2))]} turn=$((kill % 4))
    if [ "$left" = 0 ]; then # so many kills before the run may end
        kind=train
        [ $((runs % 4)) = 3 ] && kind=pretrain
        left=$(awk -v u="${random[$((3 * kill + 1))]}" 'BEGIN { print 1 + int(u * 5) }')
        runs=$((runs + 1))
    fi
    kill=$((kill + 1))
    lines_of run/log.jsonl
    last=${total[$kind]}
    case $turn in
    0) line=$(between "$u" "$lines" $((last - 1))) ;;
    1) line=0 ;;
    2) line=$((4 * $(between "$u" $((lines / 4 + 1)) $((last / 4))))) ;; # a checkpoint follows
    3) line=$(between "$u" $((last * 3 / 4)) "$last") ;;
    esac
    length=${step[$kind]}
    [ "$line" -lt "$last" ] || length=${ending[$kind]}
    [ "$turn" != 1 ] || length=$((starting[$kind] * 3 / 2))
    (start "$kind" run --resume >/dev/null 2>err) &
    pid=$!
    wait_for run/log.jsonl "$line"
    pause "$(part "$rest" "$length")"
    builtin kill -KILL "$pid" 2>/dev/null || true
    status=0
    wait "$pid" 2>/dev/null || status=$?
    [ "$status" = 137 ] || [ "$status" = 0 ] || fail "$kind ended with status $status: $(cat err)"
    [ "$status" = 137 ] || { early=$((early + 1)) && left=1; } # there is no more of it to kill
    ! compgen -G "run/.*.tmp-$pid-*" >/dev/null || writing=$((writing + 1))
    [ ! -e run ] || "$checker" files run killed || fail "$kind: a killed run leaves this"
    left=$((left - 1))
    [ "$left" -gt 0 ] || finish
    [ $((kill % 20)) != 0 ] || progress
done
[ "$left" = 0 ] || finish
echo "$kills kills (seed $seed; $early came after the end, $writing while a file was written), $finished runs finished, each with the bits of the run that was left alone"
