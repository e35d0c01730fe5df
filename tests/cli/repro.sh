#!/bin/sh
# Every experiment and every network of the zoo from end to end, as a smoke run with made-up data: its tables fit each other, every arm runs, and a second command finds
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

for name in $("$program" zoo list | sed -n 's/^\([a-z0-9-]*\) .*/\1/p'); do
    CAMBIUM_DATA=$work/none "$program" zoo build "$name" --quick --quiet --output "$work/zoo/$name" >"$work/built"
    for file in README.md zoo.json config.json model.safetensors curves.png; do
        test -s "$work/zoo/$name/$file"
    done
    test ! -e "$work/zoo/$name.building" && test ! -e "$work/zoo/$name/checkpoint.safetensors"
    if [ -s "$work/zoo/$name/tokenizer.json" ]; then
        "$program" eval "$work/zoo/$name" --data "$work/zoo/$name/README.md" --sequence-length 32 --quiet >"$work/judged"
    else
        grep -q '"image_mean"' "$work/zoo/$name/preprocessor_config.json"
    fi
    ! CAMBIUM_DATA=$work/none "$program" zoo build "$name" --quick --quiet --output "$work/zoo/$name" 2>"$work/refused"
    grep -q 'exists and is not an empty directory' "$work/refused"
done
