#!/bin/sh
# Active adaptation from end to end: a person's table, what is wrong with it, and rounds that are killed anywhere and end with the same bits.
#
#     active.sh PROGRAM ROOT TEMPORARY_DIRECTORY
set -u
program=$1
root=$2
work=$3/active.$$
. "$(dirname "$0")/checks.sh"
mkdir -p "$work" || exit 1
case $program in /*) ;; *) program=$(pwd)/$program ;; esac
cp "$root"/examples/marks/*.npy "$work"
cd "$work" || exit 1

expect known "$program" pretrain --config "$root/examples/marks/config.json" --task image-classification --labels disc,square,cross --data plain-images.npy --output known --steps 20 --batch-size 16 --learning-rate 1e-2 --dtype f32 --quiet
rounds="adapt active known --target uneven-images.npy --budget 6 --rounds 2 --epochs 1 --batch-size 24 --learning-rate 3e-3"

# ---- a person ----
expect first "$program" $rounds --work marks --json
grep -q '"waiting":3' first.out || fail "first: $(cat first.out)"
grep -q 'round-1-images/3.png' marks/round-1.html || fail "the page shows no third image"
for i in 1 2 3; do test -s marks/round-1-images/$i.png || fail "there is no image $i"; done
bad 1 "round-1.csv:2: label: found none for uneven-images.npy: image" $rounds --work marks
sed -i 's/,,/,circle,/' marks/round-1.csv
bad 1 "round-1.csv:2: label: found circle for uneven-images.npy: image" $rounds --work marks
sed -i 's/,circle,/,disc,/' marks/round-1.csv
expect second "$program" $rounds --work marks --json
test -s marks/round-1/result.json && test -s marks/round-2.csv || fail "the second call: $(ls marks)"
test "$(grep -c , marks/round-1/labels.csv)" = 4 || fail "labels: $(cat marks/round-1/labels.csv)"
bad 1 "round-1.safetensors: is of pool and labels" adapt active known --target plain-images.npy --work marks
cp -r marks answered && sed -i 's/,,/,disc,/' answered/round-2.csv
bad 1 "trained: found adapter, expected all, base or head as in answered/round-1" $rounds --work answered --trained adapter --target-modules all-linear
mkdir mine && echo mine > mine/round-1.csv
bad 1 "mine/round-1.csv: found a table without" $rounds --work mine
bad 2 "goes without an adapter" adapt active known --target uneven-images.npy --work other --trained head --rank 4
bad 1 "named in the same way" $rounds --work other --labels-data plain-images.npy

# ---- killed anywhere ----
alone="$rounds --labels-data uneven-images.npy --save-steps 2 --quiet"
expect straight "$program" $alone --work straight
for turn in 1 2 3 4 5 6 7 8; do
    timeout -s KILL "0.$turn" "$program" $alone --work killed >/dev/null 2>&1
done
expect killed "$program" $alone --work killed
for file in round-1.csv round-2.csv round-1/model.safetensors round-2/model.safetensors; do
    cmp -s straight/$file killed/$file || fail "$file differs after kills"
done

cd / && rm -rf "$work"
[ $failures = 0 ] && echo "all passed"
exit $failures
