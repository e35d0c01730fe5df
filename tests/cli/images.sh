#!/bin/sh
# Images from end to end: tiny networks learn made-up pictures, by an adapter and whole, resume with the same bits, are measured under corruptions,
# and say what is wrong with bad input.
#
#     images.sh PROGRAM REFERENCE_DIRECTORY TEMPORARY_DIRECTORY
set -u
program=$1
reference=$2
work=$3/images.$$
. "$(dirname "$0")/checks.sh"
mkdir -p "$work" || exit 1
case $program in /*) ;; *) program=$(pwd)/$program ;; esac
reference=$(cd "$reference" && pwd)
cd "$work" || exit 1

# ---- pictures in which one colour is stronger, with noise ----
pictures() { # DIRECTORY SEED
    awk -v directory="$1" -v n="$2" 'BEGIN {
        split("red green blue", names, " ")
        for (c = 1; c <= 3; c++) {
            system("mkdir -p " directory "/" names[c])
            for (i = 0; i < 10; i++) {
                file = directory "/" names[c] "/" i ".ppm"
                print "P3 12 12 255" > file
                for (p = 0; p < 144; p++) {
                    line = ""
                    for (k = 1; k <= 3; k++) {
                        n = (n * 1103515245 + 12345) % 2147483648
                        line = line " " int((k == c ? 140 : 60) + (n / 65536) % 60)
                    }
                    print line > file
                }
                close(file)
            }
        }
    }'
}
pictures train 1
pictures test 777
mkdir vit
cp "$reference/vision/vit/config.json" "$reference/vision/vit/model.safetensors" vit
printf '%s' '{"image_processor_type": "ViTImageProcessor", "size": {"height": 12, "width": 12}, "image_mean": [0.4, 0.4, 0.4], "image_std": [0.2, 0.2, 0.2]}' >vit/preprocessor_config.json

# ---- an adapter, resumed with the same bits ----
long="--task image-classification --data train --validation-split 0.2 --eval-steps 10 --target-modules all-linear --rank 4 --learning-rate 0.01
    --batch-size 8 --steps 30 --save-steps 10 --seed 1 --quiet --horizontal-flip 0.5 --crop-padding 2 --jitter-brightness 0.2 --random-erasing 0.1"
# shellcheck disable=SC2086
{
    expect straight "$program" train vit $long --output straight --json
    expect threads "$program" train vit $long --output threads --loader-threads 0
}
over straight.out validation_accuracy 0.9
grep -q '"image_mean": \[' straight/preprocessor_config.json || fail "the preprocessing was not stored"
grep -q '"task": "image-classification"' straight/labels.json || fail "the labels were not stored"
cmp -s straight/adapter_model.safetensors threads/adapter_model.safetensors || fail "the number of loader threads changes bits"
# shellcheck disable=SC2086
{
    "$program" train vit $long --output killed >killed.out 2>&1 &
    child=$!
    tries=0
    while [ ! -f killed/checkpoint.safetensors ] && [ $tries -lt 600 ]; do
        sleep 0.05
        tries=$((tries + 1))
    done
    kill -INT $child
    wait $child
    expect resumed "$program" train vit $long --output killed --resume
}
cmp -s straight/adapter_model.safetensors killed/adapter_model.safetensors || fail "a resumed run ends with other bits"

# ---- evaluation ----
expect eval "$program" eval vit --adapter straight --data test --json --predictions said.jsonl
over eval.out accuracy 0.9
over eval.out f1_macro 0.9
over eval.out calibration_error 0
[ "$(wc -l <said.jsonl)" = 30 ] || fail "expected 30 predictions: $(wc -l <said.jsonl)"
grep -q '"source": "test/blue/0.ppm", "label": "blue"' said.jsonl || fail "the first prediction: $(head -n 1 said.jsonl)"
expect noise "$program" eval vit --adapter straight --data test --json --corruption impulse_noise --severity 5
over noise.out loss "$(sed -n 's/.*"loss": *\([0-9.]*\).*/\1/p' eval.out)"
tar cf test.tar test
expect archive "$program" eval vit --adapter straight --data test.tar --task image-classification --json
sed 's/"seconds".*//' eval.out >a
sed 's/"seconds".*//' archive.out >b
cmp -s a b || fail "an archive of the same images measures other numbers: $(cat a b)"

