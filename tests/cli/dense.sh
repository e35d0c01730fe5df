#!/bin/sh
# Segmentation from end to end: a U-Net from its configuration learns made-up pictures with label maps, an adapter goes on with it, is resumed with
# the same bits, evaluated, merged and writes maps; and what is wrong with bad input is said.
#
#     dense.sh PROGRAM REFERENCE_DIRECTORY TEMPORARY_DIRECTORY
set -u
program=$1
reference=$2
work=$3/dense.$$
. "$(dirname "$0")/checks.sh"
mkdir -p "$work" || exit 1
case $program in /*) ;; *) program=$(pwd)/$program ;; esac
reference=$(cd "$reference" && pwd)
root=$(cd "$(dirname "$0")/../.." && pwd)
cd "$work" || exit 1

# ---- pictures: a bright rectangle on noise; its map has 7 there, 3 elsewhere, and 9, which does not count, in the first column ----
pictures() { # DIRECTORY SEED
    mkdir -p "$1/images" "$1/masks"
    awk -v directory="$1" -v n="$2" 'function next_number() { n = (n * 1103515245 + 12345) % 2147483648; return int(n / 65536) }
        BEGIN {
        for (i = 0; i < 10; i++) {
            image = directory "/images/" i ".ppm"
            map = directory "/masks/" i ".pgm"
            print "P3 18 14 255" > image
            print "P2 18 14 255" > map
            left = next_number() % 10; top = next_number() % 8
            for (y = 0; y < 14; y++) {
                line = ""; labels = ""
                for (x = 0; x < 18; x++) {
                    inside = x >= left && x < left + 7 && y >= top && y < top + 6
                    for (k = 0; k < 3; k++)
                        line = line " " int((inside ? 150 : 60) + next_number() % 50)
                    labels = labels " " (x == 0 ? 9 : inside ? 7 : 3)
                }
                print line > image
                print labels > map
            }
            close(image); close(map)
        }
    }'
}
pictures train 1
pictures test 777
mkdir unet
printf '%s' '{"model_type": "unet", "architectures": ["UNetForSemanticSegmentation"], "hidden_sizes": [8, 12, 16]}' >unet/config.json
printf '%s' '{"image_processor_type": "ViTImageProcessor", "size": {"height": 12, "width": 16}, "image_mean": [0.4, 0.4, 0.4], "image_std": [0.2, 0.2, 0.2]}' >unet/preprocessor_config.json
numbers="--label-values 3,7 --ignore-index 9"

# ---- a network from its configuration ----
# shellcheck disable=SC2086
{
    whole="--config unet/config.json --task semantic-segmentation --labels ground,box --data train --validation-data test $numbers --learning-rate 0.01
        --batch-size 5 --steps 60 --eval-steps 20 --horizontal-flip 0.5 --vertical-flip 0.5 --crop-padding 2 --dice-weight 0.3 --seed 1"
    expect plan "$program" pretrain $whole --output whole --dry-run
    [ -e whole ] && fail "a dry run left $(ls whole)"
    expect whole "$program" pretrain $whole --output whole --json --quiet
    over whole.out validation_mean_iou 0.8
    grep -q '"id2label"' whole/config.json || fail "labels are not stored: $(cat whole/config.json)"
    expect eval "$program" eval whole --data test $numbers --json --predictions maps --dtype f32
    over eval.out mean_iou 0.8
    over eval.out pixel_accuracy 0.9
    over eval.out dice 0.85
    grep -q '"iou":{"ground":0\.9' eval.out || fail "no iou of each label: $(cat eval.out)"
    grep -q '"label_dice":{"ground":0\.9' eval.out || fail "no dice of each label: $(cat eval.out)"
    [ "$(ls maps | wc -l)" = 10 ] || fail "expected 10 maps: $(ls maps)"
    expect again "$program" eval whole --data test $numbers --json --dtype f32 --batch-size 3 --task semantic-segmentation
    sed 's/"loss".*"mean_iou/"mean_iou/; s/"seconds".*//' eval.out >a
    sed 's/"loss".*"mean_iou/"mean_iou/; s/"seconds".*//' again.out >b
    cmp -s a b || fail "the size of batches changes what is measured: $(cat a b)"
    # what it said is right by its own word: 3 and 7 in the size of the images
    expect own "$program" eval whole --data test/images --label-maps maps --label-values 3,7 --json --dtype f32
    over own.out pixel_accuracy 0.9999
}

