/* blend.c: blend.json beside good adapters; what follows a zero byte is gate.safetensors and mixer.safetensors.  The model runs with what is
 * read. */
#include <stdlib.h>
#include <string.h>

#include "cambium/adapters.h"
#include "cambium/training.h"
#include "fuzz.h"

#define REFERENCE "tests/reference/"
#define LORA      REFERENCE "adapters/lora_qv/"
#define DORA      REFERENCE "adapters/dora_qv/"

static void link_parts(void)
{
    fuzz_link("blend/lora/adapter_config.json", LORA "adapter_config.json");
    fuzz_link("blend/lora/adapter_model.safetensors", LORA "adapter_model.safetensors");
    fuzz_link("blend/dora/adapter_config.json", DORA "adapter_config.json");
    fuzz_link("blend/dora/adapter_model.safetensors", DORA "adapter_model.safetensors");
}

/* A gate of features has no place in a pass of the model alone. */
static bool use(const cb_composition *c, cb_model *model)
{
    const cb_gate_options *gate = c->gate ? cb_gate_options_of(c->gate) : NULL;
    if (!gate || gate->input == CB_GATE_TASK) {
        bool ok = cb_composition_use(c, model) && fuzz_pass(model);
        cb_model_set_blend(model, NULL, NULL, NULL);
        return ok;
    }
    cb_scope *scope = cb_scope_open();
    bool ok = scope && cb_gate_weights(c->gate, cb_zeros(CB_F32, 1, gate->size));
    if (scope)
        cb_scope_close(scope);
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
    const uint8_t *zero = size ? memchr(data, 0, size) : NULL;
    size_t text = zero ? (size_t)(zero - data) : size, rest = zero ? size - text - 1 : 0;
    fuzz_file("blend/blend.json", data, text);
    fuzz_file("blend/gate.safetensors", data + size - rest, rest);
    fuzz_file("blend/mixer.safetensors", data + size - rest, rest);
    cb_composition c;
    if (fuzz_expect(cb_composition_load(&c, fuzz_path("blend"), cb_model_root(model), cb_model_type(model)))) {
        fuzz_expect(use(&c, model));
        cb_composition_free(&c);
    }
}
