# noisy_pictures.sh: what tests of `cambium adapt` share; to be read by them.

noisy_pictures() { # EACH: of each of four labels so many, in one colour stronger, with noise, in directories of test
    awk -v each="$1" 'BEGIN {
        for (c = 0; c < 4; c++) {
            system("mkdir -p test/LABEL_" c)
            for (i = 0; i < each; i++) {
                file = "test/LABEL_" c "/" i ".ppm"
                print "P3 16 16 255" > file
                for (p = 0; p < 256; p++) {
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

untaught_network() { # net: a network of $reference for them, which has learned nothing
    mkdir net
    cp "$reference/vision/resnet_basic/config.json" "$reference/vision/resnet_basic/model.safetensors" net
    printf '%s' '{"image_processor_type": "ViTImageProcessor", "size": {"height": 16, "width": 16}, "image_mean": [0.4, 0.4, 0.4], "image_std": [0.2, 0.2, 0.2]}' >net/preprocessor_config.json
}