# ---- mixed targets; a whole network from its configuration; what a rehearsal says ----
# shellcheck disable=SC2086
expect mixed "$program" train vit $long --output mixed --mixup-alpha 0.2 --cutmix-alpha 1 --json
over mixed.out validation_accuracy 0.8
printf '%s' '{"image_processor_type": "ViTImageProcessor", "size": {"height": 32, "width": 32}, "image_mean": [0.4, 0.4, 0.4], "image_std": [0.2, 0.2, 0.2]}' >large.json
whole="--config $reference/vision/resnet_basic/config.json --image-processor large.json --task image-classification --data train --learning-rate 0.01
    --batch-size 8 --steps 30 --seed 1"
# shellcheck disable=SC2086
{
    expect plan "$program" pretrain $whole --output whole --dry-run
    [ -e whole ] && fail "a dry run left $(ls whole)"
    expect whole "$program" pretrain $whole --output whole --quiet
}
expect eval_whole "$program" eval whole --data test --json
over eval_whole.out accuracy 0.8

# ---- a U-Net's way down: whole, and by an adapter that comes with its head ----
printf '%s' '{"model_type": "unet", "architectures": ["UNetForImageClassification"], "hidden_sizes": [6, 8, 12]}' >unet.json
expect unet "$program" pretrain --config unet.json --image-processor vit --task image-classification --data train --learning-rate 0.01 --batch-size 8 --steps 40 \
    --seed 1 --output unet --quiet
expect eval_unet "$program" eval unet --data test --json
over eval_unet.out accuracy 0.8
expect unet_lora "$program" train unet --task image-classification --data train --rank 4 --learning-rate 0.01 --batch-size 8 --steps 20 --seed 1 --output unet_lora
expect eval_unet_lora "$program" eval unet --adapter unet_lora --data test --json
over eval_unet_lora.out accuracy 0.8

# ---- a head that was trained for other labels ----
adapt="train whole --task image-classification --rank 2 --batch-size 4 --steps 1 --seed 1"
# shellcheck disable=SC2086
expect own "$program" $adapt --data train --output own
grep -q "becomes a new one" own.err && fail "labels of the model's own give it a new head: $(cat own.err)"
cp -r train others
mv others/green others/violet
# shellcheck disable=SC2086
expect others "$program" $adapt --data others --output out_others
grep -q "whole: its head becomes a new one, because violet is not among its labels" others.err || fail "a new head is not told: $(cat others.err)"
grep -q '"violet"' out_others/labels.json || fail "labels of the data are not stored: $(cat out_others/labels.json)"

# ---- bad input ----
bad 1 "makes images of 32 x 32, and the model takes 12 x 12" train vit --task image-classification --data train --output never --image-processor large.json
printf '%s' '{"image_processor_type": "ViTImageProcessor", "size": 12, "image_mean": [0.5], "image_std": [0.5]}' >grey.json
bad 1 "makes images of 1 channels (image_mean), and the model takes 3" train vit --task image-classification --data train --output never --image-processor grey.json
bad 1 "found blue, expected one of the 4 of the model" train vit --data train --output never
bad 1 "corruption: found smoke" eval vit --adapter straight --data test --corruption smoke
bad 1 "found no preprocessor_config.json" train "$reference/vision/vit" --task image-classification --data train --output never
cp -r test damaged
printf 'P6 12 12 255\n' >damaged/red/3.ppm
bad 1 "damaged/red/3.ppm: PNM: found 0 bytes of pixels, expected 432" eval vit --adapter straight --data damaged
# shellcheck disable=SC2086
bad 1 "damaged/red/3.ppm: PNM: found 0 bytes of pixels, expected 432" $adapt --data damaged --output never
mkdir none
bad 1 "none: found no images in directories below it" eval vit --adapter straight --data none
printf '%s' '{"image_processor_type": "ViTImageProcessor", "size": {"height": 12, "width": 12}, "image_mean": [0.4, 0.4, 0.4], "image_std": [0.2, 0.2, 0.2], "rescale_factor": 1}' >levels.json
expect levels "$program" eval vit --adapter straight --data test --image-processor levels.json
grep -q "after normalisation their mean is" levels.err || fail "levels that are not rescaled are not warned of: $(cat levels.err)"
grep -q "differs from what straight was trained with" levels.err || fail "another preprocessing is not warned of: $(cat levels.err)"

cd / && rm -rf "$work"
[ $failures = 0 ] && echo "all passed"
exit $failures
