#!/bin/sh
# Every experiment from end to end, as a smoke run with made-up data: its tables fit each other, every arm runs, and a second command finds
# all runs done.
#
#     repro.sh PROGRAM TEMPORARY_DIRECTORY
set -eu
program=$1
work=$2/repro.$$
trap 'rm -rf "$work"' EXIT
mkdir -p "$work"
names=$("$program" repro --list | sed -n 's/^ *[0-9]* *\([a-z0-9-]*\) .*/\1/p')
test "$(echo "$names" | wc -l)" -ge 3
for name in $names; do
    CAMBIUM_DATA=$work/none "$program" repro "$name" --quick --jobs 2 --work "$work" --output "$work/out" --quiet >"$work/table"
    grep -q 'A quick run' "$work/table"
    test -s "$work/out/$name.json" && test -s "$work/out/$name.png" && test -s "$work/out/$name.svg"
    CAMBIUM_DATA=$work/none "$program" repro "$name" --quick --work "$work" --quiet >"$work/again"
    cmp "$work/table" "$work/again"
    "$program" repro --from "$work/out/$name.json" >"$work/again"
    cmp "$work/table" "$work/again"
done
