# setting.sh: what the tests of several processes share, for them to source: a directory of its own ($work), a model that knows printable
# ASCII, a text, and ways to start and compare runs.  Wants $program, $reference, $scratch and $name.
case $program in /*) ;; *) program=$(pwd)/$program ;; esac
reference=$(cd "$reference" && pwd)
work=$scratch/$name.$$
mkdir -p "$work" && cd "$work" || exit 1
command -v mpirun >/dev/null || exit 77

# Open MPI refuses root and more processes than cores unless it is told; a second is too short where everything else runs as well.
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_rmaps_base_oversubscribe=1 OMPI_MCA_hwloc_base_binding_policy=none
export OMPI_MCA_btl_base_warn_component_unused=0 OMPI_MCA_odls_base_sigkill_timeout=3 OMP_NUM_THREADS=1
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

# apart RANK CODE: from now on process RANK of several does this before it becomes the program; together: no longer
apart() {
    printf '#!/bin/sh\nif [ "$OMPI_COMM_WORLD_RANK" = %s ]; then\n%s\nfi\nexec "%s" "$@"\n' "$1" "$2" "$program" >apart
    chmod +x apart
    each=./apart
}
together() {
    each=$program
}
together

train() { # PROCESSES OUTPUT OPTION...
    processes=$1
    output=$2
    shift 2
    # shellcheck disable=SC2086
    mpirun -np "$processes" "$each" train model $options --output "$output" "$@" >"$output.out" 2>"$output.err" </dev/null
}

# begin OUTPUT OPTION...: a run of three processes ($starter is mpirun), when it is in the middle
begin() {
    output=$1
    shift
    rm -rf "$output"
    # shellcheck disable=SC2086
    mpirun -np 3 "$each" train model $options --output "$output" "$@" >"$output.out" 2>"$output.err" </dev/null &
    starter=$!
    for _ in $(seq 1200); do
        [ -f "$output/log.jsonl" ] && [ "$(wc -l <"$output/log.jsonl")" -ge 20 ] && break
        sleep 0.05
    done
}
process_of() { # RANK of the run that was begun
    for process in $(pgrep -P $starter); do
        tr '\0' '\n' <"/proc/$process/environ" 2>/dev/null | grep -qx "OMPI_COMM_WORLD_RANK=$1" && echo "$process"
    done
}

says() { # OUTPUT TEXT: the run ended with one message, this one
    [ "$(grep -c "^cambium train: " "$1.err")" = 1 ] || fail "expected one message: $(cat "$1.err")"
    grep -q -e "^cambium train: .*$2" "$1.err" || fail "expected \"$2\" in: $(cat "$1.err")"
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

# resumes NAME OUTPUT OPTION...: by any number of processes, along the curve of the run in whole/
resumes() {
    what=$1
    from=$2
    shift 2
    [ -f "$from/checkpoint.safetensors" ] || fail "$what: no checkpoint: $(cat "$from.err")"
    for processes in 1 2 3; do
        rm -rf resumed
        cp -r "$from" resumed
        train "$processes" resumed --resume "$@" || fail "$what, $processes processes: $(cat resumed.err)"
        same_curve "$what, resumed by $processes" whole resumed
    done
}

leave() {
    cd / && [ $failures = 0 ] && rm -rf "$work"
    [ $failures = 0 ]
    exit
}
