#!/bin/sh
# What two processes of one machine take together and what one takes: frozen weights are pages of the mapped file, there once.
#
#     shared_pages.sh PROGRAM MODEL_DIR TOKENIZER DATA TEMPORARY_DIRECTORY
#
# Prints the sums of the proportional set sizes (PSS) of one and of two processes in the middle of a run: all, of the model's file, their own
# memory.  Fails unless two processes hold as much of the model's file as one; MODEL_DIR has one of bf16, which is used where it lies.
#
# Exit status 77 (skipped) without mpirun, or when the program was built without MPI.
set -u
program=$(realpath "$1")
model=$2
tokenizer=$3
data=$4
work=$5/shared_pages.$$
mkdir -p "$work"
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_hwloc_base_binding_policy=none OMPI_MCA_rmaps_base_oversubscribe=1
command -v mpirun >/dev/null || exit 77

# kilobytes N: "all model own resident" of N processes together
kilobytes() {
    mpirun -np "$1" "$program" train "$model" --tokenizer "$tokenizer" --data "$data" --target-modules all-linear --batch-size 2 \
        --sequence-length 128 --steps 100000 --output "$work/$1" >"$work/out" 2>&1 </dev/null &
    starter=$!
    for _ in $(seq 1200); do
        [ -f "$work/$1/log.jsonl" ] && [ "$(wc -l <"$work/$1/log.jsonl")" -ge 3 ] && break
        kill -0 $starter 2>/dev/null || break
        sleep 0.1
    done
    for process in $(pgrep -P $starter); do
        cat "/proc/$process/smaps"
    done | awk '/^[0-9a-f]+-[0-9a-f]+ / { model = /model\.safetensors$/; own = NF < 6 || /\[heap\]|\[stack\]/ }
        /^Pss:/ { sum["all"] += $2; sum["model"] += model * $2; sum["own"] += own * $2 } /^Rss:/ { sum["rss"] += $2 }
        END { print sum["all"] + 0, sum["model"] + 0, sum["own"] + 0, sum["rss"] + 0 }'
    kill $starter 2>/dev/null
    wait $starter
}
one=$(kilobytes 1)
two=$(kilobytes 2)
grep -q "knows no MPI" "$work/out" && rm -rf "$work" && exit 77
rm -rf "$work"
weights=$(($(stat -c %s "$model/model.safetensors") / 1024))
# shellcheck disable=SC2086
printf '%s %s %s %s\n%s %s %s %s\n' $one $two | awk -v weights=$weights '
    { printf "%d: PSS %.1f MB (model %.1f, own memory %.1f), RSS %.1f MB\n", NR, $1 / 1024, $2 / 1024, $3 / 1024, $4 / 1024; model[NR] = $2 }
    END {
        if (model[1] > weights / 2 && model[2] >= model[1] && model[2] < 1.05 * weights) exit 0
        printf "FAIL: expected the model (%.1f MB) in memory once\n", weights / 1024
        exit 1
    }'