# ---- another domain without maps: an adapter, whose strong view leaves places where they are; the options of maps are those of the prior's ----
# shellcheck disable=SC2086
{
    pool="--target test --steps 3 --batch-size 2 --seed 1"
    expect adami "$program" adapt pool whole $pool --method adami --prior-maps train $numbers --test-data test --target-modules convolution --rank 2 --output adami --json
    grep -q '"ratio":' adami/log.jsonl || fail "no term of its own: $(cat adami/log.jsonl)"
    expect taught "$program" adapt pool whole --source train $numbers $pool --method mean-teacher --trained all --output taught
    expect planned "$program" adapt pool whole $pool --method adaent --prior 0.8,0.2 --trained all --output never --dry-run
    expect known "$program" eval whole --adapter adami --data test $numbers --json
    bad 1 "prior: found 3 numbers, expected the shares of 2 labels" adapt pool whole $pool --method adami --prior 0.8,0.1,0.1 --output never
    bad 2 "expected --prior" adapt pool whole $pool --method adami --output never
    bad 2 "adversary is of images or texts" adapt pool whole --source train $numbers $pool --method dann --output never
    bad 1 "true_size_maps: found no map for" adapt pool whole $pool --method adami --true-size-maps train/masks/1.pgm $numbers --output never
    bad 1 "found 9 at column 0 of row 0" adapt pool whole $pool --method adami --prior-maps train --label-values 3,7 --output never
}

# ---- an adapter, resumed with the same bits ----
{
    awk 'BEGIN { print "image,annotation"; for (i = 0; i < 10; i++) print "train/images/" i ".ppm,train/masks/" i ".pgm" }' >table.csv
    long="--data table.csv --image-column image --label-column annotation --validation-split 0.2 --rank 2 --learning-rate 0.005 --batch-size 4 --steps 20
        --save-steps 5 --seed 1 --quiet --random-resized-crop --crop-scale-min 0.5 --jitter-brightness 0.2"
    # shellcheck disable=SC2086
    {
        expect straight "$program" train whole $long $numbers --output straight --json
        expect threads "$program" train whole $long $numbers --output threads --loader-threads 0
        cmp -s straight/adapter_model.safetensors threads/adapter_model.safetensors || fail "the number of loader threads changes bits"
        "$program" train whole $long $numbers --output killed >killed.out 2>&1 &
        child=$!
        tries=0
        while [ ! -f killed/checkpoint.safetensors ] && [ $tries -lt 600 ]; do
            sleep 0.05
            tries=$((tries + 1))
        done
        kill -INT $child
        wait $child
        expect resumed "$program" train whole $long $numbers --output killed --resume
        cmp -s straight/adapter_model.safetensors killed/adapter_model.safetensors || fail "a resumed run ends with other bits"
        bad 1 "the checkpoint is of another run" train whole $long $numbers --output killed --resume --dice-weight 0.5
    }
    grep -q '"task": "semantic-segmentation"' straight/labels.json || fail "the task was not stored"
    # shellcheck disable=SC2086
    {
        expect adapted "$program" eval whole --adapter straight --data test $numbers --json --dtype f32
        expect merge "$program" merge whole --adapter straight --output merged
        expect merged "$program" eval merged --data test $numbers --json --dtype f32
    }
    sed 's/.*"mean_iou": *\([0-9.]*\).*/\1/' adapted.out >a
    sed 's/.*"mean_iou": *\([0-9.]*\).*/\1/' merged.out >b
    awk 'NR == FNR { x = $1; next } { exit !(x - $1 < 1e-3 && $1 - x < 1e-3) }' a b || fail "merging changes what is measured: $(cat a b)"
}

# ---- a head on another network, with as many labels as the data show ----
mkdir vit
cp "$reference/vision/vit/config.json" "$reference/vision/vit/model.safetensors" vit
printf '%s' '{"image_processor_type": "ViTImageProcessor", "size": {"height": 12, "width": 12}, "image_mean": [0.4, 0.4, 0.4], "image_std": [0.2, 0.2, 0.2]}' >vit/preprocessor_config.json
expect head "$program" train vit --task semantic-segmentation --data train --ignore-index 9 --output head --steps 2 --rank 2 --target-modules query --seed 1
grep -q '"num_labels": 8' head/labels.json || fail "expected the labels 0 to 7: $(cat head/labels.json)"

# its file has the head of a classifier, whose name ends as the new one's does
expect headed "$program" merge vit --adapter head --output headed
expect places "$program" eval headed --data test --ignore-index 9 --json --dtype f32
expect places2 "$program" eval vit --adapter head --data test --ignore-index 9 --json --dtype f32
[ "$(sed 's/.*"mean_iou": *\([0-9.]\{6\}\).*/\1/' places.out)" = "$(sed 's/.*"mean_iou": *\([0-9.]\{6\}\).*/\1/' places2.out)" ] ||
    fail "a merged head gives other places: $(cat places.out places2.out)"

