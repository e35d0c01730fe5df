#!/bin/sh
# Networks that denoise from end to end: one learns made-up pictures of two classes from its configuration, adapters go on with it, are resumed with
# the same bits and merged; and what is wrong with bad input is said.
#
#     diffusion.sh PROGRAM REFERENCE_DIRECTORY TEMPORARY_DIRECTORY
set -u
program=$1
reference=$2
work=$3/diffusion.$$
. "$(dirname "$0")/checks.sh"
mkdir -p "$work" || exit 1
case $program in /*) ;; *) program=$(pwd)/$program ;; esac
reference=$(cd "$reference" && pwd)
cd "$work" || exit 1
under() { # FILE FIELD NUMBER: the number of that field of a line of JSON is under NUMBER
    found=$(sed -n "s/.*\"$2\": *\([-0-9.e+]*\).*/\1/p" "$1")
    awk -v x="$found" -v most="$3" 'BEGIN { exit !(x != "" && x + 0 < most) }' || fail "$1: $2 is \"$found\", expected under $3"
}

# ---- pictures: bright above and dark below, or the other way round ----
mkdir -p pictures/up pictures/down
awk 'BEGIN {
    for (i = 0; i < 16; i++) {
        image = "pictures/" (i % 2 ? "up" : "down") "/" i ".pgm"
        print "P2 8 8 255" > image
        for (y = 0; y < 8; y++) {
            line = ""
            for (x = 0; x < 8; x++)
                line = line " " ((y < 4) == (i % 2) ? 220 + i : 20 + i)
            print line > image
        }
        close(image)
    }
}'
config() { # DIRECTORY MORE
    mkdir -p "$1"
    printf '%s' '{"_class_name": "UNet2DModel", "sample_size": 8, "in_channels": 1, "out_channels": 1, "block_out_channels": [8, 16], "layers_per_block": 1,
        "down_block_types": ["DownBlock2D", "AttnDownBlock2D"], "up_block_types": ["AttnUpBlock2D", "UpBlock2D"], "norm_num_groups": 4'"$2"'}' >"$1/config.json"
}
config classes ', "num_class_embeds": 3'
config plain ''

