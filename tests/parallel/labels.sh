#!/bin/sh
# Rows with labels in several processes: the loss curve and the metrics of one process, whatever the length of a batch is.
#
#     labels.sh PROGRAM REFERENCE_DIRECTORY TEMPORARY_DIRECTORY
#
# Exit status 77 (skipped) without mpirun, or when the program was built without MPI.
set -u
program=$1 reference=$2 scratch=$3 name=parallel_labels
. "$(dirname "$0")/setting.sh"
awk 'BEGIN { print "text,label"; for (i = 0; i < 90; i++) printf "%.*s,%s\n", 5 + i * 7 % 30, "The gardener cuts the branch, and apples fall", i % 3 ? "many" : "few" }' |
    sed 's/,\(.*\),/ \1,/' >labels.csv
printf 'ab X\nc Y\n\nde X\nf Y\nd Z\n' >words.conll

same() { # NAME OPTION...: one process and three
    which=$1
    shift
    options="--dtype f32 --rank 4 --target-modules all-linear --batch-size 6 --gradient-accumulation-steps 2 --sequence-length 48 --learning-rate 5e-3
        --eval-steps 5 --seed 3 --steps 10 $*"
    # shellcheck disable=SC2086
    "$program" train model $options --output "$which-one" >"$which-one.out" 2>"$which-one.err" || fail "$which, one process: $(cat "$which-one.err")"
    train 3 "$which-three"
    status=$?
    grep -q "knows no MPI" "$which-three.err" && exit 77
    [ $status = 0 ] || fail "$which, three processes: $(cat "$which-three.err")"
    same_curve "$which, three processes" "$which-one" "$which-three"
    for run in one three; do
        sed -n 's/.*"best_loss":[-0-9.e]*,\(.*\)}/\1/p' "$which-$run/log.jsonl" >"$which-$run.metrics"
    done
    [ "$(wc -l <"$which-one.metrics")" = 2 ] || fail "$which: expected the metrics of two validations"
    cmp -s "$which-one.metrics" "$which-three.metrics" || fail "$which: $(cat "$which-three.metrics"), in one process $(cat "$which-one.metrics")"
    cmp -s "$which-one/labels.json" "$which-three/labels.json" || fail "$which: other labels"
}
same rows --task sequence-classification --data labels.csv --validation-split 0.3
same words --task token-classification --data words.conll --validation-data words.conll

# ---- running statistics that move are refused ----
mkdir -p pictures/a pictures/b
for i in 1 2 3 4; do
    for class in a b; do
        awk -v n="$i$class" 'BEGIN { print "P3 8 8 255"; for (k = 0; k < 192; k++) print (k * 37 + length(n) * 11 + (n ~ /b/) * 90) % 256 }' >"pictures/$class/$i.ppm"
    done
done
printf '%s' '{"image_processor_type": "ViTImageProcessor", "size": {"height": 32, "width": 32}}' >processor.json
mpirun -np 2 "$program" pretrain --config "$reference/vision/resnet_basic/config.json" --image-processor processor.json --task image-classification \
    --data pictures --batch-size 4 --steps 2 --output moving >moving.out 2>moving.err </dev/null && fail "running statistics of several processes were no error"
grep -q "its running statistics follow each process's own rows" moving.err || fail "running statistics: $(cat moving.err)"
ls moving/*.safetensors 2>/dev/null && fail "running statistics: something was trained"

leave
