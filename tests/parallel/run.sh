#!/bin/sh
# Training in several processes: the loss curve of one process, errors that end all of them, a killed process and what resumes.
#
#     run.sh PROGRAM REFERENCE_DIRECTORY TEMPORARY_DIRECTORY
#
# Exit status 77 (skipped) without mpirun, or when the program was built without MPI.
set -u
program=$1
case $program in /*) ;; *) program=$(pwd)/$program ;; esac
reference=$(cd "$2" && pwd)
work=$3/parallel.$$
mkdir -p "$work" && cd "$work" || exit 1
command -v mpirun >/dev/null || exit 77

# Open MPI refuses root and more processes than cores unless it is told; a second is too short where everything else runs as well.
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_rmaps_base_oversubscribe=1 OMPI_MCA_hwloc_base_binding_policy=none
export OMPI_MCA_btl_base_warn_component_unused=0 OMPI_MCA_odls_base_sigkill_timeout=10 OMP_NUM_THREADS=1
failures=0
fail() {
    failures=$((failures + 1))
    echo "FAIL: $*"
}

# ---- a model that knows printable ASCII, and a text ----
awk 'BEGIN {
    printf "{\"version\": \"1.0\", \"added_tokens\": [], \"normalizer\": null, \"pre_tokenizer\": {\"type\": \"ByteLevel\","
    printf " \"add_prefix_space\": false, \"trim_offsets\": true, \"use_regex\": true}, \"post_processor\": null, \"decoder\":"
    printf " {\"type\": \"ByteLevel\", \"add_prefix_space\": true, \"trim_offsets\": true, \"use_regex\": true}, \"model\": {\"type\": \"BPE\","
    printf " \"dropout\": null, \"unk_token\": null, \"fuse_unk\": false, \"byte_fallback\": false, \"ignore_merges\": false, \"vocab\": {"
    for (c = 33; c < 127; c++) {
        text = sprintf("%c", c)
        if (text == "\"" || text == "\\") text = "\\" text
        printf "\"%s\": %d, ", text, c - 33
    }
    printf "\"\\u0120\": 94, \"\\u010a\": 95}, \"merges\": []}}\n"
}' >tokenizer.json
awk 'BEGIN { for (i = 0; i < 400; i++) printf "The %d gardener cuts branch %d, and %d apples fall on row %d.\n", i * 7 % 31, i, i * i % 97, i % 13 }' >text.txt
mkdir model
cp "$reference/models/llama2/config.json" "$reference/models/llama2/model.safetensors" tokenizer.json model

options="--data text.txt --kind lora --rank 4 --target-modules all-linear --dtype f32 --batch-size 6 --gradient-accumulation-steps 2
    --sequence-length 48 --learning-rate 5e-3 --validation-split 0.1 --eval-steps 10 --seed 3"

train() { # PROCESSES OUTPUT OPTION...
    processes=$1
    output=$2
    shift 2
    # shellcheck disable=SC2086
    mpirun -np "$processes" "$program" train model $options --output "$output" "$@" >"$output.out" 2>"$output.err" </dev/null
}

# same_curve NAME A B: the losses of two logs, step by step, are the same to 1e-5.
curve() {
    sed 's/.*"step":\([0-9]*\),.*"loss":\([-0-9.e]*\),"learning_rate.*/\1 \2 &/; s/{.*"eval_loss":\([-0-9.e]*\).*/\1/; s/{.*//' "$1/log.jsonl"
}
same_curve() {
    curve "$2" >a.curve
    curve "$3" >b.curve
    [ -s a.curve ] || fail "$1: $2 has no log"
    paste a.curve b.curve | awk -v name="$1" '
        function far(x, y) { return x - y > 1e-5 || y - x > 1e-5 }
        { half = NF / 2; if (NF % 2 || $1 != $(half + 1) || far($2, $(half + 2)) || (half > 2 && far($3, $(half + 3)))) { print "FAIL: " name ": line " NR ": " $0; bad = 1 } }
        END { exit bad }' || failures=$((failures + 1))
}

# ---- one process and several ----
# shellcheck disable=SC2086
"$program" train model $options --output one --steps 30 >one.out 2>&1 || fail "one process: $(cat one.out)"
train 2 two --steps 30
status=$?
grep -q "knows no MPI" two.err && exit 77
[ $status = 0 ] || fail "two processes: $(cat two.err)"
train 3 three --steps 30 || fail "three processes: $(cat three.err)"
[ "$(wc -l <one/log.jsonl)" = 30 ] || fail "one: expected 30 lines in the log"
same_curve "two processes" one two
same_curve "three processes" one three
train 2 again --steps 30 || fail "two processes again: $(cat again.err)"
cmp -s two/adapter_model.safetensors again/adapter_model.safetensors || fail "two runs of two processes differ"
[ "$(grep -c "^peak memory" two.out)" = 1 ] || fail "expected one summary: $(cat two.out)"

# ---- what ends all of them with one message ----
ends() { # TEXT: in two.err of the last run, once
    [ "$(grep -c "^cambium train: " bad.err)" = 1 ] || fail "expected one message: $(cat bad.err)"
    grep -qF -e "$1" bad.err || fail "expected \"$1\" in: $(cat bad.err)"
    [ -e bad ] && fail "left $(ls -R bad)" && rm -rf bad
}
train 2 bad --data nothing.txt --steps 4 && fail "a missing file was no error"
ends "nothing.txt"
train 8 bad --steps 4 && fail "more processes than rows were no error"
ends "found 6 rows for 8 processes"
cat >other.sh <<END
#!/bin/sh
[ "\$OMPI_COMM_WORLD_RANK" = 1 ] && set -- "\$@" --learning-rate 1e-4
exec "$program" "\$@"
END
chmod +x other.sh
# shellcheck disable=SC2086
mpirun -np 2 ./other.sh train model $options --output bad --steps 4 >bad.out 2>bad.err </dev/null && fail "other options were no error"
ends "found learning rate 0.0001; expected learning rate 0.005"
sed -i 's/--learning-rate 1e-4/--data other.txt/' other.sh
cp text.txt other.txt
echo "More." >>other.txt
# shellcheck disable=SC2086
mpirun -np 2 ./other.sh train model $options --output bad --steps 4 >bad.out 2>bad.err </dev/null && fail "other data were no error"
ends "expected"

# ---- one process is killed ----
# shellcheck disable=SC2086
"$program" train model $options --output whole --steps 300 >whole.out 2>&1 || fail "one process: $(cat whole.out)"
killed() { # RANK
    rm -rf stopped
    # shellcheck disable=SC2086
    mpirun -np 3 "$program" train model $options --output stopped --steps 300 >stopped.out 2>stopped.err </dev/null &
    starter=$!
    for _ in $(seq 600); do
        [ -f stopped/log.jsonl ] && [ "$(wc -l <stopped/log.jsonl)" -ge 20 ] && break
        sleep 0.05
    done
    for process in $(pgrep -P $starter); do
        tr '\0' '\n' <"/proc/$process/environ" 2>/dev/null | grep -qx "OMPI_COMM_WORLD_RANK=$1" && kill -9 "$process"
    done
    wait $starter && fail "rank $1 killed: mpirun said that all was well"
    [ -f stopped/checkpoint.safetensors ] || fail "rank $1 killed: no checkpoint: $(cat stopped.err)"
    [ -f stopped/adapter_model.safetensors ] && [ "$(wc -l <stopped/log.jsonl)" = 300 ] && fail "rank $1 killed: too late for a test"
    for processes in 1 2 3; do
        rm -rf resumed
        cp -r stopped resumed
        train "$processes" resumed --steps 300 --resume || fail "rank $1 killed, $processes processes: $(cat resumed.err)"
        same_curve "rank $1 killed, resumed by $processes" whole resumed
    done
}
killed 1
killed 0

cd / && [ $failures = 0 ] && rm -rf "$work"
[ $failures = 0 ]
