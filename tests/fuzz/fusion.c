/* fusion.c: an AdapterFusion of AdapterHub's package beside good adapters: adapter_setup.json (none when empty: the fusion is read by itself);
 * behind a zero byte adapter_fusion_config.json; behind another the fusion's weights (none: good ones).  The model runs with what is read. */
#include <stdlib.h>
#include <string.h>

#include "cambium/adapters.h"
#include "cambium/training.h"
#include "fuzz.h"

#define REFERENCE "tests/reference/"
#define HUB       REFERENCE "adapterhub/fusion/"
#define PAIR      "style,words/"
#define CONFIG    PAIR "adapter_fusion_config.json"
#define WEIGHTS   PAIR "model_adapter_fusion.safetensors"

/* Good weights are links, so that what is written has directories of its own. */
static void link_parts(void)
{
    fuzz_link("good/style/adapter_config.json", HUB "style/adapter_config.json");
    fuzz_link("good/style/adapter.safetensors", HUB "style/adapter.safetensors");
    fuzz_link("good/words/adapter_config.json", HUB "words/adapter_config.json");
    fuzz_link("good/words/adapter.safetensors", HUB "words/adapter.safetensors");
    fuzz_link("good/" WEIGHTS, HUB WEIGHTS);
    fuzz_link("own/style/adapter_config.json", HUB "style/adapter_config.json");
    fuzz_link("own/style/adapter.safetensors", HUB "style/adapter.safetensors");
    fuzz_link("own/words/adapter_config.json", HUB "words/adapter_config.json");
    fuzz_link("own/words/adapter.safetensors", HUB "words/adapter.safetensors");
}

/* What lies before the next zero byte; the rest moves up behind it. */
static size_t next_part(const uint8_t **data, size_t *size, const uint8_t **part)
{
    const uint8_t *zero = *size ? memchr(*data, 0, *size) : NULL;
    size_t length = zero ? (size_t)(zero - *data) : *size, step = zero ? length + 1 : length;
    *part = *data;
    *data += step;
    *size -= step;
    return length;
}

static bool use(const cb_composition *c, cb_model *model)
{
    bool ok = cb_composition_use(c, model) && fuzz_pass(model);
    cb_model_set_blend(model, NULL, NULL, NULL);
    return ok;
}

void fuzz_target(const uint8_t *data, size_t size)
{
    static cb_model *model;
    if (!model) {
        link_parts();
        model = cb_model_load(CB_SOURCE_DIR "/" REFERENCE "models/llama2");
        if (!model)
            abort();
    }
    const uint8_t *setup, *config;
    size_t setup_size = next_part(&data, &size, &setup), config_size = next_part(&data, &size, &config);
    fuzz_file(size ? "own/adapter_setup.json" : "good/adapter_setup.json", setup, setup_size);
    fuzz_file(size ? "own/" CONFIG : "good/" CONFIG, config, config_size);
    if (size)
        fuzz_file("own/" WEIGHTS, data, size);
    const char *path = setup_size ? fuzz_path(size ? "own" : "good") : fuzz_path(size ? "own/style,words" : "good/style,words");
    cb_composition c;
    if (fuzz_expect(cb_composition_load(&c, path, cb_model_root(model), cb_model_type(model)))) {
        fuzz_expect(use(&c, model));
        cb_composition_free(&c);
    }
}
