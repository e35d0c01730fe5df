#!/bin/sh
# What two processes of one machine take together and what one takes: frozen weights are pages of the mapped file, there once.
#
#     shared_pages.sh PROGRAM MODEL_DIR TOKENIZER DATA TEMPORARY_DIRECTORY
#
# Prints the sum of the proportional set sizes (PSS) of one and of two processes in the middle of a run, by kind.
set -u
program=$(realpath "$1")
model=$2
tokenizer=$3
data=$4
work=$5/shared_pages.$$
mkdir -p "$work"
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_hwloc_base_binding_policy=none OMPI_MCA_rmaps_base_oversubscribe=1
command -v mpirun >/dev/null || exit 77
for n in 1 2; do
    mpirun -np $n "$program" train "$model" --tokenizer "$tokenizer" --data "$data" --target-modules all-linear --batch-size 2 --sequence-length 128 \
        --steps 1000 --output "$work/$n" >/dev/null 2>&1 </dev/null &
    starter=$!
    for _ in $(seq 1200); do
        [ -f "$work/$n/log.jsonl" ] && [ "$(wc -l <"$work/$n/log.jsonl")" -ge 3 ] && break
        sleep 0.1
    done
    for process in $(pgrep -P $starter); do
        cat "/proc/$process/smaps_rollup"
    done | awk -v n=$n '/^Pss:/ { all += $2 } /^Pss_File:/ { file += $2 } /^Pss_Anon:/ { anon += $2 } /^Rss:/ { rss += $2 }
        END { printf "%d process%s: PSS %.0f MB (files %.0f, own memory %.0f), RSS %.0f MB\n", n, n > 1 ? "es" : "", all / 1024, file / 1024, anon / 1024, rss / 1024 }'
    kill $starter
    wait $starter
done
rm -rf "$work"
