#!/bin/sh
# A stream from end to end: records, checkpoints that are gone on from with the same bits after kill -9, pipes, items that cannot be read, and what is
# wrong with bad calls.
#
#     adapt.sh PROGRAM REFERENCE_DIRECTORY TEMPORARY_DIRECTORY
set -u
program=$1
reference=$2
work=$3/adapt.$$
. "$(dirname "$0")/checks.sh"
. "$(dirname "$0")/noisy_pictures.sh"
mkdir -p "$work" || exit 1
case $program in /*) ;; *) program=$(pwd)/$program ;; esac
reference=$(cd "$reference" && pwd)
cd "$work" || exit 1

# ---- pictures in which one colour is stronger, with noise ----
noisy_pictures 30
untaught_network

# ---- records ----
long="adapt net --stream test --corruptions gaussian_noise,fog,none --severity 3 --rounds 2 --batch-size 20 --seed 3 --quiet"
for method in source bn tent eata sar cotta rotta roid rdumb lame memo; do
    few=""
    [ $method = cotta ] && few="--method-option views=2,threshold=1"
    [ $method = memo ] && few="--method-option views=2"
    # shellcheck disable=SC2086
    expect $method "$program" $long --method $method $few --output $method.jsonl --json --max-batches 12
    [ "$(wc -l <$method.jsonl)" = 241 ] || fail "$method: expected 240 records and a head: $(wc -l <$method.jsonl)"
done
head -n 1 tent.jsonl | grep -q '"preprocessing".*"shifts":\["gaussian_noise","fog","none"\].*"order":"continual".*"seed":3' || fail "the head: $(head -n 1 tent.jsonl)"
grep -q '"index":0,"source":"test/LABEL_[0-3]/[0-9]*.ppm","shift":"gaussian_noise","label":"LABEL_' tent.jsonl || fail "the first record: $(sed -n 2p tent.jsonl)"
for order in gradual mixed correlated; do
    # shellcheck disable=SC2086
    expect $order "$program" $long --method tent --order $order --output $order.jsonl --json --adapter-kind ia3 --target-modules convolution --feedforward-modules convolution
    [ "$(wc -l <$order.jsonl)" = 721 ] || fail "$order: expected 720 records and a head: $(wc -l <$order.jsonl)"
done

# ---- going on, with the same bits ----
again="$long --method cotta --method-option views=2,threshold=1 --save-batches 3"
# shellcheck disable=SC2086
{
    expect straight "$program" $again --output straight.jsonl
    expect part "$program" $again --output part.jsonl --max-batches 7
    expect rest "$program" $again --output part.jsonl --resume
    "$program" $again --output killed.jsonl &
    child=$!
    tries=0
    while [ ! -f killed.jsonl.state ] && [ $tries -lt 600 ]; do
        sleep 0.02
        tries=$((tries + 1))
    done
    kill -9 $child
    wait $child 2>killed.err
    expect resumed "$program" $again --output killed.jsonl --resume --json
}
cmp -s straight.jsonl part.jsonl || fail "a run that was interrupted ends with other bits"
cmp -s straight.jsonl killed.jsonl || fail "a run that was killed ends with other bits"
cmp -s straight.jsonl.state killed.jsonl.state || fail "a run that was killed has another state in the end"
grep -q '"items":720,' resumed.out || fail "what came before the checkpoint is not counted: $(cat resumed.out)"

# ---- pipes, and what cannot be read ----
printf 'P6 16 16 255\n' >damaged.ppm
{
    printf 'test/LABEL_1/0.ppm\n{"file": "test/LABEL_2/0.ppm", "label": "LABEL_2", "shift": "night"}\n'
    printf 'missing.png\ndamaged.ppm\n{"file": 3}\n{"label": "x"}\n{broken\n'
    printf '{"file": "test/LABEL_2/0.ppm", "label": "LABEL_9"}\n\n'
    printf 'test/LABEL_3/1.ppm\r\ntest/LABEL_3/2.ppm'
} | "$program" adapt net --method tent --stream - --batch-size 4 --output piped.jsonl --json >piped.out 2>piped.err || fail "a pipe: $(cat piped.err)"
[ "$(wc -l <piped.jsonl)" = 11 ] || fail "expected ten records and a head: $(cat piped.jsonl)"
[ "$(grep -c '"error":' piped.jsonl)" = 6 ] || fail "expected six errors: $(cat piped.jsonl)"
grep -q '"source":"missing.png","error":"missing.png: ' piped.jsonl || fail "a file that is not there: $(cat piped.jsonl)"
grep -q '"shift":"night","label":"LABEL_[0-3]","probability":[0-9.e-]*,"expected":"LABEL_2"' piped.jsonl || fail "a line with a label: $(cat piped.jsonl)"
grep -q '"source":"test/LABEL_3/2.ppm","label"' piped.jsonl || fail "the last line: $(cat piped.jsonl)"
printf 'test/LABEL_0/0.ppm\n' | "$program" adapt net --method tent --stream - --batch-size 4 --output piped.jsonl --resume --json >piped.out 2>piped.err
grep -q '"index":10,"source":"test/LABEL_0/0.ppm"' piped.jsonl || fail "a pipe that goes on: $(tail -n 1 piped.jsonl) $(cat piped.err)"
printf 'LABEL_1/0.ppm\nLABEL_1/none.ppm\n' >test/list.txt
expect list "$program" adapt net --method bn --stream test/list.txt --output list.jsonl --batch-size 2
grep -q '"source":"test/LABEL_1/none.ppm","shift":"list.txt","error"' list.jsonl || fail "a list: $(cat list.jsonl)"
expect flat "$program" adapt net --method bn --stream test/LABEL_1,test/LABEL_2 --output flat.jsonl --batch-size 30
grep -q '"shift":"LABEL_2"' flat.jsonl || fail "directories of images: $(head -n 2 flat.jsonl)"

# ---- what is there and no checkpoint with it; what is not whole ----
printf 'mine\nand mine\n' >notes.txt
cp notes.txt notes.copy
bad 1 "notes.txt: is of something else" adapt net --method bn --stream test --output notes.txt --resume
cmp -s notes.txt notes.copy || fail "what is of something else was changed"
: >empty.jsonl
expect empty "$program" adapt net --method bn --stream test --batch-size 60 --output empty.jsonl --resume
[ "$(wc -l <empty.jsonl)" = 121 ] || fail "an empty file: $(wc -l <empty.jsonl)"
rm empty.jsonl.state
cp empty.jsonl anew.jsonl
printf '{"index":120,"sou' >>anew.jsonl
expect anew "$program" adapt net --method bn --stream test --batch-size 60 --output anew.jsonl --resume
cmp -s empty.jsonl anew.jsonl || fail "a stream on disk that was killed before its first checkpoint ends with other bits"
piped() { # NAME OPTIONS...: lines of standard input
    name=$1
    shift
    "$program" adapt net --method tent --stream - --batch-size 4 --output "$name.jsonl" --json "$@" >"$name.out" 2>"$name.err" || fail "$name: $(cat "$name.err")"
}
printf 'test/LABEL_0/0.ppm\n{"file": "test/LABEL_2/0.ppm", "label": "LABEL_2"}\nmissing.png\n' | piped first
cp first.jsonl.state first.state
rm first.jsonl.state
cp first.jsonl first.copy
printf '{"index":3,"source":"test/LAB' >>first.jsonl
printf 'test/LABEL_1/0.ppm\n' | piped first --resume
head -n 4 first.jsonl | cmp -s - first.copy || fail "a pipe without a checkpoint loses its records: $(cat first.jsonl)"
tail -n 1 first.jsonl | grep -q '^{"index":3,"source":"test/LABEL_1/0.ppm"' || fail "a pipe without a checkpoint counts on: $(cat first.jsonl)"
grep -q '"items":4,"unread":1,"labelled":1,' first.out || fail "what a pipe has answered is counted: $(cat first.out)"
cp first.state first.jsonl.state # of the first three
printf '{"index":4,"source":"test/LAB' >>first.jsonl
printf 'test/LABEL_3/0.ppm\n' | piped first --resume
[ "$(wc -l <first.jsonl)" = 6 ] || fail "a torn line: $(cat first.jsonl)"
tail -n 1 first.jsonl | grep -q '^{"index":4,"source":"test/LABEL_3/0.ppm"' || fail "a torn line, and what comes behind it: $(cat first.jsonl)"
grep -q '"items":5,"unread":1,"labelled":1,' first.out || fail "what is behind a checkpoint is counted: $(cat first.out)"
mkfifo nobody
printf 'nobody\ntest/LABEL_3/0.ppm\n' | timeout 60 "$program" adapt net --stream - --output fifo.jsonl >fifo.out 2>fifo.err || fail "a line that names a pipe: $(cat fifo.err)"
grep -q '"source":"nobody","error":"nobody: not a regular file"' fifo.jsonl || fail "a line that names a pipe: $(cat fifo.jsonl)"
printf 'LABEL_1/0.ppm\nLABEL_1/1.ppm\000x\nLABEL_1/2.ppm\n' >test/nul.txt
bad 1 "nul.txt: found a NUL character" adapt net --method bn --stream test/nul.txt

# ---- shifts of a pipe ----
line() { # FILE SHIFT
    printf '{"file": "%s", "shift": "%s"}\n' "$1" "$2"
}
{
    for i in 0 1 2 3 4; do line test/LABEL_0/$i.ppm a; done
    echo '{broken'
    for i in 5 6 7 8; do line test/LABEL_0/$i.ppm a; done
} | piped bad_line --reset shift
grep -q '"reset":true' bad_line.jsonl && fail "a line that cannot be read begins a shift: $(cat bad_line.jsonl)"
{
    echo '{broken'
    for i in 0 1 2 3; do line test/LABEL_0/$i.ppm a; done
    for i in 0 1 2 3; do line none.$i b; done
    for i in 4 5 6 7; do line test/LABEL_0/$i.ppm b; done
} | piped all_bad --reset shift
[ "$(grep -c '"reset":true' all_bad.jsonl)" = 4 ] || fail "a shift of which nothing could be read at first: $(cat all_bad.jsonl)"
{
    line test/LABEL_0/0.ppm a
    line none.0 b
} | piped pending --reset shift
line test/LABEL_0/1.ppm b | piped pending --reset shift --resume
tail -n 1 pending.jsonl | grep -q '"reset":true' || fail "a shift that had begun before a stop: $(cat pending.jsonl)"
{
    line test/LABEL_0/0.ppm "$(printf '%257s' '' | tr ' ' n)"
    i=0
    while [ $i -lt 4200 ]; do
        line none $i
        i=$((i + 1))
    done
} | piped names
grep -q '"error":"line: shift: found 257 bytes, expected at most 256"' names.jsonl || fail "a long name of a shift: $(sed -n 2p names.jsonl)"
[ "$(grep -o '"name":' names.out | wc -l)" = 4096 ] || fail "names of shifts: $(grep -o '"name":' names.out | wc -l)"
grep -q '{"name":"others","items":106,' names.out || fail "names of shifts that are counted together: $(tail -c 300 names.out)"

# ---- answers that are no numbers ----
for i in 0 1 2 3 4 5 6 7; do
    printf 'test/LABEL_0/%d.ppm\ntest/LABEL_1/%d.ppm\n\n' $i $i
done | piped infinite --no-guard --trained all --learning-rate 1e6 --weight-decay 1e6 --optimizer sgd
tail -n 1 infinite.jsonl | grep -q '"error":"the answer is no finite numbers"' || fail "answers that are no numbers: $(cat infinite.jsonl)"
mkdir broken
cp net/*.json broken
{
    head -c 14000 net/model.safetensors
    head -c 13904 /dev/zero | tr '\000' '\377'
} >broken/model.safetensors
bad 1 "broken: answers what is no finite numbers" adapt broken --method tent --stream test --output broken.jsonl
bad 1 "broken: answers what is no finite numbers" adapt broken --method tent --stream test --no-guard

# ---- methods; source images; bad calls ----
expect methods "$program" adapt --list-methods --json
grep -q '"name":"restore_rate"' methods.out || fail "options of methods: $(cat methods.out)"
expect source_images "$program" adapt net --method eata --method-option fisher_alpha=1 --source-images test --source-count 40 --stream test --output fisher.jsonl
head -n 1 fisher.jsonl | grep -q '"dtype":"f32","source_images":{.*"data":\["test"\]' || fail "source images in the head: $(head -n 1 fisher.jsonl)"
bad 2 "--stream is needed" adapt net --method tent --output never
bad 2 "MODEL_DIR is needed" adapt --stream test
bad 2 "method: found tint" adapt net --method tint --stream test
bad 1 "corruption: found smoke" adapt net --stream test --corruptions smoke
mkdir -p other/violet
cp test/LABEL_1/0.ppm other/violet
bad 1 "label: found violet" adapt net --stream other
bad 1 "piped.jsonl: is there already" adapt net --stream test --output piped.jsonl
bad 1 "is of another run" adapt net --method bn --stream test --output straight.jsonl --resume
bad 2 "there is no --adapter-kind" adapt net --stream test --rank 4
bad 2 "is a pipe, expected nothing else" adapt net --stream -,test
bad 1 "has no label, expected one to put images into runs by" adapt net --stream test/list.txt --order correlated
head -c 3000 straight.jsonl.state >cut.state
cp straight.jsonl cut.jsonl
mv cut.state cut.jsonl.state
# shellcheck disable=SC2086
bad 1 "cut.jsonl.state" $again --output cut.jsonl --resume

cd / && rm -rf "$work"
[ $failures = 0 ] && echo "all passed"
exit $failures
