#!/usr/bin/env bash
# A week in a few seconds: one `cambium adapt` over a pipe, with drift, items of every bad kind, and kill -9 at random moments, always resumed; whoever
# sends sends again what was not answered.  At the end every item must have exactly one record, an answer or an error as it deserves; a run on which
# nobody laid hands must not grow, nor its state.  bench/adapt_week.py does the same for longer, and for a watched directory.
#
#     adapt_week.sh PROGRAM TEST_FAULTS TEMPORARY_DIRECTORY [KILLS [SEED]]
set -uo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
program=$(realpath "$1")
kills=${4:-4}
RANDOM=${5:-1}
work=$3/adapt_week.$$
mkdir -p "$work"
cd "$work"
failures=0
fail() {
    failures=$((failures + 1))
    echo "FAIL: $*"
}

# ---- a network, and what it is shown: pictures that get darker from day to day, and what is none ----
mkdir net images
cp "$root/tests/reference/vision/resnet_basic/config.json" "$root/tests/reference/vision/resnet_basic/model.safetensors" net
printf '%s' '{"image_processor_type": "ViTImageProcessor", "size": {"height": 16, "width": 16}, "image_mean": [0.4, 0.4, 0.4], "image_std": [0.2, 0.2, 0.2]}' >net/preprocessor_config.json
awk 'BEGIN {
    for (i = 0; i < 56; i++) {
        file = "images/" i ".ppm"
        print "P3 16 16 255" >file
        for (p = 0; p < 256; p++) {
            line = ""
            for (k = 1; k <= 3; k++) {
                n = (n * 1103515245 + 12345) % 2147483648
                line = line " " int(((k == i % 4 ? 140 : 60) + (n / 65536) % 60) * (1 - int(i / 8) * 0.1))
            }
            print line >file
        }
        close(file)
    }
}'
printf 'P6 16 16 255\nabc' >images/cut.ppm
printf 'Dear Sir or Madam\n' >images/kind.png
: >images/nothing.jpg
printf 'P6 2000000000 2000000000 255\nabc' >images/huge.ppm
{ # a TIFF of one float that is no number
    printf 'II*\0\010\0\0\0\011\0'
    printf '\0\001\003\0\001\0\0\0\001\0\0\0\001\001\003\0\001\0\0\0\001\0\0\0\002\001\003\0\001\0\0\0\040\0\0\0\003\001\003\0\001\0\0\0\001\0\0\0'
    printf '\006\001\003\0\001\0\0\0\001\0\0\0\021\001\004\0\001\0\0\0\172\0\0\0\026\001\003\0\001\0\0\0\001\0\0\0\027\001\004\0\001\0\0\0\004\0\0\0'
    printf '\123\001\003\0\001\0\0\0\003\0\0\0\0\0\0\0\0\0\300\177'
} >images/nan.tif
items=560
line_of() { # NUMBER: every tenth is bad
    if [ $(($1 % 10)) != 9 ]; then
        echo "{\"file\": \"images/$(($1 / 10)).ppm\", \"id\": \"n$1;\", \"shift\": \"day $(($1 / 80))\"}"
        return
    fi
    case $(($1 / 10 % 7)) in
    0) echo "{\"file\": \"images/cut.ppm\", \"id\": \"n$1;\"}" ;;
    1) echo "{\"file\": \"images/kind.png\", \"id\": \"n$1;\"}" ;;
    2) echo "{\"file\": \"images/nothing.jpg\", \"id\": \"n$1;\"}" ;;
    3) echo "{\"file\": \"images/huge.ppm\", \"id\": \"n$1;\"}" ;;
    4) echo "images/missing-n$1;" ;;
    5) echo "{n$1; \"file\": 3" ;;
    6) echo "{\"file\": \"images/nan.tif\", \"id\": \"n$1;\"}" ;;
    esac
}
for ((i = 0; i < items; i++)); do line_of $i; done >all.lines
answered() { # FILE: numbers of the items of its whole lines
    [ -s "$1" ] || return 0
    { [ -z "$(tail -c 1 "$1")" ] && cat "$1" || sed '$d' "$1"; } | sed -n '2,$s/.*[^a-z]n\([0-9]*\);.*/\1/p'
}
unanswered() {
    answered said.jsonl | sort -n >done.list
    awk 'FILENAME == ARGV[1] { done[$1] = 1; next } !((FNR - 1) in done)' done.list all.lines
}
adapt() { # OUTPUT: in the place of this (sub)shell
    exec "$program" adapt net --method tent --stream - --batch-size 8 --save-batches 3 --output "$1" --resume --quiet --threads 1
}

# ---- killed again and again, at so many records more and a moment ----
count=0
for ((kill = 0; kill < kills; kill++)); do
    mkfifo lines
    adapt said.jsonl <lines >said.out 2>said.err &
    child=$!
    { unanswered && exec sleep 60; } >lines 2>sender.err &
    sender=$!
    target=$((items * (kill + 1) / (kills + 1)))
    for ((tries = 0; tries < 1500 && count < target; tries++)); do
        sleep 0.01
        [ -f said.jsonl ] && count=$(wc -l <said.jsonl)
        kill -0 $child 2>kill.err || break
    done
    [ "$count" -ge $target ] || fail "it ended, or stands still, behind $count records: $(cat said.err)"
    sleep "0.0$((RANDOM % 10))"
    kill -9 $child
    kill $sender 2>kill.err
    wait $child $sender 2>kill.err
    rm lines
done
unanswered | (adapt said.jsonl) >said.out || fail "the last run: $?"
answered said.jsonl | sort -n | uniq -c | awk '$1 != 1 { print $2 " has " $1 " records" }' >wrong.list
[ -s wrong.list ] && fail "$(head -n 5 wrong.list)"
[ "$(wc -l <said.jsonl)" = $((items + 1)) ] || fail "expected $items records: $(($(wc -l <said.jsonl) - 1))"
[ "$(grep -c '"error":' said.jsonl)" = $((items / 10)) ] || fail "expected $((items / 10)) errors: $(grep -c '"error":' said.jsonl)"
grep -v '9;' said.jsonl | grep '"error":' && fail "an error that is none"

# ---- nothing grows: the days come twice more, in one process ----
mkfifo lines
adapt calm.jsonl <lines >calm.out 2>calm.err &
child=$!
exec 7>lines
round() { # until so many records are there; then resident kilobytes and the state's bytes
    cat all.lines >&7
    echo >&7
    for ((tries = 0; tries < 3000; tries++)); do
        [ -f calm.jsonl ] && [ "$(wc -l <calm.jsonl)" -gt "$1" ] && break
        sleep 0.01
    done
    awk '/^VmRSS/ { print $2 }' /proc/$child/status
    stat -c %s calm.jsonl.state
}
mapfile -t first < <(round $items)
mapfile -t second < <(round $((2 * items)))
mapfile -t third < <(round $((3 * items)))
exec 7>&-
wait $child || fail "the calm run: $(cat calm.err)"
[ "${third[0]}" -le $((second[0] + 2048)) ] || fail "memory grows: ${first[0]}, ${second[0]}, ${third[0]} kB"
[ "${third[1]}" -le $((first[1] + 512)) ] || fail "the state grows: ${first[1]}, ${second[1]}, ${third[1]} bytes"

cd / && rm -rf "$work"
[ $failures = 0 ] && echo "all passed"
exit $failures