# shellcheck disable=SC2086
{
    # ---- a network with classes ----
    whole="--task image-generation --data pictures --validation-data pictures --batch-size 8 --learning-rate 0.005 --steps 150 --seed 1 --class-dropout 0.2
        --num-train-timesteps 100 --beta-end 0.1"
    expect plan "$program" pretrain --config classes/config.json $whole --output never --dry-run
    [ -e never ] && fail "a dry run left $(ls never)"
    expect whole "$program" pretrain --config classes/config.json $whole --output whole --json --quiet
    under whole.out validation_mse 0.25
    grep -q '"0": "down"' whole/config.json || fail "names of classes are not stored: $(cat whole/config.json)"
    grep -q '"num_train_timesteps": 100' whole/scheduler/scheduler_config.json || fail "the schedule is not stored"
    [ -f whole/diffusion_pytorch_model.safetensors ] || fail "expected the file of diffusers: $(ls whole)"

    # ---- an adapter, resumed with the same bits ----
    long="--data pictures --validation-split 0.25 --rank 2 --learning-rate 0.005 --batch-size 4 --steps 20 --save-steps 5 --seed 1 --quiet --min-snr-gamma 5"
    expect straight "$program" train whole $long --output straight --json
    "$program" train whole $long --output killed >killed.out 2>&1 &
    child=$!
    tries=0
    while [ ! -f killed/checkpoint.safetensors ] && [ $tries -lt 600 ]; do
        sleep 0.05
        tries=$((tries + 1))
    done
    kill -INT $child
    wait $child
    expect resumed "$program" train whole $long --output killed --resume
    cmp -s straight/adapter_model.safetensors killed/adapter_model.safetensors || fail "a resumed run ends with other bits"
    bad 1 "the checkpoint is of another run" train whole $long --output killed --resume --min-snr-gamma 2
    expect merge "$program" merge whole --adapter straight --output merged
    cmp -s whole/scheduler/scheduler_config.json merged/scheduler/scheduler_config.json || fail "merging loses the schedule"

    # ---- images ----
    expect made "$program" generate whole --adapter straight --images 6 --output made --sampling-steps 10 --guidance-scale 2 --seed 4 --dtype f32 --json
    [ "$(ls made/up made/down | grep -c png)" = 6 ] || fail "expected 3 images of each class: $(ls made/*)"
    grep -q '"images": *6' made.out || fail "generate says $(cat made.out)"
    expect again "$program" generate whole --adapter straight --images 6 --output again --sampling-steps 10 --guidance-scale 2 --seed 4 --dtype f32
    for image in up/00001 down/00004; do
        cmp -s made/$image.png again/$image.png || fail "the same seed makes another image $image"
    done
    expect up "$program" generate whole --images 2 --class up --output ups --sampler ddpm --sampling-steps 5 --seed 4 --dtype f32
    [ "$(ls ups)" = up ] || fail "expected images of one class: $(ls ups)"
    # what it makes of a class is what it was shown of it: told the other class, it finds more in the noise on these images
    expect half "$program" generate whole --images 16 --output half --sampling-steps 25 --seed 1 --guidance-scale 2 --dtype f32
    mkdir turned && cp -r half/up turned/down && cp -r half/down turned/up
    expect right "$program" eval whole --data half --dtype f32 --json
    expect wrong "$program" eval whole --data turned --dtype f32 --json --task image-generation
    over right.out mse 0
    over wrong.out mse "$(sed 's/.*"mse": *\([0-9.]*\).*/\1/' right.out | awk '{ print 1.05 * $1 }')"
    expect last "$program" eval whole --data pictures --dtype bf16 --json
    sed -n 's/.*"result".*"validation_mse": *\([0-9.]*\).*/\1/p' whole.out >a
    sed 's/.*"mse": *\([0-9.]*\).*/\1/' last.out >b
    [ -s a ] && [ -s b ] && awk 'NR == FNR { x = $1; next } { exit !(x - $1 < 1e-5 && $1 - x < 1e-5) }' a b || fail "eval and validation differ: $(cat a b)"
    expect dry "$program" generate whole --images 6 --output never --dry-run
    [ -e never ] && fail "a dry run of generate left $(ls never)"

    # ---- without classes, directories are none ----
    expect plain "$program" pretrain --config plain/config.json --task image-generation --data pictures --output plain-trained --steps 2 --batch-size 4 \
        --prediction-type v_prediction --json --quiet
    grep -q '"prediction_type": "v_prediction"' plain-trained/scheduler/scheduler_config.json || fail "the prediction type is not stored"
    grep -q id2label plain-trained/config.json && fail "classes were found where there are none"

    expect blank "$program" generate plain-trained --images 2 --output blank --sampling-steps 2
    [ "$(ls blank)" = "00000.png
00001.png" ] || fail "expected two images: $(ls blank)"

    # ---- a network for images of any size ----
    cp -r plain-trained any
    sed 's/"sample_size": *[^,}]*,//' plain-trained/config.json >any/config.json
    grep -q sample_size any/config.json && fail "sample_size stays: $(cat any/config.json)"
    rm -f any/preprocessor_config.json
    expect any "$program" generate any --images 1 --height 12 --width 8 --output sized --sampling-steps 2 --json
    grep -q '"height": *12, *"width": *8' any.out || fail "generate says $(cat any.out)"
    bad 1 "found no sample_size in config.json, expected one, or --height and --width" generate any --images 1 --output never

    # ---- bad input ----
    bad 1 "guidance_scale: found 3, and the network has no classes, expected 1" generate plain-trained --images 1 --output never --guidance-scale 3
    bad 1 "--class: found \"sideways\", expected one of 2 classes by name or number" generate whole --images 1 --class sideways --output never
    bad 1 "made: exists and is not an empty directory" generate whole --images 1 --output made
    bad 1 "images of 9 by 8, expected multiples of 2" generate whole --images 1 --height 9 --output unmade
    bad 2 "--output is needed with --images" generate whole --images 1
    bad 2 "--images are made without a prompt" generate whole --images 1 --output never --prompt x
    bad 1 "is a vit, expected a network that denoises" generate "$reference/vision/vit" --images 1 --output never
    bad 1 "steps: found 200, expected 1 to the schedule's 100" generate whole --images 1 --output unmade --sampling-steps 200
    bad 1 "class_dropout: found 0.1, and the network's table of 0 classes has no row" train plain-trained --data pictures --output never --class-dropout 0.1
    bad 2 "beta-start: the model has a scheduler_config.json" train whole --data pictures --output never --beta-start 0.1
    bad 1 "--task image-generation: $reference/vision/vit is a vit, expected a network that denoises" train "$reference/vision/vit" --task image-generation \
        --data pictures --output never
    bad 1 "found mixup or CutMix, expected none where images are to be made" train whole --data pictures --output never --mixup-alpha 0.2
    mkdir -p other/left && cp pictures/up/1.pgm other/left
    bad 1 "left" train whole --data other --output never
    bad 1 "its table of classes has 3 rows, and the data have 4 classes" pretrain --config classes/config.json --task image-generation --output never \
        --data "$(for c in a b c d; do mkdir -p "four/$c" && cp pictures/up/1.pgm "four/$c"; done && echo four)"
    mkdir vit
    cp "$reference/vision/vit/config.json" "$reference/vision/vit/model.safetensors" vit
    printf '%s' '{"image_processor_type": "ViTImageProcessor", "size": {"height": 12, "width": 12}}' >vit/preprocessor_config.json
    bad 2 "min-snr-gamma: is for networks that make images" train vit --task image-classification --data pictures --output never --min-snr-gamma 5 \
        --target-modules query --rank 2
}

cd / && rm -rf "$work"
[ $failures = 0 ] && echo "all passed"
exit $failures
