/* config.c: a config.json beside a good checkpoint, and a pass through the model that comes out.  What may be asked for is
 * bounded by what the checkpoint holds. */
#define _GNU_SOURCE /* memmem */
#include <stdio.h>
#include <string.h>

#include "cambium/models.h"
#include "fuzz.h"

static const struct {
    const char *type, *path;
} models[] = {{"gpt2", "gpt2"},       {"qwen2", "qwen2"},          {"qwen3", "qwen3"},
              {"mistral", "mistral"}, {"yarn", "llama_yarn_rope"}, {"", "llama3"}};
enum { MODELS = sizeof models / sizeof *models };

static void link_models(void)
{
    for (int i = 0; i < MODELS; i++) {
        char name[64], source[96];
        snprintf(name, sizeof name, "%s/model.safetensors", models[i].path);
        snprintf(source, sizeof source, "tests/reference/models/%s", name);
        fuzz_link(name, source);
    }
}

static bool pass(cb_model *model)
{
    static const int32_t ids[] = {1, 0, 2, 3, 1};
    cb_scope *scope = cb_scope_open();
    bool ok = scope;
    cb_no_grad
    {
        cb_tensor *x = ok ? cb_from(CB_I32, ids, 1, sizeof ids / sizeof *ids) : NULL;
        ok = x && cb_model_logits(model, x, &(cb_context){0});
    }
    if (scope)
        cb_scope_close(scope);
    return ok;
}

/* The checkpoint is chosen by a word of the config. */
void fuzz_target(const uint8_t *data, size_t size)
{
    static bool linked;
    if (!linked)
        link_models();
    linked = true;
    int chosen = 0;
    while (*models[chosen].type && !memmem(data, size, models[chosen].type, strlen(models[chosen].type)))
        chosen++;
    char name[64];
    snprintf(name, sizeof name, "%s/config.json", models[chosen].path);
    fuzz_file(name, data, size);
    cb_model *model = cb_model_load(fuzz_path(models[chosen].path), .dtype = size & 1 ? CB_BF16 : CB_F32);
    if (fuzz_expect(model))
        fuzz_expect(pass(model));
    cb_model_free(model);
}
