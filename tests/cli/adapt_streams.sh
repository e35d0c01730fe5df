#!/bin/bash
# What `cambium adapt` listens to, and what it leaves: a watched directory across kill -9, clients of a port, texts, saved weights that eval takes,
# dry runs, and what a checkpoint and a head say.
#
#     adapt_streams.sh PROGRAM REFERENCE_DIRECTORY TEMPORARY_DIRECTORY
set -u
program=$1
reference=$2
work=$3/adapt_streams.$$
. "$(dirname "$0")/checks.sh"
. "$(dirname "$0")/noisy_pictures.sh"
mkdir -p "$work" || exit 1
case $program in /*) ;; *) program=$(pwd)/$program ;; esac
reference=$(cd "$reference" && pwd)
cd "$work" || exit 1

wait_for() { # SECONDS COMMAND...: until it succeeds
    tries=$(($1 * 20))
    shift
    while [ $tries -gt 0 ] && ! "$@"; do
        sleep 0.05
        tries=$((tries - 1))
    done
    [ $tries -gt 0 ]
}
has_lines() { # FILE NUMBER
    [ -f "$1" ] && [ "$(wc -l <"$1")" -ge "$2" ]
}

# ---- plain pictures, and a network that has seen none ----
noisy_pictures 8
untaught_network

# ---- a watched directory ----
mkdir inbox
watch() {
    "$program" adapt net --method tent --stream inbox --watch --batch-size 2 --batch-wait 0.1 --save-batches 1 --output watched.jsonl --resume --quiet >watch.out 2>watch.err &
    child=$!
}
put() { # NUMBER
    cp "test/LABEL_$(($1 % 4))/$(($1 / 4 % 8)).ppm" ".new.$1" && mv ".new.$1" "inbox/$1.ppm"
}
for i in 0 1 2; do put $i; done
watch
wait_for 20 has_lines watched.jsonl 4 || fail "a watched directory: $(cat watch.err)"
: >inbox/bad.png
put 3
wait_for 20 has_lines watched.jsonl 6 || fail "files that come: $(cat watched.jsonl watch.err)"
kill -9 $child
wait $child 2>killed.err
put 4
rm inbox/0.ppm
watch
wait_for 20 has_lines watched.jsonl 7 || fail "files that came meanwhile: $(cat watched.jsonl watch.err)"
put 5
wait_for 20 has_lines watched.jsonl 8 || fail "files that come later: $(cat watched.jsonl watch.err)"
kill -INT $child
wait $child
[ "$(wc -l <watched.jsonl)" = 8 ] || fail "expected each file once: $(cat watched.jsonl)"
sed -n 's/.*"source":"inbox\/\([^"]*\)".*/\1/p' watched.jsonl | sort >found.list
printf '%s\n' 0.ppm 1.ppm 2.ppm 3.ppm 4.ppm 5.ppm bad.png >expected.list
cmp -s found.list expected.list || fail "expected each file once: $(cat found.list)"
grep -q '"source":"inbox/bad.png","modified":[0-9]*,"error":' watched.jsonl || fail "a file of nothing: $(cat watched.jsonl)"
bad 2 "lies in the directory that is watched" adapt net --stream inbox --watch --output inbox/said.jsonl
bad 2 "inbox is the directory that is watched" adapt net --stream inbox --watch --save inbox
mkdir unmounted
cp test/LABEL_1/*.ppm unmounted
"$program" adapt net --method tent --stream watch:unmounted --batch-size 8 --output unmounted.jsonl --save-batches 1000 --quiet >gone.out 2>gone.err &
child=$!
wait_for 20 has_lines unmounted.jsonl 9 || fail "a watched directory: $(cat gone.err)"
rm -r unmounted
wait $child
[ $? = 1 ] || fail "a directory that is gone"
grep -q "unmounted: the directory is no longer there" gone.err || fail "a directory that is gone: $(cat gone.err)"
[ -s unmounted.jsonl.state ] || fail "what was learned before the directory was gone: no checkpoint"
bad 2 "and --stream net/config.json is none" adapt net --stream net/config.json --watch
bad 1 "watch:nowhere: is no directory" adapt net --stream watch:nowhere

# ---- clients of a port ----
port=$((20000 + $$ % 20000))
"$program" adapt net --method tent --stream tcp:127.0.0.1:$port --batch-size 4 --output served.jsonl --quiet >serve.out 2>serve.err &
child=$!
answered() { # SAYS EXPECTED-LINES: of a client of its own, in said
    exec 5<>"/dev/tcp/127.0.0.1/$port" || return 1
    printf "$1" >&5
    : >said
    for _ in $(seq "$2"); do
        read -r -t 20 line <&5 && echo "$line" >>said
    done
    exec 5>&-
}
up() { (exec 5<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; }
wait_for 20 up || fail "nobody listens: $(cat serve.err)"
exec 6<>"/dev/tcp/127.0.0.1/$port" # one that hangs in the middle of a line
printf 'test/LABEL_1/' >&6
answered 'test/LABEL_1/0.ppm\n{"file": "none.ppm", "id": "x"}\n' 2
grep -q '"source":"test/LABEL_1/0.ppm","label":"LABEL_' said || fail "a client's answer: $(cat said)"
grep -q '"source":"none.ppm","id":"x","error":' said || fail "a client's bad line: $(cat said)"
printf '2.ppm\n' >&6
read -r -t 20 line <&6
case $line in *'"source":"test/LABEL_1/2.ppm","label"'*) ;; *) fail "one that was slow: $line" ;; esac
exec 6>&-
kill -INT $child
wait $child
[ "$(wc -l <served.jsonl)" = 4 ] || fail "records of clients: $(cat served.jsonl)"

# ---- shifts, resets, thresholds ----
shifted() { # NAME OPTIONS...
    name=$1
    shift
    "$program" adapt net --method tent --stream - --batch-size 2 --reset shift --output "$name.jsonl" --json "$@" >"$name.out" 2>"$name.err" || fail "$name: $(cat "$name.err")"
}
say() { printf '{"file": "test/LABEL_1/%d.ppm", "shift": "%s"}\n' "$@"; }
say 0 day 1 day | shifted again
say 2 day 3 day | shifted again --resume
grep -q '"reset":true' again.jsonl && fail "a shift that goes on behind a stop begins anew: $(cat again.jsonl)"
say 4 night 5 night | shifted again --resume
[ "$(grep -c '"reset":true' again.jsonl)" = 2 ] || fail "another shift behind a stop: $(cat again.jsonl)"
expect sar "$program" adapt net --method sar --method-option entropy_margin=10,recover_below=100 --no-guard --stream test --batch-size 8 --output sar.jsonl --json
grep -q '"resets":4,' sar.out || fail "SAR's own new beginnings: $(cat sar.out)"
expect cotta "$program" adapt net --method cotta --method-option views=1 --source-images test --source-count 16 --stream test --max-batches 1 --output cotta.jsonl
head -n 1 cotta.jsonl | grep -q '"threshold":0.92.*"threshold":0\.' || fail "cotta's threshold: $(head -n 1 cotta.jsonl)"

# ---- what is saved ----
expect saved "$program" adapt net --method tent --statistics running --learning-rate 0.01 --no-guard --stream test --batch-size 8 --output tent.jsonl --save out/tent --save-each --save-batches 2
expect evaluated "$program" eval out/tent --data test --json
expect unchanged "$program" eval net --data test --json
[ "$(sed -n 's/.*"loss": *\([0-9.]*\).*/\1/p' evaluated.out)" != "$(sed -n 's/.*"loss": *\([0-9.]*\).*/\1/p' unchanged.out)" ] || fail "what was saved is the source: $(cat evaluated.out)"
grep -q '"method": *"tent"' out/tent/adapted.json || fail "how it came about: $(cat out/tent/adapted.json)"
bad 1 "has what an earlier run saved" adapt net --stream test --save out/tent
bad 1 "out/tent: is out/tent, which is read" adapt out/tent --stream test --save out/tent --overwrite
expect again "$program" adapt net --method cotta --method-option views=1 --stream test --batch-size 16 --save out/tent --overwrite
expect adapter "$program" adapt net --method tent --adapter-kind lora --target-modules convolution --no-guard --stream test --batch-size 8 --save out/adapter
expect evaluated "$program" eval net --adapter out/adapter --data test --json
bad 1 "out/adapter: found adapter_config.json, which an earlier run saved, and a model is trained" adapt net --method tent --stream test --save out/adapter --overwrite
bad 1 "out/tent: found config.json, which an earlier run saved, and an adapter is trained" adapt net --method tent --adapter-kind lora --target-modules convolution --stream test --save out/tent --overwrite
cp -r out/adapter out/foreign
rm out/foreign/adapted.json
bad 1 "out/foreign: found an adapter in it" adapt net --method tent --adapter-kind lora --target-modules convolution --stream test --save out/foreign --overwrite
bad 1 "trains nothing" adapt net --method lame --stream test --save out/never
bad 1 "forgets after each input" adapt net --method memo --stream test --save out/never
bad 1 "an adapter has no place" adapt net --method rotta --adapter-kind lora --target-modules convolution --stream test --save out/never
bad 2 "--save-each is of --save" adapt net --stream test --save-each

