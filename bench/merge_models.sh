#!/bin/bash
# How fast whole models are merged, beside how fast the machine copies one: cp and sync of as many bytes as are written, and the merge, in turn.
# A merge of N models also reads N times as much.  Files are in the page cache where it holds them, as they are after a first reading.
#
#     merge_models.sh PROGRAM DIRECTORY ROUNDS BASE MODEL... [-- OPTION...]       DIRECTORY: on the disk to write to
set -eu
program=$1
work=$2/merge-models.$$
rounds=$3
base=$4
shift 4
models=()
while [ $# -gt 0 ] && [ "$1" != -- ]; do
    models+=(--model "$1")
    shift
done
[ $# -eq 0 ] || shift
mkdir -p "$work"
trap 'rm -rf "$work"' EXIT

now() { date +%s.%N; }
since() { awk -v a="$1" -v b="$(now)" 'BEGIN { printf "%.2f", b - a }'; }

cat "$base"/*.safetensors >/dev/null
printf 'copy s\tmerge s\tcopy / merge\tresident\n'
for _ in $(seq "$rounds"); do
    sync
    begin=$(now)
    cp -r "$base" "$work/copy"
    sync
    copy=$(since "$begin")
    rm -r "$work/copy"
    sync
    begin=$(now)
    memory=$("$program" merge "$base" "${models[@]}" --output "$work/merged" --json "$@" | sed 's/.*"peak_memory":\([0-9]*\).*/\1/')
    merge=$(since "$begin")
    rm -r "$work/merged"
    awk -v c="$copy" -v m="$merge" -v r="$memory" 'BEGIN { printf "%s\t%s\t%.2f\t%d MB\n", c, m, c / m, r / 1e6 }'
done | tee "$work/rounds"
sort -t"$(printf '\t')" -k3n "$work/rounds" | awk -F'\t' '{ ratio[NR] = $3 } END { printf "median ratio %s of %d rounds\n", ratio[int((NR + 1) / 2)], NR }'
