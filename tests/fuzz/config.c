/* config.c: a config.json beside a good checkpoint, and a pass through the model that comes out.  What may be asked for is
 * bounded by what the checkpoint holds. */
#define _GNU_SOURCE /* memmem */
#include <stdio.h>
#include <string.h>

#include "cambium/models.h"
#include "fuzz.h"

static const struct {
    const char *word, *path;
} models[] = {{"gcgru", "forecasting/gcgru"},
              {"dlinear", "forecasting/dlinear"},
              {"UNet2DModel", "diffusion/unet"},
              {"crnn", "crnn/lstm"},
              {"DiTTransformer2DModel", "diffusion/dit"},
              {"unet", "dense/unet"},
              {"_window", "timm/swin"},
              {"_patch", "timm/vit"},
              {"convnext_", "timm/convnext"},
              {"batch_norm", "torchvision/mobilenet_v2_int8"},
              {"gpt2", "models/gpt2"},
              {"qwen2", "models/qwen2"},
              {"qwen3", "models/qwen3"},
              {"mistral", "models/mistral"},
              {"yarn", "models/llama_yarn_rope"},
              {"nf4", "quantized/nf4"},
              {"int-quantized", "quantized/int8_block"},
              {"load_in_8bit", "quantized/int8"},
              {"distilbert", "encoders/distilbert"},
              {"roberta", "encoders/roberta"},
              {"SequenceClassification", "encoders/bert_rows"},
              {"bert", "encoders/bert"},
              {"deit", "vision/deit"},
              {"vit", "vision/vit"},
              {"resnet", "vision/resnet_first"},
              {"text_config", "vision/clip"},
              {"convnext", "vision/convnext"},
              {"mobilenet", "vision/mobilenet_v2"},
              {"swin", "vision/swin_positions"},
              {"segformer", "vision/segformer"},
              {"umt5", "seq2seq/umt5"},
              {"EncoderModel", "seq2seq/t5_encoder"},
              {"gated", "seq2seq/t5_v1_1"},
              {"t5", "seq2seq/t5"},
              {"", "models/llama3"}};
enum { MODELS = sizeof models / sizeof *models };

static void link_models(void)
{
    for (int i = 0; i < MODELS; i++) {
        char name[96], source[128];
        bool diffusion = strncmp(models[i].path, "diffusion/", 10) == 0;
        snprintf(name, sizeof name, "%s/%s.safetensors", models[i].path, diffusion ? "diffusion_pytorch_model" : "model");
        snprintf(source, sizeof source, "tests/reference/%s", name);
        fuzz_link(name, source);
    }
}

/* The checkpoint is chosen by a word of the config. */
void fuzz_target(const uint8_t *data, size_t size)
{
    static bool linked;
    if (!linked)
        link_models();
    linked = true;
    int chosen = 0;
    while (*models[chosen].word && !memmem(data, size, models[chosen].word, strlen(models[chosen].word)))
        chosen++;
    char name[64];
    snprintf(name, sizeof name, "%s/config.json", models[chosen].path);
    fuzz_file(name, data, size);
    cb_model *model = cb_model_load(fuzz_path(models[chosen].path), .dtype = size & 1 ? CB_BF16 : CB_F32);
    if (fuzz_expect(model))
        fuzz_expect(fuzz_pass(model));
    cb_model_free(model);
}
