#!/usr/bin/env bash
# Kills merge, convert and tokenizer training at random moments: the output is there whole or not at all, and the next try succeeds and
# leaves nothing of the killed process.
#
#     kill_output.sh PROGRAM TEST_FAULTS TEMPORARY_DIRECTORY [KILLS [SEED]]
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
program=$(realpath "$1")
kills=${4:-${CAMBIUM_KILLS:-8}}
seed=${5:-1}
work=$3/kill_output.$$
mkdir -p "$work"
cd "$work"
trap 'cd /; [ $? = 0 ] && rm -rf "$work" || echo "left for a look: $work"' EXIT
kill=0
fail() {
    echo "FAIL: $* (seed $seed, kill $kill)"
    exit 1
}

head -n 400 "$root/examples/data/king-james.txt" >text.txt
"$program" train "$root/models/sprig-5m" --data text.txt --output adapter --steps 1 --batch-size 1 --sequence-length 16 --quiet >/dev/null
start() { # replaces the shell; $1: what, $2: where to
    case $1 in
    merge) exec "$program" merge "$root/models/sprig-5m" --adapter adapter --output "$2" --quiet ;;
    convert) exec "$program" convert "$root/tests/reference/formats/llama2c.bin" --tokenizer "$root/tests/reference/formats/llama2c_tokenizer.bin" --output "$2" ;;
    tokenizer) exec "$program" tokenizer train --data text.txt --vocab-size 600 --output "$2" ;;
    esac
}
now() { date +%s%N; }
mkdir -p out
declare -A length
for what in merge convert tokenizer; do
    begun=$(now)
    (start "$what" "whole-$what" >/dev/null)
    length[$what]=$(($(now) - begun))
done
mapfile -t random < <(awk -v seed="$seed" -v n="$kills" 'BEGIN { srand(seed); for (i = 0; i < n; i++) printf "%.6f\n", rand() }')
whole=0 absent=0
while [ "$kill" -lt "$kills" ]; do
    case $((kill % 4)) in 0 | 1) what=merge ;; 2) what=convert ;; 3) what=tokenizer ;; esac
    u=${random[$kill]}
    kill=$((kill + 1))
    (start "$what" out/result >/dev/null 2>err) &
    pid=$!
    sleep "$(awk -v u="$u" -v t="${length[$what]}" 'BEGIN { printf "%.6f", u * t / 1e9 }')"
    builtin kill -KILL "$pid" 2>/dev/null || true
    status=0
    wait "$pid" 2>/dev/null || status=$?
    [ "$status" = 137 ] || [ "$status" = 0 ] || fail "$what ended with status $status: $(cat err)"
    if [ -e out/result ]; then
        diff -r out/result "whole-$what" >/dev/null || fail "$what: the output of a killed process is not whole"
        whole=$((whole + 1))
        rm -rf out/result
    else
        absent=$((absent + 1))
    fi
    (start "$what" out/result >/dev/null) || fail "$what does not succeed after a kill"
    diff -r out/result "whole-$what" >/dev/null || fail "$what: another output after a kill"
    rm -rf out/result
    left=$(ls -A out)
    [ -z "$left" ] || fail "$what: left $left"
done
echo "$kills kills (seed $seed): $whole outputs were whole, $absent were not there; each next try ended with the same bytes"