# ---- bad input ----
# shellcheck disable=SC2086
{
    bad 1 "test/masks/0.pgm: found 9 at column 0 of row 0, expected a label's number below 2, or --ignore-index" eval whole --data test
    bad 1 "maps: exists and is not an empty directory" eval whole --data test $numbers --predictions maps
    bad 1 "label_maps: found 2, expected one for each of the 1 of the data" eval whole --data test $numbers --label-maps a,b
    bad 1 "found no directories images and annotations" eval whole --data test/images $numbers
    bad 1 "label_values: found \"x\"" eval whole --data test --label-values 3,x
    bad 1 "label_values: found 3 numbers, expected as many as labels (2) at most" eval whole --data test --label-values 3,7,8
    mkdir -p few/images few/labels
    cp test/images/0.ppm few/images
    bad 1 "few/labels: found no label map 0.png or such for few/images/0.ppm" eval whole --data few $numbers
    printf 'P2 2 2 255 3 3 3 3\n' >few/labels/0.pgm
    bad 1 "few/labels/0.pgm: is 2 x 2, expected 18 x 14 as its image few/images/0.ppm" eval whole --data few $numbers
    cp test/images/0.ppm few/labels/0.ppm && rm few/labels/0.pgm
    bad 1 "few/labels/0.ppm" eval whole --data few $numbers
    bad 1 "mixup_alpha: is for images with one label each" train whole --data train $numbers --output never --mixup-alpha 0.2
    bad 1 "dice_weight: is of semantic segmentation" train vit --task image-classification --data test --output never --dice-weight 1
    printf '\n' >no-labels
    bad 1 "no-labels: found no labels" train whole --task semantic-segmentation --data train $numbers --output never --labels-file no-labels
}

# ---- numbers of places ----
balls=$(cd "$root/examples/balls" && pwd)
{
    run="--config $balls/unet/config.json --task depth-estimation --data $balls/train --validation-data $balls/test --map-scale 1000 --batch-size 8
        --learning-rate 0.01 --horizontal-flip 0.5 --seed 1 --quiet"
    # shellcheck disable=SC2086
    {
        expect depth "$program" pretrain $run --output depth --steps 60 --eval-steps 30
        expect measured "$program" eval depth --data "$balls/test" --map-scale 1000 --json --dtype f32 --predictions far
        over measured.out delta1 0.8
        [ "$(ls far | wc -l)" = 8 ] || fail "expected 8 maps: $(ls far)"
        expect own "$program" eval depth --data "$balls/test/images" --label-maps far --map-scale 1000 --json --dtype f32
        over own.out delta1 0.999 # what it said is right by its own word
        expect l1 "$program" pretrain $run --output l1 --steps 2 --dense-loss l1
    }
    grep -q '"dense_loss": "l1"' l1/config.json || fail "the loss was not stored: $(cat l1/config.json)"
    expect normals "$program" train depth --task surface-normals --data "$balls/train" --output normals --rank 4 --steps 40 --batch-size 8 --learning-rate 0.01 \
        --horizontal-flip 0.5 --vertical-flip 0.5 --dense-loss l1 --seed 1
    grep -q '"dense_loss": "l1"' normals/labels.json || fail "the loss was not stored: $(cat normals/labels.json)"
    expect facing "$program" eval depth --adapter normals --data "$balls/test" --json --dtype f32
    over facing.out within_30 0.5
    grep -q '"task":"surface-normals"' facing.out || fail "another task: $(cat facing.out)"
    # a SegFormer of classes gets a decoder, whose norm's statistics are merged too
    mkdir segformer
    cp "$reference/vision/segformer/config.json" "$reference/vision/segformer/model.safetensors" "$balls/unet/preprocessor_config.json" segformer
    expect salient "$program" train segformer --task saliency --data "$balls/train" --output salient --steps 4 --batch-size 4 --seed 1
    expect decoder "$program" merge segformer --adapter salient --output decoder
    expect said "$program" eval segformer --adapter salient --data "$balls/test" --json --dtype f32
    expect said2 "$program" eval decoder --data "$balls/test" --json --dtype f32
    [ "$(sed 's/.*"mae": *\([0-9.]\{6\}\).*/\1/' said.out)" = "$(sed 's/.*"mae": *\([0-9.]\{6\}\).*/\1/' said2.out)" ] ||
        fail "a merged decoder says something else: $(cat said.out said2.out)"
    bad 1 "dense_loss: found cosine, expected silog, l1 or l2" pretrain --config "$balls/unet/config.json" --task depth-estimation --data "$balls/train" --output never --dense-loss cosine
    bad 1 "dense-loss: is of numbers of the places" pretrain --config unet/config.json --task semantic-segmentation --data train --output never --dense-loss l1 --ignore-index 9
    bad 1 "labels: depth-estimation is of numbers" train depth --task depth-estimation --data "$balls/train" --output never --labels a
    bad 1 "dice_weight: is of semantic segmentation" train depth --task depth-estimation --data "$balls/train" --map-scale 1000 --output never --dice-weight 1
    bad 1 "found 0 at column 0 of row 0, expected a depth above 0" eval depth --data "$balls/test" --map-scale 1000 --invalid-values none
    expect far "$program" eval depth --data "$balls/test" --json # in millimetres
    grep -q "their mean is .* --map-scale divides" far.err || fail "no warning of depths in millimetres: $(cat far.err)"
}

cd / && rm -rf "$work"
[ $failures = 0 ] && echo "all passed"
exit $failures
