/* adapter.c: an adapter_config.json beside good weights, for a model that they fit; or a GGUF adapter.  What is read is attached, and the
 * model runs with it. */
#define _GNU_SOURCE /* memmem */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cambium/adapters.h"
#include "cambium/models.h"
#include "fuzz.h"

#define REFERENCE "tests/reference/"
#define PEFT      "adapter_model.safetensors"

/* The weights are chosen by a word of the config. */
static const struct {
    const char *word, *directory, *file;
} weights[] = {
    {"\"IA3\"", "adapters/ia3_none", PEFT},
    {"\"LOHA\"", "adapters/loha_dense", PEFT},
    {"\"LOKR\"", "adapters/lokr_both", PEFT},
    {"\"VERA\"", "adapters/vera_qv", PEFT},
    {"\"FOURIERFT\"", "adapters/fourierft_qv", PEFT},
    {"\"HRA\"", "adapters/hra_gs", PEFT},
    {"\"BEFT\"", "adapters/beft_no_bias", PEFT},
    {"\"C3A\"", "adapters/c3a_qv", PEFT},
    {"\"HIRA\"", "adapters/hira_qv", PEFT},
    {"\"LN_TUNING\"", "adapters/ln_tuning_llama", PEFT},
    {"\"MISS\"", "adapters/miss_bat", PEFT},
    {"\"ROAD\"", "adapters/road_4", PEFT},
    {"\"SHIRA\"", "adapters/shira_qv", PEFT},
    {"\"TRAINABLE_TOKENS\"", "adapters/tokens_only", PEFT},
    {"\"LT_SFT\"", "adapters/lt_sft_q", PEFT},
    {"\"HYDRA\"", "adapters/hydra_heads", PEFT},
    {"\"LORA_XS\"", "adapters/lora_xs_qv", PEFT},
    {"\"ORTHOGONAL_ADAPTATION\"", "adapters/orthogonal_adaptation_qv", PEFT},
    {"\"PEGO\"", "adapters/pego_qv", PEFT},
    {"\"CODYRA\"", "adapters/codyra_dense", PEFT},
    {"\"DYLORA\"", "adapters/dylora_qv", PEFT},
    {"\"MTLORA\"", "adapters/mtlora_sum", PEFT},
    {"\"PETALFACE\"", "adapters/petalface_qkv", PEFT},
    {"\"S3DIFF\"", "adapters/s3diff_qd", PEFT},
    {"\"KRONA\"", "adapters/krona_qkvo", PEFT},
    {"\"MORA\"", "adapters/mora_rotation", PEFT},
    {"\"GDCAN\"", "adapters/gdcan_corrections", PEFT},
    {"\"BOTTLENECK\"", "adapters/bottleneck_series", PEFT},
    {"\"REFT\"", "adapters/reft_orthogonal", PEFT},
    {"\"reft\"", "adapterhub/loreft", "adapter.safetensors"},
    {"\"phm_layer\": true", "adapterhub/compacter", "adapter.safetensors"},
    {"\"mh_adapter\"", "adapterhub/seq_bn_inv", "adapter.safetensors"},
    {"\"lora_parameters\"", "adapter_formats/lora_rslora.mlx", "adapters.safetensors"},
    {"\"attn_matrices\"", "adapter_formats/lora_qv.adapterhub", "adapter.safetensors"},
    {"\"lm_head\":[", "adapters/tokens_untied", PEFT},
    {"[\"lm_head\"", "adapters/lora_modules_to_save", PEFT},
    {"\"embed_tokens\"", "adapters/lora_embedding", PEFT},
    {"\"rank_pattern\":{\"", "adapters/lora_patterns", PEFT},
    {"\"use_dora\":true", "adapters/dora_qv", PEFT},
    {"", "adapters/lora_qv", PEFT},
};
enum { WEIGHTS = sizeof weights / sizeof *weights };

static void link_weights(void)
{
    for (int i = 0; i < WEIGHTS; i++) {
        char name[96], source[128];
        snprintf(name, sizeof name, "%s/%s", weights[i].directory, weights[i].file);
        snprintf(source, sizeof source, REFERENCE "%s", name);
        fuzz_link(name, source);
    }
}

static const char *adapter_path(const uint8_t *data, size_t size)
{
    if (size >= 4 && memcmp(data, "GGUF", 4) == 0)
        return fuzz_file("adapter.gguf", data, size);
    int chosen = 0;
    while (*weights[chosen].word && !memmem(data, size, weights[chosen].word, strlen(weights[chosen].word)))
        chosen++;
    char name[96];
    snprintf(name, sizeof name, "%s/adapter_config.json", weights[chosen].directory);
    fuzz_file(name, data, size);
    return fuzz_path(weights[chosen].directory);
}

void fuzz_target(const uint8_t *data, size_t size)
{
    static cb_model *model;
    if (!model) {
        link_weights();
        model = cb_model_load(CB_SOURCE_DIR "/" REFERENCE "models/llama2");
        if (!model)
            abort();
    }
    cb_adapter *adapter = cb_adapter_load(adapter_path(data, size), cb_model_root(model), cb_model_type(model));
    if (fuzz_expect(adapter)) {
        char *json = cb_adapter_json(adapter);
        fuzz_expect(json);
        cb_free(json);
        fuzz_expect(fuzz_pass(model));
    }
    cb_adapter_free(adapter);
}
