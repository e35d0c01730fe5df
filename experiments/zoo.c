/* zoo.c: see zoo.h. */
#include "experiments/zoo.h"

#include <stdlib.h>
#include <string.h>

#include "experiments/languages.h"

/* A masked language model of 16 languages with unequal shares of its text, and of four more it has none of (languages.c). */
static const char encoder_config[] = "{\"architectures\": [\"RobertaForMaskedLM\"], \"model_type\": \"roberta\", \"vocab_size\": %s, "
                                     "\"hidden_size\": 256, \"num_hidden_layers\": 4, \"num_attention_heads\": 4, "
                                     "\"intermediate_size\": 1024, \"hidden_act\": \"gelu\", \"max_position_embeddings\": 258, "
                                     "\"type_vocab_size\": 1, \"layer_norm_eps\": 1e-5, \"initializer_range\": 0.02, "
                                     "\"bos_token_id\": 0, \"pad_token_id\": 1, \"eos_token_id\": 2, \"tie_word_embeddings\": true}\n";
static const char encoder_tokenizer[] = "{\"tokenizer_class\": \"PreTrainedTokenizerFast\", \"model_max_length\": 256, "
                                        "\"bos_token\": \"<s>\", \"cls_token\": \"<s>\", \"eos_token\": \"</s>\", "
                                        "\"sep_token\": \"</s>\", \"pad_token\": \"<pad>\", \"unk_token\": \"<unk>\", "
                                        "\"mask_token\": \"<mask>\", \"clean_up_tokenization_spaces\": false}\n";

/* Ten classes of CIFAR's photographs, of which there are 600 each: what takes the place of more is augmentation, most of all pasting a part of one
 * image into another. */
#define PIXELS(size) PIXELS_OF(size, size)
#define PIXELS_OF(height_, width_)                                                                                                         \
    "{\"image_processor_type\": \"ViTImageProcessor\", \"do_resize\": true, \"size\": {\"height\": " height_ ", \"width\": " width_        \
    "}, \"resample\": 2, \"do_rescale\": true, \"rescale_factor\": 0.00392156862745098, \"do_normalize\": true, \"image_mean\": "          \
    "[0.4914, 0.4822, 0.4465], \"image_std\": [0.247, 0.2435, 0.2616]}\n"
#define AUGMENTED AUGMENTED_ALONE, "--warmup-steps", "300", "--cutmix-alpha", "1"
#define AUGMENTED_ALONE                                                                                                                    \
    "--task", "image-classification", "--validation-split", "0.05", "--batch-size", "64", "--lr-scheduler-type", "cosine",                 \
        "--min-lr-ratio", "0.01", "--weight-decay", "0.05", "--adam-beta2", "0.98", "--random-resized-crop", "--crop-scale-min", "0.4",    \
        "--horizontal-flip", "0.5", "--jitter-brightness", "0.3", "--jitter-contrast", "0.3", "--jitter-saturation", "0.3",                \
        "--eval-steps", "1000", "--save-steps", "500", "--seed", "1"
static const char vit_config[] = "{\"architectures\": [\"ViTForImageClassification\"], \"model_type\": \"vit\", \"image_size\": 32, "
                                 "\"patch_size\": 4, \"num_channels\": 3, \"hidden_size\": 128, \"num_hidden_layers\": 6, "
                                 "\"num_attention_heads\": 4, \"intermediate_size\": 512, \"hidden_act\": \"gelu\", "
                                 "\"layer_norm_eps\": 1e-6, \"initializer_range\": 0.02, \"qkv_bias\": true}\n";
/* Images are doubled in size, since a ResNet begins with making them a quarter. */
static const char resnet_config[] = "{\"architectures\": [\"ResNetForImageClassification\"], \"model_type\": \"resnet\", "
                                    "\"num_channels\": 3, \"embedding_size\": 32, \"hidden_sizes\": [32, 64, 128], \"depths\": "
                                    "[2, 2, 2], \"layer_type\": \"basic\", \"hidden_act\": \"relu\"}\n";
/* Windows of attention over maps of 16, 8 and 4 pixels a side; no pasting, which costs a small network more than it teaches within an hour. */
static const char swin_config[] =
    "{\"architectures\": [\"SwinForImageClassification\"], \"model_type\": \"swin\", \"image_size\": 32, "
    "\"patch_size\": 2, \"num_channels\": 3, \"embed_dim\": 32, \"depths\": [2, 2, 2], \"num_heads\": [2, 4, 8], "
    "\"window_size\": 4, \"mlp_ratio\": 4.0, \"hidden_act\": \"gelu\", \"layer_norm_eps\": 1e-5, "
    "\"initializer_range\": 0.05, \"qkv_bias\": true}\n";
/* Road scenes at a third of their size. */
static const char unet_config[] = "{\"architectures\": [\"UNetForSemanticSegmentation\"], \"model_type\": \"unet\", \"num_channels\": 3, "
                                  "\"hidden_sizes\": [16, 32, 48, 64, 96], \"layers_per_block\": 2, \"norm_type\": \"batch\", "
                                  "\"hidden_act\": \"relu\", \"upsample_type\": \"bilinear\"}\n";
static const char *const cifar10[] = {"cifar10", NULL}, *const camvid[] = {"camvid", NULL},
                         *const quick_images[] = {"--steps", "3", "--batch-size", "4", "--warmup-steps", "1", NULL};

