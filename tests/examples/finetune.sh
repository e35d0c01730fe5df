#!/bin/sh
# examples/finetune.c does what it says: trains, writes a PEFT directory, generates; and fails with one line on bad input.
#
#     finetune.sh PROGRAM REFERENCE_DIRECTORY TEMPORARY_DIRECTORY
set -eu
program=$1
root=$2/../..
work=$3/finetune.$$
trap 'rm -rf "$work"' EXIT
mkdir -p "$work"
head -n 200 "$root/examples/data/king-james.txt" >"$work/text.txt"

"$program" "$root/models/sprig-5m" "$work/text.txt" "$work/adapter" 10 >"$work/out"
grep -q '^step 10/10  loss [0-9]' "$work/out"
grep -q '^The' "$work/out"
for file in adapter_config.json adapter_model.safetensors log.jsonl checkpoint.safetensors; do
    test -s "$work/adapter/$file"
done

if "$program" "$work/nowhere" "$work/text.txt" "$work/never" 10 >"$work/out" 2>"$work/err"; then
    echo "a model that is not there: expected a failure" && exit 1
fi
test "$(wc -l <"$work/err")" = 1
grep -q nowhere "$work/err"
test ! -e "$work/never"
