#!/usr/bin/env bash
# A model whose file is cut off, written to, or replaced while a command uses it.  The first two end the command with one line that names
# the file, before anything is made of what it read; a file that was renamed over or removed goes on to be read as it was.
#
#     changed_files.sh PROGRAM TEST_FAULTS TEMPORARY_DIRECTORY
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
program=$(realpath "$1")
checker=$(realpath "$2")
work=$3/changed_files.$$
mkdir -p "$work"
cd "$work"
trap 'cd /; rm -rf "$work"' EXIT
failures=0
fail() {
    failures=$((failures + 1))
    echo "FAIL: $*"
}
head -n 300 "$root/examples/data/king-james.txt" >text.txt
for i in 1 2 3 4 5 6 7 8; do cat text.txt; done >long.txt
"$program" train "$root/models/sprig-5m" --data text.txt --output adapter --steps 1 --batch-size 1 --sequence-length 16 --quiet >/dev/null

cut() { truncate -s 6000 model/model.safetensors; }
cut_end() { truncate -s -100 model/model.safetensors; } # within the last page: no signal
write() { printf x | dd of=model/model.safetensors bs=1 seek=900000 conv=notrunc 2>/dev/null; }
replace() { cp model/model.safetensors new && printf x | dd of=new bs=1 seek=900000 conv=notrunc 2>/dev/null && mv new model/model.safetensors; }
remove() { rm model/model.safetensors; }

# during CHANGE LINES COMMAND...: makes the change when the command has written so many lines or, in generating, characters
during() {
    local change=$1 lines=$2
    shift 2
    rm -rf model pipe
    cp -r "$root/models/sprig-5m" model
    chmod -R u+w model
    mkfifo pipe
    "$program" "$@" >pipe 2>err </dev/null &
    local pid=$!
    exec 3<pipe
    case $1 in
    generate) IFS= read -r -N "$lines" <&3 || true ;;
    *) for ((i = 0; i < lines; i++)); do IFS= read -r <&3 || true; done ;;
    esac
    $change
    cat <&3 >rest
    exec 3<&-
    status=0
    wait "$pid" || status=$?
}
stops() { # stops TEXT
    [ "$status" = 1 ] || fail "$what: exit status $status, expected 1: $(cat err)"
    [ "$(wc -l <err)" = 1 ] || fail "$what: expected one line: $(cat err)"
    grep -q "model/model.safetensors: $1" err || fail "$what: expected \"$1\": $(cat err)"
}

train=(train model --data text.txt --steps 30 --batch-size 2 --sequence-length 64 --save-steps 10 --rank 4 --target-modules all-linear --seed 1 --threads 1 --json)
"$program" train "$root/models/sprig-5m" "${train[@]:2}" --output whole >/dev/null
for change in cut cut_end write; do
    what="train, $change"
    rm -rf out
    during $change 12 "${train[@]}" --output out
    stops 'a part of it can no longer be read\|changed while in use'
    "$checker" files out || fail "$what: left this"
    rm -rf model && cp -r "$root/models/sprig-5m" model
    "$program" "${train[@]}" --output out --resume --quiet >/dev/null || fail "$what: the checkpoint does not resume"
    cmp out/adapter_model.safetensors whole/adapter_model.safetensors || fail "$what: something of the wrong bytes went into the run"
done
for change in replace remove; do
    what="train, $change"
    rm -rf out
    during $change 12 "${train[@]}" --output out
    [ "$status" = 0 ] || fail "$what: exit status $status: $(cat err)"
    cmp out/adapter_model.safetensors whole/adapter_model.safetensors || fail "$what: other bits"
done
for change in cut write; do
    what="generate, $change"
    during $change 4 generate model --prompt "And it came to pass" --max-new-tokens 480 --threads 1
    stops 'a part of it can no longer be read\|changed while in use'
done
used() { # used CHANGE: made while text is generated with a copy of the adapter
    rm -rf used pipe
    cp -r adapter used
    mkfifo pipe
    "$program" generate "$root/models/sprig-5m" --adapter used --prompt "And it came to pass" --max-new-tokens 480 --threads 1 >pipe 2>err &
    local pid=$!
    exec 3<pipe
    IFS= read -r -N 4 <&3 || true
    $1
    cat <&3 >rest
    exec 3<&-
    status=0
    wait "$pid" || status=$?
}
cut_adapter() { truncate -s 6000 used/adapter_model.safetensors; }
remove_adapter() { rm used/adapter_model.safetensors; }
used cut_adapter
what="generate, cut adapter"
[ "$status" = 1 ] || fail "$what: exit status $status, expected 1: $(cat err)"
grep -q "used/adapter_model.safetensors: a part of it can no longer be read\|changed while in use" err || fail "$what: $(cat err)"
used remove_adapter
[ "$status" = 0 ] || fail "generate, removed adapter: exit status $status: $(cat err)"
rm -rf model && cp -r "$root/models/sprig-5m" model && chmod -R u+w model
"$program" eval model --data long.txt --task perplexity --sequence-length 128 --quiet >out.eval 2>err &
pid=$!
sleep 0.5
cut
status=0
wait "$pid" || status=$?
what="eval, cut"
stops 'a part of it can no longer be read\|changed while in use'
[ "$failures" = 0 ] || exit 1
echo "files cut off, written to, replaced and removed while in use: as promised"
