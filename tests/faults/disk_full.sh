#!/usr/bin/env bash
# A disk that fills up: every command that writes fails with one line and leaves no half file, the checkpoint that was there still
# resumes once there is room, and the end has the bits of a run that always had room.
#
#     disk_full.sh PROGRAM TEST_FAULTS TEMPORARY_DIRECTORY
#
# The disk is a small tmpfs where one may be mounted (as root, or in a user namespace of its own); elsewhere files that may not grow
# (RLIMIT_FSIZE) stand for it.
set -euo pipefail
if [ -z "${CAMBIUM_DISK:-}" ]; then
    for enter in "unshare -m" "unshare -rm"; do
        if $enter sh -c 'mount -t tmpfs -o size=64k none /tmp' 2>/dev/null; then
            CAMBIUM_DISK=tmpfs exec $enter bash "$0" "$@"
        fi
    done
    export CAMBIUM_DISK=limit
fi
root=$(cd "$(dirname "$0")/../.." && pwd)
program=$(realpath "$1")
checker=$(realpath "$2")
work=$3/disk_full.$$
mkdir -p "$work/disk"
cd "$work"
leave() {
    cd /
    umount "$work/disk" 2>/dev/null || true
    rm -rf "$work"
}
trap leave EXIT
failures=0
fail() {
    failures=$((failures + 1))
    echo "FAIL: $*"
}
# room KIB: so much may be written to disk/
room() {
    case $CAMBIUM_DISK in
    tmpfs)
        umount disk 2>/dev/null || true
        mount -t tmpfs -o "size=$1k" none disk
        ;;
    limit)
        rm -rf disk
        mkdir disk
        kib=$1
        ;;
    esac
}
files() { # so many files and directories may be in disk/, itself among them
    umount disk 2>/dev/null || true
    mount -t tmpfs -o "size=64m,nr_inodes=$1" none disk
}
more_room() {
    case $CAMBIUM_DISK in
    tmpfs) mount -o remount,size=64m,nr_inodes=1000 disk ;;
    limit) kib=unlimited ;;
    esac
}
limited() { # without a tmpfs the limit is on each file alone
    [ "$CAMBIUM_DISK" = tmpfs ] || ulimit -f "$kib"
    exec "$@"
}
# full NAME COMMAND...: the program must fail with one line about room
full() {
    local name=$1 status=0
    shift
    (limited "$program" "$@" --quiet) >out 2>err </dev/null || status=$?
    [ "$status" = 1 ] || fail "$name: exit status $status, expected 1: $(cat err)"
    [ "$(wc -l <err)" = 1 ] || fail "$name: expected one line: $(cat err)"
    grep -qE 'No space left|too large|are free' err || fail "$name: expected why: $(cat err)"
    "$checker" files disk || fail "$name: left this"
}

base=$root/models/sprig-5m
head -n 150 "$root/examples/data/king-james.txt" >text.txt
cat >config.json <<'END'
{"model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": 4096, "hidden_size": 64, "num_hidden_layers": 2,
 "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 96, "max_position_embeddings": 128, "rms_norm_eps": 1e-5,
 "tie_word_embeddings": true, "hidden_act": "silu", "initializer_range": 0.05}
END
run=(--data text.txt --steps 6 --batch-size 2 --sequence-length 32 --save-steps 2 --seed 7 --threads 1)
train=(train "$base" --rank 4 --target-modules all-linear "${run[@]}")
"$program" "${train[@]}" --output whole --quiet >/dev/null
checkpoint=$(($(stat -c %s whole/checkpoint.safetensors) / 1024)) adapter=$(($(stat -c %s whole/adapter_model.safetensors) / 1024))

# A run that would not fit does not begin.
room $((checkpoint / 2))
full "the first checkpoint" "${train[@]}" --output disk/run
[ ! -e disk/run/checkpoint.safetensors ] || fail "a checkpoint without room"
if [ "$CAMBIUM_DISK" = tmpfs ]; then
    [ ! -e disk/run ] || fail "a run without room has begun"
    room $((checkpoint * 3 / 2))
    full "the second checkpoint, which is written beside the first" "${train[@]}" --output disk/run
    [ ! -e disk/run ] || fail "a run without room for a second checkpoint has begun"
    # A disk that fills up on the way: bytes are free, but no file can be made any more beside those of the first checkpoint.
    few=(/disk /run log.jsonl events checkpoint)
    files ${#few[@]}
    full "the second checkpoint" "${train[@]}" --output disk/run
    [ -s disk/run/checkpoint.safetensors ] || fail "the first checkpoint is gone"
    full "resuming without room" "${train[@]}" --output disk/run --resume
    more_room
    "$program" "${train[@]}" --output disk/run --resume --quiet >/dev/null
    cmp disk/run/adapter_model.safetensors whole/adapter_model.safetensors || fail "resumed: other bits"
    files ${#few[@]}
    full "the adapter" "${train[@]}" --output disk/run --save-steps 0
    [ -s disk/run/checkpoint.safetensors ] || fail "the checkpoint is gone"
    more_room
    "$program" "${train[@]}" --output disk/run --save-steps 0 --resume --quiet >/dev/null
    cmp disk/run/adapter_model.safetensors whole/adapter_model.safetensors || fail "resumed after the last step: other bits"
fi

room 64
full pretrain pretrain --config config.json --tokenizer "$base" "${run[@]}" --output disk/model
full merge merge "$base" --adapter whole --output disk/merged
[ "$CAMBIUM_DISK" = limit ] || full "merge that does not look" merge "$base" --adapter whole --output disk/merged --no-verify
# the model fits and its tokenizer does not; a limit on each file: not the model either
[ "$CAMBIUM_DISK" = tmpfs ] && sizes="8 24" || sizes="8 16"
for size in $sizes; do
    room $size
    full "convert into $size KiB" convert "$root/tests/reference/formats/llama2c.bin" --tokenizer "$root/tests/reference/formats/llama2c_tokenizer.bin" \
        --output disk/converted
done
room 12
full "tokenizer train" tokenizer train --data text.txt --vocab-size 1000 --output disk/tokenizer.json
[ -z "$(ls -A disk)" ] || fail "left $(ls -A disk)"
[ "$failures" = 0 ] || exit 1
echo "disk full ($CAMBIUM_DISK): as promised"
