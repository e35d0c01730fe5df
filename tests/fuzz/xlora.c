/* xlora.c: the directory of an X-LoRA beside good adapters: adapter_config.json, or the authors' xlora_config.json where no peft_type is in
 * it; what follows a zero byte is the classifier's file.  The model runs with what is read. */
#define _GNU_SOURCE /* memmem */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cambium/adapters.h"
#include "cambium/training.h"
#include "fuzz.h"

#define REFERENCE "tests/reference/"

static void link_adapters(const char *directory)
{
    static const char *const files[] = {"adapter_config.json", "adapter_model.safetensors"};
    for (int i = 0; i < 3; i++)
        for (int k = 0; k < 2; k++) {
            char name[64], source[96];
            snprintf(name, sizeof name, "%s/%d/%s", directory, i, files[k]);
            snprintf(source, sizeof source, REFERENCE "xlora/plain/%d/%s", i, files[k]);
            fuzz_link(name, source);
        }
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
        link_adapters("peft");
        link_adapters("own");
        model = cb_model_load(CB_SOURCE_DIR "/" REFERENCE "models/llama2");
        if (!model)
            abort();
    }
    const uint8_t *zero = size ? memchr(data, 0, size) : NULL;
    size_t text = zero ? (size_t)(zero - data) : size, rest = zero ? size - text - 1 : 0;
    bool peft = memmem(data, text, "peft_type", strlen("peft_type"));
    fuzz_file(peft ? "peft/adapter_config.json" : "own/xlora_config.json", data, text);
    fuzz_file(peft ? "peft/adapter_model.safetensors" : "own/xlora_classifier.safetensors", data + size - rest, rest);
    cb_composition c;
    if (fuzz_expect(cb_composition_load(&c, fuzz_path(peft ? "peft" : "own"), cb_model_root(model), cb_model_type(model)))) {
        fuzz_expect(use(&c, model));
        cb_composition_free(&c);
    }
}