static const zoo_network networks[] = {
    {.name = "encoder-multilingual",
     .title = "masked language model of 16 languages, 5 M parameters",
     .data = (const char *const[]){"text-bible", "text-en", "crosslingual", NULL},
     .config = encoder_config,
     .tokenizer_config = encoder_tokenizer,
     .tokenizer = (const char *const[]){"--vocab-size", "8192", "--special-tokens", "<s>,<pad>,</s>,<unk>,<mask>", "--add-prefix-space",
                                        "--post-processor", "roberta", NULL},
     .training = (const char *const[]){"--lines", "--steps",
                                       "6000",    "--batch-size",
                                       "32",      "--sequence-length",
                                       "128",     "--learning-rate",
                                       "1.5e-3",  "--lr-scheduler-type",
                                       "cosine",  "--min-lr-ratio",
                                       "0.05",    "--warmup-steps",
                                       "300",     "--weight-decay",
                                       "0.01",    "--adam-beta2",
                                       "0.98",    "--eval-steps",
                                       "1000",    "--save-steps",
                                       "500",     "--save-dtype",
                                       "bf16",    "--seed",
                                       "1",       NULL},
     .quick_tokenizer = (const char *const[]){"--vocab-size", "300", NULL},
     .quick_training = (const char *const[]){"--steps", "3", "--batch-size", "2", "--sequence-length", "32", "--warmup-steps", "1", NULL},
     .texts = language_write},
    {.name = "vit-cifar10",
     .title = "vision transformer of ten classes of photographs, 1.2 M parameters",
     .data = cifar10,
     .config = vit_config,
     .processor = PIXELS("32"),
     .training = (const char *const[]){AUGMENTED, "--steps", "6000", "--learning-rate", "1e-3", NULL},
     .quick_training = quick_images,
     .train = "cifar10/train-600.zip",
     .held_out = "cifar10/test-300.zip"},
    {.name = "resnet-cifar10",
     .title = "residual network of the same classes, 0.7 M parameters",
     .data = cifar10,
     .config = resnet_config,
     .processor = PIXELS("64"),
     .training = (const char *const[]){AUGMENTED, "--steps", "6000", "--learning-rate", "3e-3", NULL},
     .quick_training = quick_images,
     .train = "cifar10/train-600.zip",
     .held_out = "cifar10/test-300.zip"},
    {.name = "swin-nano",
     .title = "shifted-window transformer of the same classes, 0.6 M parameters",
     .data = cifar10,
     .config = swin_config,
     .processor = PIXELS("32"),
     .training = (const char *const[]){AUGMENTED_ALONE, "--steps", "1200", "--warmup-steps", "100", "--learning-rate", "2e-3", NULL},
     .quick_training = quick_images,
     .train = "cifar10/train-600.zip",
     .held_out = "cifar10/test-300.zip"},
    {.name = "unet-camvid",
     .title = "U-Net of the places of road scenes, 0.5 M parameters",
     .data = camvid,
     .config = unet_config,
     .processor = PIXELS_OF("120", "160"),
     .training = (const char *const[]){"--task",
                                       "semantic-segmentation",
                                       "--labels",
                                       "sky,building,pole,road,pavement,tree,sign,fence,car,pedestrian,bicyclist",
                                       "--batch-size",
                                       "8",
                                       "--steps",
                                       "900",
                                       "--learning-rate",
                                       "5e-3",
                                       "--lr-scheduler-type",
                                       "cosine",
                                       "--min-lr-ratio",
                                       "0.01",
                                       "--warmup-steps",
                                       "50",
                                       "--weight-decay",
                                       "0.01",
                                       "--dice-weight",
                                       "0.5",
                                       "--random-resized-crop",
                                       "--crop-scale-min",
                                       "0.3",
                                       "--horizontal-flip",
                                       "0.5",
                                       "--jitter-brightness",
                                       "0.4",
                                       "--jitter-contrast",
                                       "0.3",
                                       "--jitter-saturation",
                                       "0.3",
                                       "--save-steps",
                                       "100",
                                       "--seed",
                                       "1",
                                       NULL},
     .quick_training = quick_images,
     .train = "camvid/train",
     .held_out = "camvid/test",
     .train_maps = "camvid/trainannot",
     .held_out_maps = "camvid/testannot",
     .reading = (const char *const[]){"--ignore-index", "11", NULL}},
    {0}};

const zoo_network *zoo_networks(void)
{
    return networks;
}

const zoo_network *zoo_find(const char *name)
{
    const char *names[sizeof networks / sizeof *networks];
    size_t count = 0;
    for (const zoo_network *n = networks; n->name; n++) {
        if (strcmp(n->name, name) == 0)
            return n;
        names[count++] = n->name;
    }
    cb_string close = {0};
    cb_closest_names(name, names, count, 3, &close);
    cb_fail(CB_ERR_ARGUMENT, "there is no network %s in the zoo%s%s", name, close.length ? "; close: " : "",
            close.length ? close.data : "");
    cb_string_free(&close);
    return NULL;
}

char *zoo_directory(const char *name)
{
    const char *given = getenv("CAMBIUM_ZOO"), *cache = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
    if (given && *given)
        return cb_path_join(given, name);
    return cache && *cache ? cb_format("%s/cambium/zoo/%s", cache, name) : cb_format("%s/.cache/cambium/zoo/%s", home ? home : "", name);
}

char *zoo_need(const char *name)
{
    char *directory = zoo_directory(name), *config = directory ? cb_path_join(directory, "config.json") : NULL;
    bool there = config && cb_is_file(config);
    if (config && !there)
        cb_fail(CB_ERR_IO, "%s: not found; `cambium zoo build %s` makes it", directory, name);
    cb_free(config);
    if (there)
        return directory;
    cb_free(directory);
    return NULL;
}