# ---- what a run is, and what it is not ----
expect few "$program" adapt net --method tent --stream test --batch-size 8 --max-batches 1 --output own.jsonl
bad 1 '"least_rows":16,"steps":1,' adapt net --method tent --stream test --batch-size 8 --output own.jsonl --resume --statistics batch
bad 1 '"batch_size":4,' adapt net --method tent --stream test --batch-size 4 --output own.jsonl --resume
mkfifo said.fifo
for out in said.fifo /dev/null; do
    bad 1 "is a pipe or a device" adapt net --stream test --output $out
done

# ---- what it will need ----
ls -A . out >before.list
for from in test - watch:inbox tcp:127.0.0.1:$port; do
    expect plan "$program" adapt net --method tent --stream "$from" --batch-size 8 --dry-run --json --output plan.jsonl --save out/plan
    grep -q '"operations_per_batch":[1-9].*"peak":[1-9].*"path":"plan.jsonl.state".*"path":"out/plan/model.safetensors"' plan.out || fail "a plan of $from: $(cat plan.out)"
done
rm -f plan.out plan.err
ls -A . out | cmp -s - before.list || fail "a dry run left something: $(ls -A . out)"
bad 1 "tent.jsonl: is there already" adapt net --stream test --output tent.jsonl --dry-run
expect plan "$program" adapt net --method cotta --method-option views=4,threshold=1 --stream test --batch-size 32 --dry-run --json --threads 1
expect run "$program" adapt net --method cotta --method-option views=4,threshold=1 --stream test --batch-size 32 --json --threads 1
peak=$(sed -n 's/.*"peak":\([0-9]*\).*/\1/p' plan.out)
measured=$(sed -n 's/.*"peak_memory":\([0-9]*\).*/\1/p' run.out)
awk -v a="$peak" -v b="$measured" 'BEGIN { exit !(a > 0.85 * b && a < 1.15 * b) }' || fail "predicted a peak of $peak bytes, measured $measured"

