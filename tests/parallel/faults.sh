#!/bin/sh
# Several processes when something goes wrong in one of them: a loss that is no number, a full disk, a model that is cut off, a process
# that hangs, and any call that fails.  All end, with one message, and the checkpoint resumes with any number of processes.
#
#     faults.sh PROGRAM TEST_FAULTS REFERENCE_DIRECTORY TEMPORARY_DIRECTORY
#
# The small disk is a tmpfs, where one may be mounted (as root, or in a user namespace of its own); elsewhere that part is left out.  Of the
# calls that fail a sample has its turn, with CAMBIUM_FAULTS=all every one.
#
# Exit status 77 (skipped) without mpirun, or when the program was built without MPI.
if [ -z "${CAMBIUM_DISK:-}" ]; then
    for enter in "unshare -m" "unshare -rm"; do
        if $enter sh -c 'mount -t tmpfs -o size=64k none /tmp' 2>/dev/null; then
            CAMBIUM_DISK=tmpfs exec $enter sh "$0" "$@"
        fi
    done
    CAMBIUM_DISK=none
fi
set -u
program=$1 checker=$(realpath "$2") reference=$3 scratch=$4 name=parallel_faults
. "$(dirname "$0")/setting.sh"
train 2 dry --dry-run --steps 1
grep -q "knows no MPI" dry.err && exit 77

# ---- a loss that is no number ----
# The embedding of "~" is none, and one line has it, which is one process's.
cp -r model nan
header=$(od -An -tu8 -N8 nan/model.safetensors | tr -d ' ')
begin=$(head -c $((8 + header)) nan/model.safetensors | sed 's/.*"model.embed_tokens.weight":{[^}]*"data_offsets":\[\([0-9]*\),.*/\1/')
printf '\000\000\300\177' | dd of=nan/model.safetensors bs=1 conv=notrunc seek=$((8 + header + begin + 93 * 48 * 4)) 2>/dev/null
sed '200s/apples/~pples/' text.txt >some.txt
for processes in 2 3; do
    rm -rf bad
    mpirun -np $processes "$program" train nan --data some.txt --rank 4 --target-modules all-linear --dtype f32 --batch-size 6 --sequence-length 48 \
        --steps 90 --save-steps 20 --seed 3 --output bad >bad.out 2>bad.err </dev/null && fail "$processes processes, NaN: was no error"
    says bad "step [0-9]*: the loss is nan: .*embed_tokens.* some.txt:.* the last checkpoint stands"
    "$checker" files bad || fail "$processes processes, NaN: left this"
    cp bad.err first.err
    mpirun -np 3 "$program" train nan --data some.txt --rank 4 --target-modules all-linear --dtype f32 --batch-size 6 --sequence-length 48 \
        --steps 90 --save-steps 20 --seed 3 --output bad --resume >bad.out 2>bad.err </dev/null && fail "NaN: was no error when resumed"
    [ "$(grep '^cambium' first.err)" = "$(grep '^cambium' bad.err)" ] || fail "NaN: $(cat first.err), resumed: $(cat bad.err)"
done

# ---- a model that is cut off ----
# shellcheck disable=SC2086
"$program" train model $options --output whole --steps 120 >whole.out 2>&1 || fail "one process: $(cat whole.out)"
for rank in 0 2; do
    rm -rf own
    cp -r model own
    apart $rank 'shift 2; set -- train own "$@"'
    begin cut --steps 120 --save-steps 4
    truncate -s 6000 own/model.safetensors
    wait $starter && fail "cut off in process $rank: mpirun said that all was well"
    says cut "own/model.safetensors: \(a part of it can no longer be read\|changed while in use\)"
    [ $rank = 0 ] || says cut "process $rank: "
    "$checker" files cut || fail "cut off in process $rank: left this"
    together
    resumes "cut off in process $rank" cut --steps 120 --save-steps 4
done

# ---- a process that hangs: one says stop ----
# mpirun wakes all before it tells them to stop, so this one is put back to sleep until it is killed.
begin hung --steps 120
hanging=$(process_of 1)
while kill -STOP "$hanging" 2>/dev/null; do sleep 0.002; done &
sleep 0.5
kill $starter
wait $starter && fail "a process hangs: mpirun said that all was well"
says hung "step [0-9]* of 120.* --resume goes on from there"
resumes "a process hangs" hung --steps 120

# ---- no room ----
# A run that would not fit does not begin, so it is the number of files that runs out: after the first checkpoint there is no second file
# to write the next one to.
if [ "$CAMBIUM_DISK" = tmpfs ]; then
    mkdir -p disk
    mount -t tmpfs -o size=64m,nr_inodes=5 none disk
    train 2 full --steps 120 --save-steps 4 --output disk/run && fail "a full disk was no error"
    says full "No space left"
    "$checker" files disk/run || fail "a full disk: left this"
    cp -r disk/run full
    umount disk
    resumes "a full disk" full --steps 120 --save-steps 4
fi

# ---- any call that fails, and a process that is killed at any call on a file ----
# mpirun sleeps this long (s) before it says stop, and again before it kills, though all may be gone.
export OMPI_MCA_odls_base_sigkill_timeout=2
# run RANK KINDS ACTION N: a short run of two processes with this fault in one of them (test_faults.c)
run() {
    timeout 120 mpirun -np 2 "$checker" parallel "$@" >sweep.out 2>sweep.err </dev/null
}
sweep() { # NAME RANK KINDS ACTION
    what="$1, process $2"
    rm -rf run
    run "$2" "$3" 0 0 || fail "$what: a run without faults: $(cat sweep.err)"
    calls=$(cat sweep.out)
    stride=$(((calls + 2) / 3))
    [ "${CAMBIUM_FAULTS:-}" = all ] && stride=1
    n=1
    while [ "$n" -le "$calls" ]; do
        rm -rf run
        run "$2" "$3" "$4" "$n"
        status=$?
        messages=$(grep -c '^job: ' sweep.err)
        case $status,$1 in
        124,*) fail "$what, call $n: does not end" ;;
        0,*) [ "$messages" = 0 ] || fail "$what, call $n: $(cat sweep.err)" ;;
        *,killed) [ "$messages" -le 1 ] || fail "$what, call $n: expected one message: $(cat sweep.err)" ;;
        *) [ "$messages" = 1 ] || fail "$what, call $n: expected one message: $(cat sweep.err)" ;;
        esac
        # shellcheck disable=SC2086
        [ ! -e run ] || "$checker" files run ${killed:+$killed} || fail "$what, call $n: left this"
        run 9 0 0 0 || fail "$what, call $n: the next try fails: $(cat sweep.err)"
        [ "$("$checker" tree run)" = "$sound" ] || fail "$what, call $n: the next try ends with other bits"
        n=$((n + stride))
    done
    echo "$what: $calls calls"
}
"$checker" prepare .
run 9 0 0 0 || fail "a short run: $(cat sweep.err)"
sound=$("$checker" tree run)
for rank in 0 1; do
    killed=
    sweep memory $rank 0x001 1
    sweep files $rank 0xffe 1
    killed=killed
    sweep killed $rank 0xffe 3
done
leave