# ---- texts ----
mkdir words
cp "$reference/encoders/bert_rows/config.json" "$reference/encoders/bert_rows/model.safetensors" "$reference/tasks/tokenizer.json" words
texts="$reference/adapt/texts.jsonl"
{
    echo sentence,label
    i=0
    for text in "the knife is not sharp" tree "anna saw rome" "slow and sharp" "the stem grow" "not not not" branch "rome in the tree is slow"; do
        echo "$text,$((i++ % 4))"
    done
} >rows.csv
for method in source tent eata sar rdumb lame bn; do
    expect $method "$program" adapt words --method $method --stream "$texts",rows.csv --batch-size 4 --output $method.words --json
    grep -q '"items":20,"unread":0,"labelled":16,' $method.out || fail "$method of texts: $(cat $method.out)"
done
grep -q '"source":"rows.csv:2","shift":"rows.csv","label":"LABEL_' source.words || fail "records of texts: $(cat source.words)"
expect judged "$program" eval words --data rows.csv --predictions judged.jsonl
expect answered "$program" adapt words --method source --stream rows.csv --batch-size 3 --no-shuffle --output answered.jsonl
sed 's/.*"source": "\([^"]*\)", "label": "\([^"]*\)".*"\2": \([0-9.]*\).*/\1 \2 \3/' judged.jsonl >judged.list
sed -n 's/.*"source":"\([^"]*\)".*"label":"\([^"]*\)","probability":\([0-9.]*\),.*/\1 \2 \3/p' answered.jsonl >answered.list
paste -d ' ' judged.list answered.list | awk '$1 != $4 || $2 != $5 || $3 - $6 > 1e-5 || $6 - $3 > 1e-5 || NF != 6 { exit 1 } END { exit NR != 8 }' ||
    fail "texts as eval sees them: $(paste judged.list answered.list)"
expect source_texts "$program" adapt words --method eata --source-images "$texts" --source-count 8 --stream rows.csv --output fisher.words
head -n 1 fisher.words | grep -q '"source_images":{.*"texts":12,"max_texts":8,' || fail "source texts in the head: $(head -n 1 fisher.words)"
for method in roid:augment=false cotta:views=0; do
    expect ${method%:*} "$program" adapt words --method ${method%:*} --method-option ${method#*:} --stream rows.csv --batch-size 4 --json
done
{
    printf 'the tree grow slow\n{"text": "anna saw rome", "text_pair": "not slow", "label": 2, "id": "a"}\n'
    printf '{"file": "x"}\n{"text": ""}\n\nrome\377\nknife\n'
} | "$program" adapt words --method tent --stream - --batch-size 4 --output lines.words --save out/words --json >lines.out 2>lines.err || fail "lines of texts: $(cat lines.err)"
grep -q '"items":6,"unread":[123],"labelled":1,' lines.out || fail "lines of texts: $(cat lines.out lines.words)"
grep -q '"source":"anna saw rome","id":"a","label":"LABEL_[0-3]","probability":[0-9.e-]*,"expected":"LABEL_2"' lines.words || fail "a line of a text: $(cat lines.words)"
expect evaluated "$program" eval out/words --data rows.csv --json
bad 1 "memo: needs several views of an image, and words takes texts" adapt words --method memo --stream rows.csv
bad 1 "corruptions are of images" adapt words --stream rows.csv --corruptions fog
expect plan "$program" adapt words --method tent --stream rows.csv --dry-run --json

cd / && rm -rf "$work"
[ $failures = 0 ] && echo "all passed"
exit $failures
